// Attention on tensor cores: bf16 factors, f32 sums. A block of four warps has 64 rows, 16 a warp, and streams tiles of 32 others.
//
// QK and VW are the widths of a query and of a value, multiples of 16. No sum is shared between blocks, so bits do not depend on
// their order. Fragments are those of `mma.m16n8k16` (PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type"): a
// thread of quad `g` and place `q` in it has rows `g` and `g + 8`, and columns `2 q` and `2 q + 1` of each eight.

#define ROWS 64
#define OTHERS 32
// Eight more than a row of a tile keep a quad's reads in different banks.
#define PAD 8

// Whether a row at `position` sees a key at `key`.
__device__ __forceinline__ bool sees(const Shape& s, u32 position, u32 key) {
    return key <= position && (!s.window || position - key < s.window);
}

// Two neighbours of a row as one word.
__device__ __forceinline__ u32 pair(const bf16* p) { return *(const u32*)p; }

// A fragment of 16 rows by 16 columns from a tile whose rows are `ld` apart.
__device__ __forceinline__ void fragment(u32 (&a)[4], const bf16* tile, u32 ld) {
    u32 g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
    a[0] = pair(tile + g * ld + 2 * q);
    a[1] = pair(tile + (g + 8) * ld + 2 * q);
    a[2] = pair(tile + g * ld + 2 * q + 8);
    a[3] = pair(tile + (g + 8) * ld + 2 * q + 8);
}

// `sums [16, 8] += a [16, 16] b`, the eight columns of `b` lying as rows of a tile.
__device__ __forceinline__ void times(float (&sums)[4], const u32 (&a)[4], const bf16* tile, u32 ld) {
    u32 g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
    mma(sums, a, pair(tile + g * ld + 2 * q), pair(tile + g * ld + 2 * q + 8));
}

// Rounds two neighbouring [16, 8] sums to one [16, 16] fragment.
__device__ __forceinline__ void rounded(u32 (&a)[4], const float (&left)[4], const float (&right)[4]) {
    a[0] = two_bf16(left[0], left[1]);
    a[1] = two_bf16(left[2], left[3]);
    a[2] = two_bf16(right[0], right[1]);
    a[3] = two_bf16(right[2], right[3]);
}

// Over the four threads that share a row.
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(ALL, x, 1);
    return x + __shfl_xor_sync(ALL, x, 2);
}
__device__ __forceinline__ float quad_max(float x) {
    x = larger(x, __shfl_xor_sync(ALL, x, 1));
    return larger(x, __shfl_xor_sync(ALL, x, 2));
}

// Rows of keys or values by position.
struct Keys {
    In<bf16> context, own;
    Span span;
    u32 column;
    __device__ __forceinline__ const bf16* row(u32 position) const {
        return column + (position < span.length ? context.row(span.context + position) : own.row(span.first + position - span.length));
    }
};

// Rows of a matrix from `first` on.
struct Lines {
    In<bf16> all;
    u32 first, column;
    __device__ __forceinline__ const bf16* row(u32 i) const { return column + all.row(first + i); }
};

// `count` rows from `begin` on into a tile `[rows, width]`, and its transpose where there is room for it; zeros after them.
template <class Rows>
__device__ void load(const Rows& from, u32 begin, u32 count, u32 rows, u32 width, bf16* tile, bf16* turned, u32 turned_ld) {
    for (u32 i = threadIdx.x; i < rows * width; i += blockDim.x) {
        u32 r = i / width, c = i % width;
        bf16 x = {0};
        if (r < count) x = from.row(begin + r)[c];
        if (tile) tile[r * (width + PAD) + c] = x;
        if (turned) turned[c * turned_ld + r] = x;
    }
}

// Scores of this warp's 16 rows against 32 others: `scores[j]` are columns `8 j ..`.
template <int WIDTH>
__device__ __forceinline__ void products(float (&scores)[OTHERS / 8][4], const bf16* rows, const bf16* others) {
    UNROLL for (u32 j = 0; j < OTHERS / 8; j++)
        UNROLL for (u32 e = 0; e < 4; e++) scores[j][e] = 0.0f;
    UNROLL for (u32 k = 0; k < WIDTH; k += 16) {
        u32 a[4];
        fragment(a, rows + k, WIDTH + PAD);
        UNROLL for (u32 j = 0; j < OTHERS / 8; j++) times(scores[j], a, others + 8 * j * (WIDTH + PAD) + k, WIDTH + PAD);
    }
}

