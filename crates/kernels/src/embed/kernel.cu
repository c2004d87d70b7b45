// `dw[token[t]] += dx[t]`, in row order: a block per row, of which the first with its token adds up all of them.

extern "C" __global__ void embed_back(In<u32> tokens, In<act> dx, u32 rows, u32 cols, Out<float> dw) {
    u64 t = blockIdx.x;
    u32 token = tokens.p[t * tokens.ld];
    float met = 0.0f;
    for (u64 i = threadIdx.x; i < t; i += blockDim.x)
        if (tokens.p[i * tokens.ld] == token) met = 1.0f;
    if (block_max(met) > 0.0f) return;
    for (u64 c = threadIdx.x; c < cols; c += blockDim.x) {
        float sum = dw.at(token, c);
        for (u64 i = t; i < rows; i++)
            if (tokens.p[i * tokens.ld] == token) sum += dx.at(i, c);
        dw.set(token, c, sum);
    }
}
