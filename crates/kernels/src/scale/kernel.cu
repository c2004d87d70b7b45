// Factors of rows, and their gradients.

extern "C" __global__ void scale_all(float alpha, u32 cols, Out<act> y) {
    u64 t = this_row(), c = this_col();
    if (c < cols) y.set(t, c, y.at(t, c) * alpha);
}

extern "C" __global__ void scale_rows(const float* scale, u32 cols, Out<act> y) {
    u64 t = this_row(), c = this_col();
    if (c < cols) y.set(t, c, y.at(t, c) * scale[t]);
}

extern "C" __global__ void row_dots(In<act> a, In<act> b, u32 cols, float* dots) {
    u64 t = blockIdx.x;
    float sum = 0.0f;
    for (u64 c = threadIdx.x; c < cols; c += blockDim.x) sum += a.at(t, c) * b.at(t, c);
    sum = block_sum(sum);
    if (threadIdx.x == 0) dots[t] = sum;
}

extern "C" __global__ void sigmoids(In<act> x, u64 rows, float* y) {
    u64 t = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (t < rows) y[t] = sigmoid(x.at(t, 0));
}

extern "C" __global__ void column(const float* values, u64 rows, Out<act> y) {
    u64 t = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (t < rows) y.set(t, 0, values[t]);
}

extern "C" __global__ void one_plus(In<float> w, u32 cols, Out<float> y) {
    u64 c = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (c < cols) y.p[c] = 1.0f + w.p[c];
}
