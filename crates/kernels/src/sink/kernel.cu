// A block per row and head forward, a block of eight warps per head backward.

extern "C" __global__ void sink(In<float> sinks, u32 width, Out<act> o, Out<float> lse) {
    u64 t = blockIdx.x, n = blockIdx.y;
    float before = lse.at(t, n), s = sinks.p[n];
    __syncthreads(); // all have read it
    float max = larger(before, s);
    float own = expf(before - max), taken = expf(s - max);
    float share = own / (own + taken);
    for (u64 c = n * width + threadIdx.x; c < (n + 1) * width; c += blockDim.x) o.set(t, c, o.at(t, c) * share);
    if (threadIdx.x == 0) lse.set(t, n, max + logf(own + taken));
}

extern "C" __global__ void sink_back(In<float> sinks, In<act> o, In<act> d_o, In<float> lse, u32 rows, u32 width, Out<float> dsinks) {
    u64 n = blockIdx.x;
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float sum = 0.0f;
    for (u64 t = warp; t < rows; t += 8) {
        float dot = 0.0f;
        for (u64 c = n * width + lane; c < (n + 1) * width; c += 32) dot += d_o.at(t, c) * o.at(t, c);
        sum += expf(sinks.p[n] - lse.at(t, n)) * warp_sum(dot);
    }
    sum = across_warps(sum);
    if (threadIdx.x == 0) dsinks.p[n] += -sum;
}
