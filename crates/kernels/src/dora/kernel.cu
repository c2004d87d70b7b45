// Lengths of rows, columns brought to a length, and the gradient of that length.

extern "C" __global__ void row_norms(In<float> w, u32 cols, float* norms) {
    u64 o = blockIdx.x;
    float sum = 0.0f;
    for (u64 c = threadIdx.x; c < cols; c += blockDim.x) sum += w.at(o, c) * w.at(o, c);
    sum = block_sum(sum);
    if (threadIdx.x == 0) norms[o] = sqrtf(sum);
}

extern "C" __global__ void scale_columns(In<float> m, In<float> n, u32 cols, Out<act> y) {
    u64 t = this_row(), c = this_col();
    if (c < cols) y.set(t, c, y.at(t, c) * (m.p[c] / n.p[c]));
}

extern "C" __global__ void magnitude_back(In<act> dy, In<act> z, In<float> n, u32 rows, u32 cols, Out<float> dm) {
    u32 warp = threadIdx.x / 32, c = blockIdx.x * 32 + threadIdx.x % 32;
    float sum = 0.0f;
    if (c < cols)
        for (u64 t = warp; t < rows; t += 8) sum += dy.at(t, c) * z.at(t, c);
    sum = across_warps(sum);
    if (warp == 0 && c < cols) dm.p[c] += sum / n.p[c];
}
