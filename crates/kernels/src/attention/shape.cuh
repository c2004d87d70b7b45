// What every attention kernel is told of its layer and its spans.

struct Shape {
    u32 group, qk, v, window;
    float scale, cap;
};

struct Span {
    u32 first, rows, context, length;
};

__device__ __forceinline__ Shape shape_of(const float* numbers) {
    const u32* n = (const u32*)numbers;
    return {n[0], n[1], n[2], n[3], numbers[4], numbers[5]};
}

__device__ __forceinline__ Span span_of(const u32* spans, u32 i) {
    return {spans[4 * i], spans[4 * i + 1], spans[4 * i + 2], spans[4 * i + 3]};
}

// The score as the softmax sees it, and the derivative of its cap.
__device__ __forceinline__ float capped(const Shape& s, float score, float& slope) {
    slope = 1.0f;
    if (s.cap == 0.0f) return score;
    float t = tanhf(score / s.cap);
    slope = 1.0f - t * t;
    return s.cap * t;
}

// First position that a row at `position` sees.
__device__ __forceinline__ u32 first_seen(const Shape& s, u32 position) {
    return s.window && position + 1 > s.window ? position + 1 - s.window : 0;
}

