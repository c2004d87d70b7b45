// A thread per entry.

// The activation of the gate and its derivative.
struct Gate {
    float value, slope;
};

__device__ __forceinline__ Gate silu(float x) {
    float s = sigmoid(x);
    return {x * s, s * (1.0f + x * (1.0f - s))};
}

// (1 + tanh z / 2) / 2 is the logistic function of z. Of the amount of z, so that one minus it loses no digits.
__device__ __forceinline__ Gate gelu(float x) {
    const float c = 0.7978845608028654f, k = 0.044715f;
    float square = x * x, z = 2.0f * c * x * (1.0f + k * square);
    float e = expf(-fabsf(z)), share = 1.0f / (1.0f + e);
    float s = z < 0.0f ? e * share : share;
    return {x * s, s + x * (e * share * share) * (2.0f * c * (1.0f + 3.0f * k * square))};
}

template <Gate (*g)(float)>
__device__ __forceinline__ void glu(In<act> gate, In<act> up, u32 cols, Out<act> a) {
    u64 t = this_row(), c = this_col();
    if (c < cols) a.set(t, c, g(gate.at(t, c)).value * up.at(t, c));
}

template <Gate (*g)(float)>
__device__ __forceinline__ void glu_over(In<act> up, u32 cols, Out<act> gate_to_a) {
    u64 t = this_row(), c = this_col();
    if (c < cols) gate_to_a.set(t, c, g(gate_to_a.at(t, c)).value * up.at(t, c));
}

template <Gate (*g)(float)>
__device__ __forceinline__ void glu_back(In<act> gate, In<act> up, u32 cols, Out<act> dgate, Out<act> da_to_dup) {
    u64 t = this_row(), c = this_col();
    if (c >= cols) return;
    Gate at = g(gate.at(t, c));
    float d = da_to_dup.at(t, c), u = up.at(t, c);
    da_to_dup.set(t, c, d * at.value);
    dgate.set(t, c, d * u * at.slope);
}

extern "C" __global__ void swiglu(In<act> gate, In<act> up, u32 cols, Out<act> a) {
    glu<silu>(gate, up, cols, a);
}

extern "C" __global__ void geglu(In<act> gate, In<act> up, u32 cols, Out<act> a) {
    glu<gelu>(gate, up, cols, a);
}

extern "C" __global__ void swiglu_over(In<act> up, u32 cols, Out<act> gate_to_a) {
    glu_over<silu>(up, cols, gate_to_a);
}

extern "C" __global__ void geglu_over(In<act> up, u32 cols, Out<act> gate_to_a) {
    glu_over<gelu>(up, cols, gate_to_a);
}

extern "C" __global__ void swiglu_back(In<act> gate, In<act> up, u32 cols, Out<act> dgate, Out<act> da_to_dup) {
    glu_back<silu>(gate, up, cols, dgate, da_to_dup);
}

extern "C" __global__ void geglu_back(In<act> gate, In<act> up, u32 cols, Out<act> dgate, Out<act> da_to_dup) {
    glu_back<gelu>(gate, up, cols, dgate, da_to_dup);
}
