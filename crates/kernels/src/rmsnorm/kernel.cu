// A block per row and group of `h` columns; groups of a row are blocks' second dimension.

extern "C" __global__ void rmsnorm(In<act> x, In<float> w, float eps, u32 h, Out<act> y, Out<float> rstd) {
    u64 t = blockIdx.x, first = u64(blockIdx.y) * h;
    float sum = 0.0f;
    for (u32 c = threadIdx.x; c < h; c += blockDim.x) {
        float a = x.at(t, first + c);
        sum += a * a;
    }
    float r = 1.0f / sqrtf(block_sum(sum) / float(h) + eps);
    for (u32 c = threadIdx.x; c < h; c += blockDim.x) y.set(t, first + c, x.at(t, first + c) * r * w.p[c]);
    if (threadIdx.x == 0) rstd.set(t, blockIdx.y, r);
}

extern "C" __global__ void rmsnorm_again(In<act> x, In<float> w, In<float> rstd, u32 h, u32 cols, Out<act> y) {
    u64 t = this_row(), c = this_col();
    if (c < cols) y.set(t, c, x.at(t, c) * rstd.at(t, c / h) * w.p[c % h]);
}

extern "C" __global__ void rmsnorm_back(In<act> x, In<float> w, In<float> rstd, In<act> dy, u32 h, Out<act> dx, u32 add) {
    u64 t = blockIdx.x, first = u64(blockIdx.y) * h;
    float sum = 0.0f;
    for (u32 c = threadIdx.x; c < h; c += blockDim.x) sum += dy.at(t, first + c) * w.p[c] * x.at(t, first + c);
    float r = rstd.at(t, blockIdx.y);
    float m = block_sum(sum) * r * r / float(h);
    for (u32 c = threadIdx.x; c < h; c += blockDim.x) {
        float back = r * (dy.at(t, first + c) * w.p[c] - x.at(t, first + c) * m);
        dx.set(t, first + c, add ? dx.at(t, first + c) + back : back);
    }
}

// `dw [1, h] +=` sums over rows and groups: 32 columns a block, a warp for every eighth row, joined in the order of the warps.
extern "C" __global__ void rmsnorm_weight(In<act> x, In<float> rstd, In<act> dy, u32 rows, u32 groups, u32 h, Out<float> dw) {
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, c = blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (c < h) {
        for (u64 t = warp; t < rows; t += 8)
            for (u32 g = 0; g < groups; g++) sum += dy.at(t, u64(g) * h + c) * (x.at(t, u64(g) * h + c) * rstd.at(t, g));
    }
    sum = across_warps(sum);
    if (warp == 0 && c < h) dw.p[c] += sum;
}