// `sums [16, WIDTH] += p [16, 32] others [32, WIDTH]`, the others turned.
template <int WIDTH>
__device__ __forceinline__ void mix(float (&sums)[WIDTH / 8][4], const float (&p)[OTHERS / 8][4], const bf16* turned) {
    UNROLL for (u32 k = 0; k < OTHERS / 16; k++) {
        u32 a[4];
        rounded(a, p[2 * k], p[2 * k + 1]);
        UNROLL for (u32 c = 0; c < WIDTH / 8; c++) times(sums[c], a, turned + 8 * c * (OTHERS + PAD) + 16 * k, OTHERS + PAD);
    }
}

// Tiles of rows: `tiles` names the span of each and the first row within it.
extern "C" __global__ void __launch_bounds__(128) tensor_attention(In<bf16> q, In<bf16> k, In<bf16> v, In<bf16> ck, In<bf16> cv,
                                                                   const u32* tiles, const u32* spans, const float* numbers,
                                                                   Out<bf16> o, Out<float> lse) {
    DYNAMIC_SHARED(bf16, queries);
    bf16 *keys = queries + ROWS * (QK + PAD), *values = keys + OTHERS * (QK + PAD);
    Shape s = shape_of(numbers);
    Span span = span_of(spans, tiles[2 * blockIdx.x]);
    u32 begin = tiles[2 * blockIdx.x + 1], n = blockIdx.y, head = n / s.group;
    u32 count = span.rows - begin < ROWS ? span.rows - begin : ROWS;
    u32 warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, place = threadIdx.x % 4;
    u32 first = span.length + begin; // position of the tile's first row
    load(Lines{q, span.first + begin, n * QK}, 0, count, ROWS, QK, queries, (bf16*)0, 0);
    float max[2] = {-infinity(), -infinity()}, sum[2] = {}, mixed[VW / 8][4] = {};
    u32 from = s.window && first + 1 > s.window ? first + 1 - s.window : 0, end = first + count;
    for (u32 base = from; base < end; base += OTHERS) {
        u32 seen = end - base < OTHERS ? end - base : OTHERS;
        __syncthreads(); // the tile before is read
        load(Keys{ck, k, span, head * QK}, base, seen, OTHERS, QK, keys, (bf16*)0, 0);
        load(Keys{cv, v, span, head * VW}, base, seen, OTHERS, VW, (bf16*)0, values, OTHERS + PAD);
        __syncthreads();
        float p[OTHERS / 8][4], slope;
        products<QK>(p, queries + 16 * warp * (QK + PAD), keys);
        UNROLL for (u32 half = 0; half < 2; half++) {
            u32 position = first + 16 * warp + g + 8 * half;
            float grown = max[half];
            UNROLL for (u32 j = 0; j < OTHERS / 8; j++)
                UNROLL for (u32 e = 0; e < 2; e++) {
                    u32 key = base + 8 * j + 2 * place + e;
                    float& x = p[j][2 * half + e];
                    x = sees(s, position, key) && key < end ? capped(s, s.scale * x, slope) : -infinity();
                    grown = larger(grown, x);
                }
            grown = quad_max(grown);
            float below = grown == -infinity() ? 0.0f : grown; // nothing seen yet
            float shrink = expf(max[half] - below), part = 0.0f;
            UNROLL for (u32 j = 0; j < OTHERS / 8; j++)
                UNROLL for (u32 e = 0; e < 2; e++) part += p[j][2 * half + e] = expf(p[j][2 * half + e] - below);
            sum[half] = sum[half] * shrink + quad_sum(part);
            max[half] = grown;
            UNROLL for (u32 c = 0; c < VW / 8; c++)
                UNROLL for (u32 e = 0; e < 2; e++) mixed[c][2 * half + e] *= shrink;
        }
        mix<VW>(mixed, p, values);
    }
    UNROLL for (u32 half = 0; half < 2; half++) {
        u32 i = 16 * warp + g + 8 * half;
        if (i >= count) continue;
        u64 t = span.first + begin + i;
        UNROLL for (u32 c = 0; c < VW / 8; c++)
            UNROLL for (u32 e = 0; e < 2; e++) o.set(t, n * VW + 8 * c + 2 * place + e, mixed[c][2 * half + e] / sum[half]);
        if (place == 0 && lse.p) lse.set(t, n, max[half] + logf(sum[half]));
    }
}

