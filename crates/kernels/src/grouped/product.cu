// Products of rows sorted by expert, all experts in one launch: `y[s] = x[s] Wᵀ`, or `x[s] W`, with the weight of the row's expert.
//
// WEIGHT says how weights lie: 32, 16: f32, bf16; 15: f16; 5: MXFP4; 4, 8: codes. They become numbers on their way into a tile. A block of four warps has a tile of 64 rows of one expert by 64 columns, and goes through the
// inner dimension 32 at a time: bf16 on tensor cores, with fragments as in attention's `tensor.cu`; f32 with fused sums, 8 rows by 4
// columns a thread. No sum is shared between blocks.

#define ROWS 64
#define COLS 64
#define INNER 32

// Of an expert: where its weight lies, elements from one row of it to the next, and what codes stand for.
struct Bank {
    const void* p;
    u64 ld;
    const Codes* how;
};

__device__ __forceinline__ float weight_at(const Bank& bank, u64 row, u64 col) {
    u64 i = row * bank.ld + col;
#if WEIGHT == 32
    return ((const float*)bank.p)[i];
#elif WEIGHT == 16
    return to_float(((const bf16*)bank.p)[i]);
#elif WEIGHT == 15
    return from_half(((const unsigned short*)bank.p)[i]);
#elif WEIGHT == 5
    return mxfp4_at((const u8*)bank.p, i);
#elif WEIGHT == 4
    return code4_at((const u8*)bank.p, *bank.how, i);
#else
    return code8_at((const u8*)bank.p, *bank.how, i);
#endif
}

// Rows `first .. end` of an expert, at most ROWS.
struct Rows {
    u32 expert, first, end;
};

// What a tile of `y` is summed up from, and where; PAD elements behind a row keep neighbours in different banks.
template <class A>
struct Sums;

template <>
struct Sums<float> {
    static const u32 PAD = 1;
    float at[8][4];
    __device__ __forceinline__ static u32 row(u32 i) { return threadIdx.x / 16 * 8 + i; }
    __device__ __forceinline__ static u32 col(u32 j) { return threadIdx.x % 16 + 16 * j; }
    __device__ __forceinline__ void begin() {
        UNROLL for (u32 i = 0; i < 8; i++)
            UNROLL for (u32 j = 0; j < 4; j++) at[i][j] = 0.0f;
    }
    __device__ __forceinline__ void add(const float* x, const float* w) {
        for (u32 k = 0; k < INNER; k++) {
            float a[8], b[4];
            UNROLL for (u32 i = 0; i < 8; i++) a[i] = x[row(i) * (INNER + PAD) + k];
            UNROLL for (u32 j = 0; j < 4; j++) b[j] = w[col(j) * (INNER + PAD) + k];
            UNROLL for (u32 i = 0; i < 8; i++)
                UNROLL for (u32 j = 0; j < 4; j++) at[i][j] = fmaf(a[i], b[j], at[i][j]);
        }
    }
    __device__ __forceinline__ void write(u64 first, u32 rows, u32 column, u32 cols, Out<float>& y) const {
        UNROLL for (u32 i = 0; i < 8; i++)
            UNROLL for (u32 j = 0; j < 4; j++)
                if (row(i) < rows && column + col(j) < cols) y.set(first + row(i), column + col(j), at[i][j]);
    }
};

template <>
struct Sums<bf16> {
    static const u32 PAD = 8;
    float at[COLS / 8][4];
    __device__ __forceinline__ void begin() {
        UNROLL for (u32 j = 0; j < COLS / 8; j++)
            UNROLL for (u32 e = 0; e < 4; e++) at[j][e] = 0.0f;
    }
    __device__ __forceinline__ static u32 pair(const bf16* p) { return *(const u32*)p; }
    __device__ __forceinline__ void add(const bf16* x, const bf16* w) {
        const u32 LD = INNER + PAD;
        u32 g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
        const bf16* own = x + threadIdx.x / 32 * 16 * LD;
        UNROLL for (u32 k = 0; k < INNER; k += 16) {
            const bf16* left = own + k + 2 * q;
            u32 a[4] = {pair(left + g * LD), pair(left + (g + 8) * LD), pair(left + g * LD + 8), pair(left + (g + 8) * LD + 8)};
            UNROLL for (u32 j = 0; j < COLS / 8; j++) {
                const bf16* right = w + (8 * j + g) * LD + k + 2 * q;
                mma(at[j], a, pair(right), pair(right + 8));
            }
        }
    }
    __device__ __forceinline__ void write(u64 first, u32 rows, u32 column, u32 cols, Out<bf16>& y) const {
        u32 row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
        UNROLL for (u32 j = 0; j < COLS / 8; j++)
            UNROLL for (u32 e = 0; e < 4; e++) {
                u32 r = row + e / 2 * 8, c = column + 8 * j + threadIdx.x % 4 * 2 + e % 2;
                if (r < rows && c < cols) y.set(first + r, c, at[j][e]);
            }
    }
};

extern "C" __global__ void __launch_bounds__(128) grouped_product(In<act> x, const Bank* banks, const Rows* tiles, u32 turned, u32 inner,
                                                                  u32 cols, Out<act> y) {
    const u32 LD = INNER + Sums<act>::PAD;
    __align__(16) __shared__ act left[ROWS * LD];
    __align__(16) __shared__ act right[COLS * LD];
    Rows own = tiles[blockIdx.x];
    Bank bank = banks[own.expert];
    u32 rows = own.end - own.first, column = blockIdx.y * COLS;
    act zero;
    put(zero, 0.0f);
    Sums<act> sums;
    sums.begin();
    for (u32 begin = 0; begin < inner; begin += INNER) {
        for (u32 i = threadIdx.x; i < ROWS * INNER; i += blockDim.x) {
            u32 r = i / INNER, k = i % INNER;
            left[r * LD + k] = r < rows && begin + k < inner ? x.row(own.first + r)[begin + k] : zero;
        }
        for (u32 i = threadIdx.x; i < COLS * INNER; i += blockDim.x) {
            // Neighbouring threads read neighbours of a row of the weight, as it lies.
            u32 c = turned ? i % COLS : i / INNER, k = turned ? i / COLS : i % INNER;
            act w = zero;
            if (column + c < cols && begin + k < inner)
                put(w, turned ? weight_at(bank, begin + k, column + c) : weight_at(bank, column + c, begin + k));
            right[c * LD + k] = w;
        }
        __syncthreads();
        sums.add(left, right);
        __syncthreads();
    }
    sums.write(own.first, rows, column, cols, y);
}
