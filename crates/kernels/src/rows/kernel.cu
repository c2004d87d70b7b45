// Movement and addition of rows, and dropout.

extern "C" __global__ void add_rows(In<act> x, u32 cols, Out<act> y) {
    u64 t = this_row(), c = this_col();
    if (c < cols) y.set(t, c, y.at(t, c) + x.at(t, c));
}

extern "C" __global__ void copy_rows(In<act> x, u32 cols, Out<act> y) {
    u64 t = this_row(), c = this_col();
    if (c < cols) y.row(t)[c] = x.row(t)[c];
}

extern "C" __global__ void add_bias(In<float> bias, u32 cols, Out<act> y) {
    u64 t = this_row(), c = this_col();
    if (c < cols) y.set(t, c, y.at(t, c) + bias.p[c]);
}

extern "C" __global__ void bias_back(In<act> dy, u32 rows, u32 cols, Out<float> db) {
    u32 warp = threadIdx.x / 32, c = blockIdx.x * 32 + threadIdx.x % 32;
    float sum = 0.0f;
    if (c < cols)
        for (u64 t = warp; t < rows; t += 8) sum += dy.at(t, c);
    sum = across_warps(sum);
    if (warp == 0 && c < cols) db.p[c] += sum;
}

extern "C" __global__ void gather(In<act> x, const u32* rows, u32 cols, Out<act> y) {
    u64 s = this_row(), c = this_col();
    if (c < cols) y.row(s)[c] = x.row(rows[s])[c];
}

extern "C" __global__ void scatter(In<act> x, const u32* rows, u32 cols, Out<act> y) {
    u64 s = this_row(), c = this_col();
    if (c < cols) y.row(rows[s])[c] = x.row(s)[c];
}

// `places`: per row that is added into, its number and where its sources begin in `sources`; one more at the end.
extern "C" __global__ void scatter_add(In<act> x, const u32* places, const u32* sources, const float* scale, u32 cols, Out<act> y) {
    u64 i = this_row(), c = this_col();
    if (c >= cols) return;
    u64 row = places[2 * i];
    float sum = y.at(row, c);
    for (u32 k = places[2 * i + 1]; k < places[2 * i + 3]; k++) {
        u64 s = sources[k];
        sum += (scale ? scale[s] : 1.0f) * x.at(s, c);
    }
    y.set(row, c, sum);
}

// The CPU's hash: SplitMix64's finaliser over key and row, MurmurHash3's over the column.
__device__ __forceinline__ u64 mix(u64 x) {
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

__device__ __forceinline__ u32 mix_32(u32 x) {
    x += 0x9e3779b9u;
    x = (x ^ (x >> 16)) * 0x85ebca6bu;
    x = (x ^ (x >> 13)) * 0xc2b2ae35u;
    return x ^ (x >> 16);
}

extern "C" __global__ void dropout(In<act> x, u64 key, u32 threshold, float scale, u32 cols, u32 add, Out<act> y) {
    u64 t = this_row(), c = this_col();
    if (c >= cols) return;
    u32 hash = u32(mix(key ^ mix(t)) >> 32);
    float kept = mix_32(hash ^ mix_32(u32(c))) >= threshold ? x.at(t, c) * scale : 0.0f;
    y.set(t, c, add ? y.at(t, c) + kept : kept);
}