// From scores and `do v` to `p` and `ds` of one entry.
__device__ __forceinline__ void slopes(const Shape& s, bool live, float& p, float& ds, float lse, float delta) {
    float slope, score = capped(s, s.scale * p, slope);
    p = live ? expf(score - lse) : 0.0f;
    ds = live ? p * (ds - delta) * slope : 0.0f;
}

extern "C" __global__ void __launch_bounds__(128) tensor_dq(In<bf16> q, In<bf16> k, In<bf16> v, In<bf16> d_o, In<float> lse,
                                                            In<float> deltas, const u32* tiles, const u32* spans,
                                                            const float* numbers, Out<bf16> dq) {
    DYNAMIC_SHARED(bf16, queries);
    bf16 *d_outs = queries + ROWS * (QK + PAD), *keys = d_outs + ROWS * (VW + PAD);
    bf16 *values = keys + OTHERS * (QK + PAD), *turned = values + OTHERS * (VW + PAD);
    Shape s = shape_of(numbers);
    Span span = span_of(spans, tiles[2 * blockIdx.x]);
    u32 begin = tiles[2 * blockIdx.x + 1], n = blockIdx.y, head = n / s.group;
    u32 count = span.rows - begin < ROWS ? span.rows - begin : ROWS;
    u32 warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, place = threadIdx.x % 4, first = span.length + begin;
    load(Lines{q, span.first + begin, n * QK}, 0, count, ROWS, QK, queries, (bf16*)0, 0);
    load(Lines{d_o, span.first + begin, n * VW}, 0, count, ROWS, VW, d_outs, (bf16*)0, 0);
    float total[2] = {}, delta[2] = {}, sums[QK / 8][4] = {};
    UNROLL for (u32 half = 0; half < 2; half++) {
        u32 i = 16 * warp + g + 8 * half;
        if (i < count) {
            total[half] = lse.at(span.first + begin + i, n);
            delta[half] = deltas.at(span.first + begin + i, n);
        }
    }
    u32 from = s.window && first + 1 > s.window ? first + 1 - s.window : 0, end = first + count;
    for (u32 base = from; base < end; base += OTHERS) {
        u32 seen = end - base < OTHERS ? end - base : OTHERS;
        __syncthreads();
        load(Keys{k, k, span, head * QK}, base, seen, OTHERS, QK, keys, turned, OTHERS + PAD);
        load(Keys{v, v, span, head * VW}, base, seen, OTHERS, VW, values, (bf16*)0, 0);
        __syncthreads();
        float p[OTHERS / 8][4], ds[OTHERS / 8][4];
        products<QK>(p, queries + 16 * warp * (QK + PAD), keys);
        products<VW>(ds, d_outs + 16 * warp * (VW + PAD), values);
        UNROLL for (u32 j = 0; j < OTHERS / 8; j++)
            UNROLL for (u32 e = 0; e < 4; e++) {
                u32 i = 16 * warp + g + 8 * (e / 2), key = base + 8 * j + 2 * place + e % 2;
                bool live = i < count && key < end && sees(s, first + i, key);
                slopes(s, live, p[j][e], ds[j][e], total[e / 2], delta[e / 2]);
            }
        mix<QK>(sums, ds, turned);
    }
    UNROLL for (u32 half = 0; half < 2; half++) {
        u32 i = 16 * warp + g + 8 * half;
        if (i >= count) continue;
        UNROLL for (u32 c = 0; c < QK / 8; c++)
            UNROLL for (u32 e = 0; e < 2; e++)
                dq.set(span.first + begin + i, n * QK + 8 * c + 2 * place + e, s.scale * sums[c][2 * half + e]);
    }
}

