// A warp per row and head over pages of 16 rows, in the order of positions: what a row gets depends on its sequence alone.

// `places`: per row its position, and where its sequence's pages begin in `pages`.
extern "C" __global__ void paged(In<act> q, In<act> k, In<act> v, const u32* places, const u32* pages, const float* numbers, Out<act> o,
                                 Out<float> lse) {
    Shape s = shape_of(numbers);
    u32 t = blockIdx.x, n = blockIdx.y, lane = threadIdx.x, head = n / s.group;
    if (places[2 * t] == ALL) return;
    u32 position = places[2 * t];
    const u32* own = pages + places[2 * t + 1];
    const act* query = q.row(t) + n * s.qk;
    float max = -infinity(), sum = 0.0f, mixed[V_REGISTERS] = {};
    // From the beginning of a page, so that lanes hold the same positions whatever the window.
    u32 first = first_seen(s, position);
    for (u32 base = first / 32 * 32; base <= position; base += 32) {
        u32 key = base + lane;
        bool live = key >= first && key <= position;
        float score = -infinity();
        if (live) {
            const act* row = k.row(u64(own[key / 16]) * 16 + key % 16) + head * s.qk;
            score = 0.0f;
            for (u32 c = 0; c < s.qk; c++) score += to_float(query[c]) * to_float(row[c]);
            float slope;
            score = capped(s, score * s.scale, slope);
        }
        float grown = larger(max, warp_max(score));
        float shrink = expf(max - grown), p = live ? expf(score - grown) : 0.0f;
        max = grown;
        sum = sum * shrink + warp_sum(p);
        for (u32 i = 0; i < V_REGISTERS; i++) mixed[i] *= shrink;
        u32 from = first > base ? first - base : 0, to = position - base < 32 ? position - base + 1 : 32;
        for (u32 j = from; j < to; j++) {
            float weight = __shfl_sync(ALL, p, j);
            const act* row = v.row(u64(own[(base + j) / 16]) * 16 + (base + j) % 16) + head * s.v;
            for (u32 i = 0; i < V_REGISTERS; i++)
                if (lane + 32 * i < s.v) mixed[i] += weight * to_float(row[lane + 32 * i]);
        }
    }
    for (u32 i = 0; i < V_REGISTERS; i++)
        if (lane + 32 * i < s.v) o.set(t, n * s.v + lane + 32 * i, mixed[i] / sum);
    if (lane == 0) lse.set(t, n, max + logf(sum));
}
