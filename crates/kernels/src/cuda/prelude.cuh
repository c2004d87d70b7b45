// What every kernel begins with: matrices with gaps, conversions, sums over warps and blocks.
//
// ACT is the element of activations, float or bf16. Sources include no header: NVRTC needs nothing but this text.

typedef unsigned int u32;
typedef unsigned long long u64;

#define ALL 0xffffffffu

#ifndef EMULATED
#define DYNAMIC_SHARED(type, name)                              \
    extern __shared__ __align__(16) unsigned char shared_bytes[]; \
    type* name = (type*)shared_bytes
#endif

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }

// bfloat16 as it is stored.
struct bf16 {
    unsigned short bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }

// Rounds to nearest, ties to even; NaN stays NaN.
__device__ __forceinline__ u32 bf16_bits(float x) {
    u32 u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (u >> 16) | 0x40u;
    return (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
}
__device__ __forceinline__ void put(float& y, float x) { y = x; }
__device__ __forceinline__ void put(bf16& y, float x) { y.bits = (unsigned short)bf16_bits(x); }

// A matrix to be read, `ld` elements from one row to the next.
template <class T>
struct In {
    const T* p;
    u64 ld;
    __device__ __forceinline__ const T* row(u64 t) const { return p + t * ld; }
    __device__ __forceinline__ float at(u64 t, u64 c) const { return to_float(p[t * ld + c]); }
};

// A matrix to be written.
template <class T>
struct Out {
    T* p;
    u64 ld;
    __device__ __forceinline__ T* row(u64 t) const { return p + t * ld; }
    __device__ __forceinline__ float at(u64 t, u64 c) const { return to_float(p[t * ld + c]); }
    __device__ __forceinline__ void set(u64 t, u64 c, float x) const { put(p[t * ld + c], x); }
};

typedef ACT act;

// Row and column of an elementwise kernel: rows are blocks' first dimension, which may be long; columns the second.
__device__ __forceinline__ u64 this_row() { return blockIdx.x; }
__device__ __forceinline__ u64 this_col() { return u64(blockIdx.y) * blockDim.x + threadIdx.x; }

__device__ __forceinline__ float warp_sum(float x) {
    for (int o = 16; o > 0; o >>= 1) x += __shfl_xor_sync(ALL, x, o);
    return x;
}
__device__ __forceinline__ double warp_sum(double x) {
    for (int o = 16; o > 0; o >>= 1) x += __shfl_xor_sync(ALL, x, o);
    return x;
}
// A NaN is passed over: sums carry it on.
__device__ __forceinline__ float larger(float a, float b) { return b > a ? b : a; }
__device__ __forceinline__ float warp_max(float x) {
    for (int o = 16; o > 0; o >>= 1) x = larger(x, __shfl_xor_sync(ALL, x, o));
    return x;
}

// Sum over a block of whole warps, the same on every thread, always in the same order.
template <class T>
__device__ T block_sum(T x) {
    __shared__ T parts[32];
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    T sum = 0;
    for (u32 w = 0; w < blockDim.x / 32; w++) sum += parts[w];
    __syncthreads();
    return sum;
}

__device__ __forceinline__ float block_max(float x) {
    __shared__ float parts[32];
    x = warp_max(x);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    float max = parts[0];
    for (u32 w = 1; w < blockDim.x / 32; w++) max = larger(max, parts[w]);
    __syncthreads();
    return max;
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Of a block of eight warps by 32 columns: what the warps found, summed in their order; right on the first warp.
template <class T>
__device__ __forceinline__ T across_warps(T x) {
    __shared__ T parts[8][32];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    parts[warp][lane] = x;
    __syncthreads();
    T sum = 0;
    for (u32 i = 0; i < 8; i++) sum += parts[i][lane];
    __syncthreads();
    return sum;
}

#ifdef EMULATED
#define UNROLL
#else
#define UNROLL _Pragma("unroll")
#endif

// Two numbers rounded to bf16, the first in the lower half.
__device__ __forceinline__ u32 two_bf16(float low, float high) {
#ifdef EMULATED
    return bf16_bits(low) | bf16_bits(high) << 16;
#else
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
#endif
}

// `sums [16, 8] += a [16, 16] b [16, 8]` on a warp's tensor cores.
__device__ __forceinline__ void mma(float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#ifdef EMULATED
    shim_mma(sums, a, b0, b1);
#else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}
