// Copies between layouts: per head `p` columns of its own, `r` shared ones, `w` of a value.

// Columns of keys, then of values.
extern "C" __global__ void latent_keys(In<act> up, In<act> rotated, u32 heads, u32 p, u32 r, u32 w, Out<act> k, Out<act> v) {
    u64 t = this_row(), c = this_col(), keys = u64(heads) * (p + r);
    if (c < keys) {
        u64 head = c / (p + r), i = c % (p + r);
        k.row(t)[c] = i < p ? up.row(t)[head * (p + w) + i] : rotated.row(t)[i - p];
    } else if (c < keys + u64(heads) * w) {
        c -= keys;
        v.row(t)[c] = up.row(t)[c / w * (p + w) + p + c % w];
    }
}

// Columns of `dup`, then the shared ones.
extern "C" __global__ void latent_keys_back(In<act> dk, In<act> dv, u32 heads, u32 p, u32 r, u32 w, Out<act> dup, Out<act> drotated) {
    u64 t = this_row(), c = this_col(), own = u64(heads) * (p + w);
    if (c < own) {
        u64 head = c / (p + w), i = c % (p + w);
        dup.row(t)[c] = i < p ? dk.row(t)[head * (p + r) + i] : dv.row(t)[head * w + i - p];
    } else if (c < own + r) {
        float sum = 0.0f;
        for (u64 head = 0; head < heads; head++) sum += dk.at(t, head * (p + r) + p + (c - own));
        drotated.set(t, c - own, sum);
    }
}
