// A thread per pair.

struct Parts {
    float gate, up, s;
};

__device__ __forceinline__ Parts parts(float alpha, float limit, float gate, float up) {
    gate = gate > limit ? limit : gate;
    up = up > limit ? limit : up;
    up = up < -limit ? -limit : up;
    return {gate, up, sigmoid(alpha * gate)};
}

extern "C" __global__ void clamped_glu(In<act> x, float alpha, float limit, u32 cols, Out<act> a) {
    u64 t = this_row(), c = this_col();
    if (c >= cols) return;
    Parts p = parts(alpha, limit, x.at(t, 2 * c), x.at(t, 2 * c + 1));
    a.set(t, c, (p.up + 1.0f) * (p.gate * p.s));
}

extern "C" __global__ void clamped_glu_back(In<act> x, In<act> da, float alpha, float limit, u32 cols, Out<act> dx) {
    u64 t = this_row(), c = this_col();
    if (c >= cols) return;
    float gate = x.at(t, 2 * c), up = x.at(t, 2 * c + 1), d = da.at(t, c);
    Parts p = parts(alpha, limit, gate, up);
    float dgate = d * (p.up + 1.0f) * (p.s * (1.0f + alpha * p.gate * (1.0f - p.s)));
    dx.set(t, 2 * c, gate > limit ? 0.0f : dgate);
    dx.set(t, 2 * c + 1, up > limit || up < -limit ? 0.0f : d * (p.gate * p.s));
}
