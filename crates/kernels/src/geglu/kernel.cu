// A thread per entry.

struct Gelu {
    float value, slope;
};

// (1 + tanh z / 2) / 2 is the logistic function of z. Of the amount of z, so that one minus it loses no digits.
__device__ __forceinline__ Gelu gelu(float x) {
    const float c = 0.7978845608028654f, k = 0.044715f;
    float square = x * x, z = 2.0f * c * x * (1.0f + k * square);
    float e = expf(-fabsf(z)), share = 1.0f / (1.0f + e);
    float s = z < 0.0f ? e * share : share;
    return {x * s, s + x * (e * share * share) * (2.0f * c * (1.0f + 3.0f * k * square))};
}

extern "C" __global__ void geglu(In<act> gate, In<act> up, u32 cols, Out<act> a) {
    u64 t = this_row(), c = this_col();
    if (c < cols) a.set(t, c, gelu(gate.at(t, c)).value * up.at(t, c));
}

extern "C" __global__ void geglu_back(In<act> gate, In<act> up, In<act> da, u32 cols, Out<act> dgate, Out<act> dup) {
    u64 t = this_row(), c = this_col();
    if (c >= cols) return;
    Gelu g = gelu(gate.at(t, c));
    float d = da.at(t, c), u = up.at(t, c);
    dup.set(t, c, d * g.value);
    dgate.set(t, c, d * u * g.slope);
}
