// Plain attention, the oracle of the kernel on tensor cores: a warp per row and head, lanes are keys for scores and columns for sums.
//
// Q_REGISTERS and V_REGISTERS are the columns of a query and of a value that a lane sums, widths / 32 rounded up.

// A row of keys or values at a position of what a span sees.
struct Keys {
    In<act> context, own;
    Span span;
    __device__ __forceinline__ const act* row(u32 position) const {
        return position < span.length ? context.row(span.context + position) : own.row(span.first + position - span.length);
    }
};

__device__ __forceinline__ float dot(const act* a, const act* b, u32 n) {
    float sum = 0.0f;
    for (u32 c = 0; c < n; c++) sum += to_float(a[c]) * to_float(b[c]);
    return sum;
}

extern "C" __global__ void attention(In<act> q, In<act> k, In<act> v, In<act> ck, In<act> cv, const u32* span_of_row, const u32* spans,
                                     const float* numbers, Out<act> o, Out<float> lse) {
    Shape s = shape_of(numbers);
    u32 t = blockIdx.x, n = blockIdx.y, lane = threadIdx.x;
    if (span_of_row[t] == ALL) return;
    Span span = span_of(spans, span_of_row[t]);
    u32 head = n / s.group, position = span.length + t - span.first;
    Keys keys = {ck, k, span}, values = {cv, v, span};
    const act* own = q.row(t) + n * s.qk;
    float max = -infinity(), sum = 0.0f, mixed[V_REGISTERS] = {}, slope;
    for (u32 base = first_seen(s, position); base <= position; base += 32) {
        u32 key = base + lane;
        float score = -infinity();
        if (key <= position) score = capped(s, s.scale * dot(own, keys.row(key) + head * s.qk, s.qk), slope);
        float grown = larger(max, warp_max(score));
        float shrink = expf(max - grown), p = key <= position ? expf(score - grown) : 0.0f;
        max = grown;
        sum = sum * shrink + warp_sum(p);
        for (u32 i = 0; i < V_REGISTERS; i++) mixed[i] *= shrink;
        u32 seen = position - base < 32 ? position - base + 1 : 32;
        for (u32 j = 0; j < seen; j++) {
            float weight = __shfl_sync(ALL, p, j);
            const act* value = values.row(base + j) + head * s.v;
            for (u32 i = 0; i < V_REGISTERS; i++)
                if (lane + 32 * i < s.v) mixed[i] += weight * to_float(value[lane + 32 * i]);
        }
    }
    for (u32 i = 0; i < V_REGISTERS; i++)
        if (lane + 32 * i < s.v) o.set(t, n * s.v + lane + 32 * i, mixed[i] / sum);
    if (lane == 0 && lse.p) lse.set(t, n, max + logf(sum));
}

// `do . o` of every row and head.
extern "C" __global__ void attention_deltas(In<act> o, In<act> d_o, u32 width, Out<float> deltas) {
    u64 t = blockIdx.x, n = blockIdx.y;
    float sum = 0.0f;
    for (u64 c = n * width + threadIdx.x; c < (n + 1) * width; c += 32) sum += o.at(t, c) * d_o.at(t, c);
    sum = warp_sum(sum);
    if (threadIdx.x == 0) deltas.set(t, n, sum);
}

