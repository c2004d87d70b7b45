// Stored weights as numbers, one thread per entry: rows `first ..` of a tensor of `cols` columns, or those that `rows` names.

#define ENTRY                                   \
    u64 r = this_row(), c = this_col();         \
    if (c >= cols) return;                      \
    u64 i = (rows.p ? u64(rows.p[r * rows.ld]) : first + r) * cols + c;

extern "C" __global__ void unpack_f32(const float* w, In<u32> rows, u32 first, u32 cols, Out<act> y) {
    ENTRY
    y.set(r, c, w[i]);
}

extern "C" __global__ void unpack_bf16(const bf16* w, In<u32> rows, u32 first, u32 cols, Out<act> y) {
    ENTRY
    y.set(r, c, to_float(w[i]));
}

extern "C" __global__ void unpack_f16(const unsigned short* w, In<u32> rows, u32 first, u32 cols, Out<act> y) {
    ENTRY
    y.set(r, c, from_half(w[i]));
}

extern "C" __global__ void unpack_mxfp4(const u8* w, In<u32> rows, u32 first, u32 cols, Out<act> y) {
    ENTRY
    y.set(r, c, mxfp4_at(w, i));
}

extern "C" __global__ void unpack_code4(const u8* w, const Codes* how, In<u32> rows, u32 first, u32 cols, Out<act> y) {
    ENTRY
    y.set(r, c, code4_at(w, *how, i));
}

extern "C" __global__ void unpack_code8(const u8* w, const Codes* how, In<u32> rows, u32 first, u32 cols, Out<act> y) {
    ENTRY
    y.set(r, c, code8_at(w, *how, i));
}

extern "C" __global__ void round_rows(In<float> x, In<u32> rows, u32 cols, Out<act> y) {
    u64 r = this_row(), c = this_col();
    if (c < cols) y.set(r, c, x.at(rows.p ? rows.p[r * rows.ld] : r, c));
}

extern "C" __global__ void widen_rows(In<bf16> x, In<u32> rows, u32 cols, Out<act> y) {
    u64 r = this_row(), c = this_col();
    if (c < cols) y.set(r, c, x.at(rows.p ? rows.p[r * rows.ld] : r, c));
}
