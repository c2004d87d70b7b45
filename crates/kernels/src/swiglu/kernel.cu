// A thread per entry.

extern "C" __global__ void swiglu(In<act> gate, In<act> up, u32 cols, Out<act> a) {
    u64 t = this_row(), c = this_col();
    if (c >= cols) return;
    float g = gate.at(t, c);
    a.set(t, c, g * sigmoid(g) * up.at(t, c));
}

extern "C" __global__ void swiglu_back(In<act> gate, In<act> up, In<act> da, u32 cols, Out<act> dgate, Out<act> dup) {
    u64 t = this_row(), c = this_col();
    if (c >= cols) return;
    float g = gate.at(t, c), u = up.at(t, c), d = da.at(t, c), s = sigmoid(g);
    dup.set(t, c, d * (g * s));
    dgate.set(t, c, d * u * (s * (1.0f + g * (1.0f - s))));
}