extern "C" __global__ void attention_dq(In<act> q, In<act> k, In<act> v, In<act> d_o, In<float> lse, In<float> deltas,
                                        const u32* span_of_row, const u32* spans, const float* numbers, Out<act> dq) {
    Shape s = shape_of(numbers);
    u32 t = blockIdx.x, n = blockIdx.y, lane = threadIdx.x;
    if (span_of_row[t] == ALL) return;
    Span span = span_of(spans, span_of_row[t]);
    u32 head = n / s.group, position = span.length + t - span.first;
    Keys keys = {k, k, span}, values = {v, v, span};
    const act *own = q.row(t) + n * s.qk, *d_own = d_o.row(t) + n * s.v;
    float total = lse.at(t, n), delta = deltas.at(t, n), sums[Q_REGISTERS] = {};
    for (u32 base = first_seen(s, position); base <= position; base += 32) {
        u32 key = base + lane;
        float ds = 0.0f;
        if (key <= position) {
            float slope, score = capped(s, s.scale * dot(own, keys.row(key) + head * s.qk, s.qk), slope);
            ds = expf(score - total) * (dot(d_own, values.row(key) + head * s.v, s.v) - delta) * slope;
        }
        u32 seen = position - base < 32 ? position - base + 1 : 32;
        for (u32 j = 0; j < seen; j++) {
            float weight = __shfl_sync(ALL, ds, j);
            const act* row = keys.row(base + j) + head * s.qk;
            for (u32 i = 0; i < Q_REGISTERS; i++)
                if (lane + 32 * i < s.qk) sums[i] += weight * to_float(row[lane + 32 * i]);
        }
    }
    for (u32 i = 0; i < Q_REGISTERS; i++)
        if (lane + 32 * i < s.qk) dq.set(t, n * s.qk + lane + 32 * i, s.scale * sums[i]);
}

// A warp per key and key/value head: all rows that see it, span by span, head by head, row by row; lanes are rows for scores.
// `readers` begins with where each span's readers begin, one more at the end; they are numbers of spans.
extern "C" __global__ void attention_dkv(In<act> q, In<act> k, In<act> v, In<act> d_o, In<float> lse, In<float> deltas,
                                         const u32* span_of_row, const u32* spans, const u32* readers, const float* numbers,
                                         Out<act> dk, Out<act> dv) {
    Shape s = shape_of(numbers);
    u32 r = blockIdx.x, head = blockIdx.y, lane = threadIdx.x;
    u32 owner = span_of_row[r];
    if (owner == ALL) return;
    const act *key = k.row(r) + head * s.qk, *value = v.row(r) + head * s.v;
    float k_sums[Q_REGISTERS] = {}, v_sums[V_REGISTERS] = {};
    for (u32 reader = readers[owner]; reader < readers[owner + 1]; reader++) {
        Span span = span_of(spans, readers[reader]);
        bool itself = readers[reader] == owner;
        if (!itself && (r < span.context || r >= span.context + span.length)) continue;
        // Position of the key as the reader counts, and the rows of the reader that see it.
        u32 position = itself ? span.length + r - span.first : r - span.context;
        u32 begin = position > span.length ? position - span.length : 0, end = span.rows;
        if (s.window) {
            u32 past = position + s.window;
            end = past <= span.length ? 0 : past - span.length < end ? past - span.length : end;
        }
        for (u32 n = head * s.group; n < (head + 1) * s.group; n++) {
            for (u32 base = begin; base < end; base += 32) {
                u32 t = span.first + base + lane;
                float p = 0.0f, ds = 0.0f;
                if (base + lane < end) {
                    float slope, score = capped(s, s.scale * dot(q.row(t) + n * s.qk, key, s.qk), slope);
                    p = expf(score - lse.at(t, n));
                    ds = p * (dot(d_o.row(t) + n * s.v, value, s.v) - deltas.at(t, n)) * slope;
                }
                u32 count = end - base < 32 ? end - base : 32;
                for (u32 j = 0; j < count; j++) {
                    float weight = __shfl_sync(ALL, p, j), d_weight = __shfl_sync(ALL, ds, j);
                    u64 row = span.first + base + j;
                    for (u32 i = 0; i < V_REGISTERS; i++)
                        if (lane + 32 * i < s.v) v_sums[i] += weight * d_o.at(row, n * s.v + lane + 32 * i);
                    for (u32 i = 0; i < Q_REGISTERS; i++)
                        if (lane + 32 * i < s.qk) k_sums[i] += d_weight * q.at(row, n * s.qk + lane + 32 * i);
                }
            }
        }
    }
    for (u32 i = 0; i < Q_REGISTERS; i++)
        if (lane + 32 * i < s.qk) dk.set(r, head * s.qk + lane + 32 * i, s.scale * k_sums[i]);
    for (u32 i = 0; i < V_REGISTERS; i++)
        if (lane + 32 * i < s.v) dv.set(r, head * s.v + lane + 32 * i, v_sums[i]);
}
