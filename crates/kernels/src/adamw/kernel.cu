// One pass over the four arrays; the norm in blocks of 2^14 entries.

extern "C" __global__ void adamw(Out<float> p, In<float> g, Out<float> m, Out<float> v, u64 n, const float* numbers) {
    u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float b1 = numbers[0], b2 = numbers[1], c1 = numbers[2], c2 = numbers[3], decay = numbers[4], rate = numbers[5];
    float eps = numbers[6], scale = numbers[7], root = numbers[8];
    float grad = g.p[i] * scale;
    float first = b1 * m.p[i] + c1 * grad, second = b2 * v.p[i] + c2 * (grad * grad);
    m.p[i] = first;
    v.p[i] = second;
    p.p[i] = p.p[i] * decay - rate * (first / (sqrtf(second) / root + eps));
}

extern "C" __global__ void square_norm(In<float> g, u64 n, double* sums) {
    u64 first = u64(blockIdx.x) << 14, end = first + (1u << 14);
    if (end > n) end = n;
    double sum = 0.0;
    for (u64 i = first + threadIdx.x; i < end; i += blockDim.x) sum += double(g.p[i]) * double(g.p[i]);
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
