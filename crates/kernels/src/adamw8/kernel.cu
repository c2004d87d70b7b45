// AdamW with moments in codes of eight bits, or values in bf16: a block per 256 elements of a part, which share scales.
//
// Values are f32 or bf16, moments f32 or codes with the largest amount of each block; `maps` are the values of both moments' codes.

typedef unsigned char u8;

__device__ __forceinline__ u32 nearest(const float* map, float x) {
    u32 at = 0;
    for (u32 step = 128; step > 0; step /= 2) at += map[at + step - 1] < x ? step : 0;
    u32 right = at > 0 ? at : 1;
    return map[right] - x < x - map[right - 1] ? right : right - 1;
}

__device__ __forceinline__ u8 encode(const float* map, u32 grid, float x) {
    x = x < -1.0f ? -1.0f : x > 1.0f ? 1.0f : x;
    if (grid) {
        u32 place = u32(__fadd_rn(__fmul_rn(__fmul_rn(x + 1.0f, 0.5f), 65535.0f), 0.5f));
        return u8(nearest(map, __fadd_rn(__fmul_rn(float(place) / 65535.0f, 2.0f), -1.0f)));
    }
    u32 code = nearest(map, x);
    return u8(x < 0.0f && map[code] >= 0.0f ? code - 1 : code);
}

// A moment's codes again, and the largest amount of the block.
__device__ __forceinline__ void requantise(const float* map, u32 grid, float x, bool live, u8* code, float* absmax) {
    float largest = block_max(live ? fabsf(x) : 0.0f);
    if (threadIdx.x == 0) *absmax = largest;
    if (live) *code = encode(map, grid, x / (largest == 0.0f ? 1.0f : largest));
}

__device__ __forceinline__ u64 mix(u64 x) {
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

// Adds 16 random bits below the last kept one, and cuts; what is not finite stays what it is.
__device__ __forceinline__ bf16 at_random(float x, u64 key, u64 i) {
    u32 bits = __float_as_uint(x);
    if ((bits & 0x7f800000u) != 0x7f800000u) bits += u32(mix(key + i)) & 0xffffu;
    return {(unsigned short)(bits >> 16)};
}

// What is updated of the arrays: `n` elements from these places on, by blocks from `first` on.
struct Part {
    u64 n, values, grads, moments, amounts, key;
    u32 first;
    u32 flags;
};

#define HALF 1u
#define CODES 2u
// The second of two kinds of steps.
#define OTHER 4u

extern "C" __global__ void adamw8(const Part* parts, u32 count, float* values, bf16* halves, In<float> g, float* m, float* v,
                                  u8* m_codes, u8* v_codes, float* m_largest, float* v_largest, u32 grid, const float* maps,
                                  const float* numbers) {
    u32 low = 0, high = count;
    while (high - low > 1) {
        u32 middle = (low + high) / 2;
        if (parts[middle].first <= blockIdx.x) low = middle;
        else high = middle;
    }
    Part part = parts[low];
    u64 block = blockIdx.x - part.first, i = block * 256 + threadIdx.x, at = part.moments + i, amount = part.amounts + block;
    bool live = i < part.n, half = part.flags & HALF, codes = part.flags & CODES;
    if (part.flags & OTHER) numbers += 9;
    float b1 = numbers[0], b2 = numbers[1], c1 = numbers[2], c2 = numbers[3], decay = numbers[4], rate = numbers[5];
    float eps = numbers[6], scale = numbers[7], root = numbers[8];
    float first = 0.0f, second = 0.0f;
    if (live) {
        u64 place = part.values + i;
        first = codes ? maps[m_codes[at]] * m_largest[amount] : m[at];
        second = codes ? maps[256 + v_codes[at]] * v_largest[amount] : v[at];
        float grad = g.p[part.grads + i] * scale, value = half ? to_float(halves[place]) : values[place];
        first = fmaf(grad, c1, first * b1);
        second = fmaf(c2 * grad, grad, second * b2);
        value = value * decay - rate * first / (sqrtf(second) / root + eps);
        if (half) halves[place] = at_random(value, part.key, i);
        else values[place] = value;
        if (!codes) {
            m[at] = first;
            v[at] = second;
        }
    }
    if (codes) {
        __syncthreads(); // all have read the block's amounts
        requantise(maps, grid, first, live, m_codes + at, m_largest + amount);
        requantise(maps + 256, grid, second, live, v_codes + at, v_largest + amount);
    }
}
