// Elements of stored weights as numbers: element `i` of a tensor, in row-major order.

typedef unsigned char u8;

__device__ __forceinline__ float from_half(unsigned short h) {
    u32 bits = h;
    float magnitude = __uint_as_float((bits & 0x7fffu) << 13) * __uint_as_float((127u + 112u) << 23);
    u32 infinite = (bits & 0x7c00u) == 0x7c00u ? 0xffu << 23 : 0u;
    return __uint_as_float(__float_as_uint(magnitude) | infinite | (bits & 0x8000u) << 16);
}

// Blocks of 17 bytes: a scale and 32 codes of four bits.
__device__ __forceinline__ float mxfp4_at(const u8* w, u64 i) {
    const u8* block = w + i / 32 * 17;
    u32 at = i % 32;
    u32 code = at % 2 ? block[1 + at / 2] >> 4 : block[1 + at / 2] & 15;
    const float values[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
    float x = ldexpf(values[code & 7], int(block[0]) - 127);
    return code & 8 ? -x : x;
}

// How codes become numbers; the first of them belongs to element `skip` of its block and of its byte.
struct Codes {
    // Scales, or codes of scales.
    const void* scales;
    // Of codes of scales; null where scales are as they are: 256 numbers, then the scales that codes share, then the offset.
    const float* nested;
    u32 skip;
    u32 block;
    u32 nested_block;
    // Of the first scale among those that share one.
    u32 nested_skip;
    u32 nested_count;
    // 0: f32, 1: bf16, 2: f16.
    u32 rounded;
    float table[16];
};

// Not fused: the CPU rounds the product too.
__device__ __forceinline__ float scale_of(const Codes& codes, u64 block) {
    if (!codes.nested) return ((const float*)codes.scales)[block];
    const float* shared = codes.nested + 256;
    float x = codes.nested[((const u8*)codes.scales)[block]];
    return __fadd_rn(__fmul_rn(x, shared[(block + codes.nested_skip) / codes.nested_block]), shared[codes.nested_count]);
}

// To the nearest half, ties to even.
__device__ __forceinline__ float round_half(float x) {
    float a = fabsf(x);
    if (!(a < 65520.0f)) return a == a ? copysignf(infinity(), x) : x;
    // Adding and subtracting a number whose last place is that of the result rounds; below 2^-14 that is 2^-24.
    u32 exponent = __float_as_uint(a) >> 23;
    exponent = exponent < 113u ? 113u : exponent;
    float magic = __uint_as_float((exponent + 13u) << 23);
    return copysignf(__fadd_rn(__fadd_rn(a, magic), -magic), x);
}

__device__ __forceinline__ float code4_at(const u8* w, const Codes& codes, u64 i) {
    u64 at = i + codes.skip;
    u32 code = at % 2 ? w[at / 2] & 15 : w[at / 2] >> 4;
    float x = __fmul_rn(codes.table[code], scale_of(codes, at / codes.block));
    if (codes.rounded == 1) x = __uint_as_float(bf16_bits(x) << 16);
    if (codes.rounded == 2) x = round_half(x);
    return x;
}

__device__ __forceinline__ float code8_at(const u8* w, const Codes& codes, u64 i) {
    u64 at = i + codes.skip;
    return __fmul_rn(__fmul_rn(float((signed char)w[at]), scale_of(codes, at / codes.block)), 1.0f / 127.0f);
}

