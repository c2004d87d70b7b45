// A thread per rotated pair; pairs of all heads of a row are its columns.

extern "C" __global__ void rope(Out<act> x, In<u32> positions, In<float> cos, In<float> sin, u32 half, u32 heads, u32 width,
                                u32 offset, u32 interleaved, float sign) {
    u64 t = this_row(), c = this_col();
    if (c >= u64(heads) * half) return;
    u32 head = u32(c / half), i = u32(c % half);
    u64 first = u64(head) * width + offset;
    u64 at = first + (interleaved ? 2 * i : i), other = interleaved ? at + 1 : at + half;
    u64 p = positions.p[t * positions.ld];
    float a = x.at(t, at), b = x.at(t, other), s = sin.at(p, i) * sign, k = cos.at(p, i);
    x.set(t, at, a * k - b * s);
    x.set(t, other, b * k + a * s);
}