// Rows of the products are keys here, and the others are rows of the spans that see them.
extern "C" __global__ void __launch_bounds__(128) tensor_dkv(In<bf16> q, In<bf16> k, In<bf16> v, In<bf16> d_o, In<float> lse,
                                                             In<float> deltas, const u32* tiles, const u32* spans,
                                                             const u32* readers, const float* numbers, Out<bf16> dk, Out<bf16> dv) {
    DYNAMIC_SHARED(bf16, keys);
    bf16 *values = keys + ROWS * (QK + PAD), *queries = values + ROWS * (VW + PAD), *d_outs = queries + OTHERS * (QK + PAD);
    bf16 *q_turned = d_outs + OTHERS * (VW + PAD), *d_turned = q_turned + QK * (OTHERS + PAD);
    Shape s = shape_of(numbers);
    u32 owner = tiles[2 * blockIdx.x], begin = tiles[2 * blockIdx.x + 1], head = blockIdx.y;
    Span own = span_of(spans, owner);
    u32 count = own.rows - begin < ROWS ? own.rows - begin : ROWS, first = own.first + begin; // rows of the keys
    u32 warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, place = threadIdx.x % 4;
    load(Lines{k, first, head * QK}, 0, count, ROWS, QK, keys, (bf16*)0, 0);
    load(Lines{v, first, head * VW}, 0, count, ROWS, VW, values, (bf16*)0, 0);
    float k_sums[QK / 8][4] = {}, v_sums[VW / 8][4] = {};
    for (u32 at = readers[owner]; at < readers[owner + 1]; at++) {
        Span span = span_of(spans, readers[at]);
        bool itself = readers[at] == owner;
        // Keys of this tile that the reader has, as [low, high), and the position of a key of row r: r - shift.
        u32 low = itself ? first : first < span.context ? span.context : first, high = first + count;
        if (!itself && high > span.context + span.length) high = span.context + span.length;
        if (low >= high) continue;
        u32 lowest = itself ? span.length + low - span.first : low - span.context, highest = lowest + (high - 1 - low);
        u32 from = lowest > span.length ? lowest - span.length : 0, end = span.rows;
        if (s.window) {
            u32 past = highest + s.window;
            end = past <= span.length ? 0 : past - span.length < end ? past - span.length : end;
        }
        for (u32 n = head * s.group; n < (head + 1) * s.group; n++) {
            for (u32 base = from; base < end; base += OTHERS) {
                u32 there = end - base < OTHERS ? end - base : OTHERS;
                __syncthreads();
                load(Lines{q, span.first + base, n * QK}, 0, there, OTHERS, QK, queries, q_turned, OTHERS + PAD);
                load(Lines{d_o, span.first + base, n * VW}, 0, there, OTHERS, VW, d_outs, d_turned, OTHERS + PAD);
                __syncthreads();
                float p[OTHERS / 8][4], ds[OTHERS / 8][4];
                products<QK>(p, keys + 16 * warp * (QK + PAD), queries);
                products<VW>(ds, values + 16 * warp * (VW + PAD), d_outs);
                UNROLL for (u32 j = 0; j < OTHERS / 8; j++)
                    UNROLL for (u32 e = 0; e < 4; e++) {
                        u32 row = first + 16 * warp + g + 8 * (e / 2), other = 8 * j + 2 * place + e % 2;
                        u32 i = base + other, t = span.first + i;
                        bool live = row >= low && row < high && other < there && sees(s, span.length + i, lowest + (row - low));
                        slopes(s, live, p[j][e], ds[j][e], live ? lse.at(t, n) : 0.0f, live ? deltas.at(t, n) : 0.0f);
                    }
                mix<VW>(v_sums, p, d_turned);
                mix<QK>(k_sums, ds, q_turned);
            }
        }
    }
    UNROLL for (u32 half = 0; half < 2; half++) {
        u32 i = 16 * warp + g + 8 * half;
        if (i >= count) continue;
        UNROLL for (u32 c = 0; c < QK / 8; c++)
            UNROLL for (u32 e = 0; e < 2; e++) dk.set(first + i, head * QK + 8 * c + 2 * place + e, s.scale * k_sums[c][2 * half + e]);
        UNROLL for (u32 c = 0; c < VW / 8; c++)
            UNROLL for (u32 e = 0; e < 2; e++) dv.set(first + i, head * VW + 8 * c + 2 * place + e, v_sums[c][2 * half + e]);
    }
}
