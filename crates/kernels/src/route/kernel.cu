// A thread per row: experts are few, so the choice is a plain search. `scratch` has a row of numbers for each.

// Keeps the sum that weights are divided by away from zero.
static const float TINY = 1e-20f;

enum Gating { SOFTMAX = 0, SOFTMAX_OF_CHOSEN = 1, SIGMOID = 2 };

struct Shape {
    u32 rows, experts, chosen, gating, groups, kept_groups, normalise;
};

__device__ __forceinline__ Shape shape_of(const u32* n) { return {n[0], n[1], n[2], n[3], n[4], n[5], n[6]}; }

// Softmax in place.
__device__ void softmax(float* x, u32 n) {
    float max = -infinity(), sum = 0.0f;
    for (u32 i = 0; i < n; i++) max = larger(max, x[i]);
    for (u32 i = 0; i < n; i++) {
        x[i] = expf(x[i] - max);
        sum += x[i];
    }
    float scale = 1.0f / sum;
    for (u32 i = 0; i < n; i++) x[i] *= scale;
}

__device__ __forceinline__ bool among(u32 e, const u32* chosen, u32 n) {
    for (u32 i = 0; i < n; i++)
        if (chosen[i] == e) return true;
    return false;
}

// The indices of the largest entries, largest first, the first of equals first.
__device__ void largest(const float* x, u32 n, u32* chosen, u32 count) {
    for (u32 k = 0; k < count; k++) {
        u32 best = n;
        for (u32 i = 0; i < n; i++)
            if (!among(i, chosen, k) && (best == n || x[i] > x[best])) best = i;
        chosen[k] = best;
    }
}

// The sum of a group's two best.
__device__ float best_two(const float* x, u32 n) {
    float first = -infinity(), second = -infinity();
    for (u32 i = 0; i < n; i++) {
        if (x[i] > first) {
            second = first;
            first = x[i];
        } else if (x[i] > second) {
            second = x[i];
        }
    }
    return n > 1 ? first + second : first;
}

// Replaces the entries of all groups but the best by minus infinity: a group stays when fewer than `kept` are better, the first of
// equals being the better one. `scores` has room for the groups.
__device__ void keep_groups(float* x, u32 n, u32 groups, u32 kept, float* scores) {
    u32 width = n / groups;
    for (u32 g = 0; g < groups; g++) scores[g] = best_two(x + g * width, width);
    for (u32 g = 0; g < groups; g++) {
        u32 better = 0;
        for (u32 o = 0; o < groups; o++) better += scores[o] > scores[g] || (scores[o] == scores[g] && o < g);
        if (better >= kept)
            for (u32 i = 0; i < width; i++) x[g * width + i] = -infinity();
    }
}

extern "C" __global__ void route(In<act> logits, const float* correction, const u32* numbers, float scale, float* scratch,
                                 u32* experts, float* weights) {
    Shape s = shape_of(numbers);
    u64 t = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (t >= s.rows) return;
    float* x = scratch + t * 2 * s.experts;
    u32* chosen = experts + t * s.chosen;
    float* w = weights + t * s.chosen;
    for (u32 e = 0; e < s.experts; e++) {
        float logit = logits.at(t, e);
        x[e] = s.gating == SIGMOID ? sigmoid(logit) + (correction ? correction[e] : 0.0f) : logit;
    }
    if (s.gating == SIGMOID && s.kept_groups < s.groups) keep_groups(x, s.experts, s.groups, s.kept_groups, x + s.experts);
    largest(x, s.experts, chosen, s.chosen);
    if (s.gating == SOFTMAX) softmax(x, s.experts);
    float sum = 0.0f;
    for (u32 k = 0; k < s.chosen; k++) {
        w[k] = s.gating == SIGMOID ? sigmoid(logits.at(t, chosen[k])) : x[chosen[k]];
        sum += w[k];
    }
    if (s.gating == SOFTMAX_OF_CHOSEN) softmax(w, s.chosen);
    if (s.gating == SIGMOID) {
        float factor = s.normalise ? scale / (sum + TINY) : scale;
        for (u32 k = 0; k < s.chosen; k++) w[k] *= factor;
    }
}

extern "C" __global__ void route_probabilities(In<act> logits, u32 rows, u32 experts, float* p) {
    u64 t = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (t >= rows) return;
    for (u32 e = 0; e < experts; e++) p[t * experts + e] = logits.at(t, e);
    softmax(p + t * experts, experts);
}

extern "C" __global__ void route_load(const float* p, const float* counts, u32 rows, u32 experts, double* load) {
    u32 warp = threadIdx.x / 32, e = blockIdx.x * 32 + threadIdx.x % 32;
    double sum = 0.0;
    if (e < experts)
        for (u64 t = warp; t < rows; t += 8)
            if (counts[t] != 0.0f) sum += double(counts[t]) * double(p[t * experts + e]);
    sum = across_warps(sum);
    if (warp == 0 && e < experts) load[e] = sum;
}

// `counts` and `push` are null without a balancing loss.
extern "C" __global__ void route_back(In<act> logits, const u32* numbers, float scale, const u32* experts, const float* weights,
                                      const float* dweights, const float* counts, const float* push, float* scratch, Out<act> dlogits) {
    Shape s = shape_of(numbers);
    u64 t = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (t >= s.rows) return;
    const u32* chosen = experts + t * s.chosen;
    const float *w = weights + t * s.chosen, *dw = dweights + t * s.chosen;
    float *p = scratch + t * 2 * s.experts, *d = p + s.experts;
    float weighted = 0.0f, sum = TINY;
    for (u32 k = 0; k < s.chosen; k++) {
        weighted += dw[k] * w[k];
        sum += sigmoid(logits.at(t, chosen[k]));
    }
    for (u32 e = 0; e < s.experts; e++) p[e] = logits.at(t, e);
    if (s.gating == SOFTMAX || push) softmax(p, s.experts);
    for (u32 e = 0; e < s.experts; e++) d[e] = s.gating == SOFTMAX ? -(p[e] * weighted) : 0.0f;
    for (u32 k = 0; k < s.chosen; k++) {
        u32 e = chosen[k];
        if (s.gating == SOFTMAX) d[e] += w[k] * dw[k];
        if (s.gating == SOFTMAX_OF_CHOSEN) d[e] = w[k] * (dw[k] - weighted);
        if (s.gating == SIGMOID) {
            float own = sigmoid(logits.at(t, e));
            float slope = s.normalise ? (scale * dw[k] - weighted) / sum : scale * dw[k];
            d[e] = slope * own * (1.0f - own);
        }
    }
    if (push) {
        float mean = 0.0f;
        for (u32 e = 0; e < s.experts; e++) mean += p[e] * push[e];
        for (u32 e = 0; e < s.experts; e++) d[e] += counts[t] * p[e] * (push[e] - mean);
    }
    for (u32 e = 0; e < s.experts; e++) dlogits.set(t, e, d[e]);
}
