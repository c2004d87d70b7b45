// Tiles of rows by vocabulary: running softmax statistics of every row, and what the products of backward need of a tile.
//
// A cap of 0 means none; otherwise a tile's logits become `cap * tanh(logit / cap)`.

// What is known of a row so far; all words are f32 but `argmax`.
struct State {
    float max, sum, weighted, total, target, slope;
    u32 argmax, unused;
};

extern "C" __global__ void head_begin(u32 rows, State* states) {
    u32 s = blockIdx.x * blockDim.x + threadIdx.x;
    if (s < rows) states[s] = {-infinity(), 0.0f, 0.0f, 0.0f, -infinity(), 1.0f, 0, 0};
}

__device__ __forceinline__ float capped(float x, float cap) { return cap == 0.0f ? x : cap * tanhf(x / cap); }

// Of a capped logit.
__device__ __forceinline__ float slope_of(float x, float cap) { return cap == 0.0f ? 1.0f : 1.0f - (x / cap) * (x / cap); }

// Takes a tile of `n` entries from `first` on into the rows' states. Where `p` is given it receives `exp(logit - max) * slope`, and
// the sums in `unit [rows, d]` shrink to the new maximum.
extern "C" __global__ void head_absorb(Out<float> logits, u32 first, u32 n, const u32* tokens, float cap, u32 extra, Out<act> p,
                                       Out<float> unit, u32 d, State* states) {
    u64 s = blockIdx.x;
    State old = states[s];
    u32 token = tokens[s];
    float max = -infinity();
    for (u32 c = threadIdx.x; c < n; c += blockDim.x) {
        float x = capped(logits.at(s, c), cap);
        if (cap != 0.0f) logits.set(s, c, x);
        max = larger(max, x);
    }
    float tile_max = block_max(max);
    max = larger(old.max, tile_max);
    float shrink = old.max == max ? 1.0f : expf(old.max - max);
    float sum = 0.0f, weighted = 0.0f, total = 0.0f, place = -infinity();
    for (u32 c = threadIdx.x; c < n; c += blockDim.x) {
        float x = logits.at(s, c), e = expf(x - max);
        sum += e;
        weighted += e * x;
        total += x;
        if (p.p) p.set(s, c, e * slope_of(x, cap));
        if (x == tile_max) place = larger(place, -float(c));
    }
    sum = block_sum(sum);
    if (extra) {
        weighted = block_sum(weighted);
        total = block_sum(total);
        place = block_max(place);
    }
    if (unit.p && shrink != 1.0f)
        for (u32 c = threadIdx.x; c < d; c += blockDim.x) unit.set(s, c, shrink == 0.0f ? 0.0f : unit.at(s, c) * shrink);
    if (threadIdx.x > 0) return;
    State now = old;
    now.max = max;
    now.sum = old.sum * shrink + sum;
    now.weighted = old.weighted * shrink + weighted;
    now.total = old.total + total;
    if (token >= first && token - first < n) {
        now.target = logits.at(s, token - first);
        now.slope = slope_of(now.target, cap);
    }
    if (extra && tile_max > old.max) now.argmax = first + u32(-place);
    states[s] = now;
}

// `unit = slope * w[token] - sums / sum`.
extern "C" __global__ void head_unit(In<float> sums, In<act> own, const State* states, u32 d, Out<act> unit) {
    u64 s = this_row(), c = this_col();
    if (c < d) unit.set(s, c, states[s].slope * own.at(s, c) - sums.at(s, c) / states[s].sum);
}

// `coefficient * (onehot(token) - exp(logit - lse)) * slope` of a tile.
extern "C" __global__ void head_dlogits(In<float> logits, u32 first, u32 n, const u32* tokens, const float* coefficient,
                                        const float* lse, float cap, Out<act> dlogits) {
    u64 s = this_row(), c = this_col();
    if (c >= n) return;
    float x = capped(logits.at(s, c), cap), k = coefficient[s];
    float d = -(k * expf(x - lse[s]));
    if (tokens[s] == first + c) d += k;
    dlogits.set(s, c, d * slope_of(x, cap));
}

// Logits between a tile `[rows, n]` and what is kept, `[entries, rows]`; blocks are entries.
extern "C" __global__ void head_keep(In<float> logits, u32 rows, Out<float> kept) {
    u64 c = this_row(), s = this_col();
    if (s < rows) kept.set(c, s, logits.at(s, c));
}

extern "C" __global__ void head_recall(In<float> kept, u32 rows, Out<float> logits) {
    u64 c = this_row(), s = this_col();
    if (s < rows) logits.set(s, c, kept.at(c, s));
}

extern "C" __global__ void head_copy(In<float> x, u32 cols, Out<float> y) {
    u64 s = this_row(), c = this_col();
    if (c < cols) y.set(s, c, x.at(s, c));
}
