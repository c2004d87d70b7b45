// Biases of experts; `expert` names the one of each row, `runs` where each one's rows begin and end.

extern "C" __global__ void grouped_bias(In<float> bias, const u32* expert, const float* scale, u32 cols, Out<act> y) {
    u64 s = this_row(), c = this_col();
    if (c < cols) y.set(s, c, y.at(s, c) + (scale ? scale[s] : 1.0f) * bias.at(expert[s], c));
}

extern "C" __global__ void grouped_bias_back(In<act> dy, const u32* runs, const float* scale, u32 cols, Out<float> db) {
    u32 warp = threadIdx.x / 32, c = blockIdx.x * 32 + threadIdx.x % 32, e = blockIdx.y;
    float sum = 0.0f;
    if (c < cols)
        for (u64 s = runs[2 * e] + warp; s < runs[2 * e + 1]; s += 8) sum += (scale ? scale[s] : 1.0f) * dy.at(s, c);
    sum = across_warps(sum);
    if (warp == 0 && c < cols) db.set(e, c, db.at(e, c) + sum);
}
