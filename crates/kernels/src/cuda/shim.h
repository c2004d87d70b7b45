// The part of CUDA that the kernels use, on a CPU: one block at a time, each of its threads a fiber that goes on to the next at
// every barrier and warp shuffle. It shows whether index arithmetic, tiling and scheduling are right, not how fast they are.
//
// Fibers run in ascending or descending order (`order`): a barrier that is missing between a write and a read then gives other
// numbers in one of the two. A barrier that not all threads of a block or warp reach ends the launch with an error.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>
#include <tuple>
#include <vector>

#define EMULATED 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __restrict__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

struct dim3 {
    unsigned x, y, z;
};

namespace shim {

struct Barrier {
    unsigned arrived = 0, turn = 0;
};

struct Fiber {
    void* sp;
    char* stack;
    Barrier* waits;
    unsigned turn;
    bool alive;
};

// Bytes of a thread's stack; local arrays of a kernel live there.
const size_t STACK = 64 << 10;

struct Block {
    std::vector<Fiber> fibers;
    std::vector<Barrier> warps;
    Barrier all;
    std::vector<char> shared;
    // What lanes of a warp show one another, 64 bytes each.
    std::vector<char> slots;
    void* scheduler = nullptr;
    unsigned current = 0, threads = 0;
    void (*body)(void*) = nullptr;
    void* environment = nullptr;
    bool broken = false;
};

static Block block;

extern "C" void shim_switch(void** from, void* to);
#if defined(__x86_64__)
asm(R"(
.text
.globl shim_switch
.hidden shim_switch
shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
static void* prepared(char* stack, void (*entry)()) {
    void** top = (void**)((uintptr_t)(stack + STACK) & ~(uintptr_t)15);
    *--top = nullptr; // where `entry` would return to: never
    *--top = (void*)entry;
    for (int i = 0; i < 6; i++) *--top = nullptr;
    return top;
}
#elif defined(__aarch64__)
asm(R"(
.text
.globl shim_switch
.hidden shim_switch
shim_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
)");
static void* prepared(char* stack, void (*entry)()) {
    char* top = (char*)((uintptr_t)(stack + STACK) & ~(uintptr_t)15) - 160;
    memset(top, 0, 160);
    ((void**)top)[11] = (void*)entry; // x30
    return top;
}
#else
#error "the emulation switches stacks on x86-64 and aarch64"
#endif

} // namespace shim

static dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

inline void yield() {
    Fiber& me = block.fibers[block.current];
    shim_switch(&me.sp, block.scheduler);
}

static void entry() {
    block.body(block.environment);
    block.fibers[block.current].alive = false;
    yield();
}

inline void arrive(Barrier& barrier, unsigned all) {
    Fiber& me = block.fibers[block.current];
    if (++barrier.arrived == all) {
        barrier.arrived = 0;
        barrier.turn++;
        return;
    }
    me.waits = &barrier;
    me.turn = barrier.turn;
    yield();
}

inline unsigned lanes(unsigned warp) {
    unsigned left = block.threads - warp * 32;
    return left < 32 ? left : 32;
}

inline void warp_barrier() {
    unsigned warp = block.current / 32;
    arrive(block.warps[warp], lanes(warp));
}

// What lane `from` of this warp passed.
template <class T>
T exchange(T mine, unsigned from) {
    static_assert(sizeof(T) <= 64, "slot");
    unsigned me = block.current;
    memcpy(&block.slots[me * 64], &mine, sizeof(T));
    warp_barrier();
    T theirs;
    memcpy(&theirs, &block.slots[(me / 32 * 32 + from) * 64], sizeof(T));
    warp_barrier();
    return theirs;
}

// Runs a block. Returns false when threads wait for one another for ever.
static bool run_block(bool descending) {
    Block& b = block;
    memset(b.shared.data(), 0xff, b.shared.size());
    b.all = Barrier();
    for (auto& w : b.warps) w = Barrier();
    for (auto& f : b.fibers) {
        f.sp = prepared(f.stack, entry);
        f.waits = nullptr;
        f.alive = true;
    }
    for (unsigned alive = b.threads; alive > 0;) {
        bool moved = false;
        for (unsigned i = 0; i < b.threads; i++) {
            unsigned at = descending ? b.threads - 1 - i : i;
            Fiber& f = b.fibers[at];
            if (!f.alive || (f.waits && f.waits->turn == f.turn)) continue;
            f.waits = nullptr;
            b.current = at;
            threadIdx = {at % blockDim.x, at / blockDim.x % blockDim.y, at / blockDim.x / blockDim.y};
            shim_switch(&b.scheduler, f.sp);
            if (!f.alive) alive--;
            moved = true;
        }
        if (!moved) return false;
    }
    return true;
}

static int run(const unsigned* grid, const unsigned* threads, unsigned shared, int order, void (*body)(void*), void* environment) {
    // Devices of one process share the loaded kernels, and with them the one block there is.
    static std::mutex one;
    std::lock_guard<std::mutex> alone(one);
    Block& b = block;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads[0], threads[1], threads[2]};
    unsigned n = threads[0] * threads[1] * threads[2];
    while (b.fibers.size() < n) {
        char* stack = (char*)malloc(STACK);
        if (!stack) return 2;
        b.fibers.push_back(Fiber{nullptr, stack, nullptr, 0, false});
    }
    while (b.fibers.size() > n) {
        free(b.fibers.back().stack);
        b.fibers.pop_back();
    }
    b.warps.assign((n + 31) / 32, Barrier());
    b.slots.resize(((n + 31) / 32) * 32 * 64);
    b.shared.resize(shared + 64);
    b.threads = n;
    b.body = body;
    b.environment = environment;
    bool descending = order == 1;
    uint64_t blocks = (uint64_t)grid[0] * grid[1] * grid[2];
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t at = descending ? blocks - 1 - i : i;
        blockIdx = {unsigned(at % grid[0]), unsigned(at / grid[0] % grid[1]), unsigned(at / grid[0] / grid[1])};
        if (!run_block(descending)) return 1;
    }
    return 0;
}

template <class... A, size_t... I>
void spread(void (*kernel)(A...), void** args, std::index_sequence<I...>) {
    kernel(*(A*)args[I]...);
}

template <class... A>
int launch(void (*kernel)(A...), void** args, unsigned count, const unsigned* grid, const unsigned* threads, unsigned shared, int order) {
    if (count != sizeof...(A)) return 3;
    struct Environment {
        void (*kernel)(A...);
        void** args;
    } environment{kernel, args};
    auto body = [](void* e) {
        auto* env = (Environment*)e;
        spread(env->kernel, env->args, std::index_sequence_for<A...>{});
    };
    return run(grid, threads, shared, order, body, &environment);
}

} // namespace shim

// Makes a kernel callable: `args` point to its parameters.
#define SHIM_EXPORT(kernel)                                                                                                       \
    extern "C" __attribute__((visibility("default"))) int shim_##kernel(void** args, unsigned count, const unsigned* grid,          \
                                 const unsigned* threads, unsigned shared, int order) {                                                                                      \
        return shim::launch(kernel, args, count, grid, threads, shared, order);                                                    \
    }

inline void __syncthreads() { shim::arrive(shim::block.all, shim::block.threads); }
inline void __syncwarp(unsigned = 0xffffffffu) { shim::warp_barrier(); }

template <class T>
T __shfl_sync(unsigned, T x, int lane) {
    return shim::exchange(x, (unsigned)lane % 32);
}
template <class T>
T __shfl_xor_sync(unsigned, T x, int mask) {
    return shim::exchange(x, (shim::block.current % 32) ^ (unsigned)mask);
}

inline float __uint_as_float(unsigned x) { float y; memcpy(&y, &x, 4); return y; }
inline unsigned __float_as_uint(float x) { unsigned y; memcpy(&y, &x, 4); return y; }
inline float __int_as_float(int x) { return __uint_as_float((unsigned)x); }
inline int __float_as_int(float x) { return (int)__float_as_uint(x); }
inline float __fmul_rn(float a, float b) { volatile float c = a * b; return c; }
inline float __fadd_rn(float a, float b) { volatile float c = a + b; return c; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }

// `mma.m16n8k16` of bf16 by the fragments that the PTX ISA gives each lane.
inline void shim_mma(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    unsigned me = shim::block.current, warp = me / 32 * 32, lane = me % 32;
    unsigned mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
    memcpy(&shim::block.slots[me * 64], mine, sizeof mine);
    shim::warp_barrier();
    auto half = [&](unsigned from, unsigned word, unsigned k) {
        unsigned both;
        memcpy(&both, &shim::block.slots[(warp + from) * 64 + word * 4], 4);
        return __uint_as_float((k % 2 ? both >> 16 : both & 0xffffu) << 16);
    };
    for (unsigned e = 0; e < 4; e++) {
        unsigned row = lane / 4, high = e / 2, column = lane % 4 * 2 + e % 2;
        for (unsigned k = 0; k < 16; k++)
            sums[e] += half(row * 4 + k % 8 / 2, high + 2 * (k / 8), k) * half(column * 4 + k % 8 / 2, 4 + k / 8, k);
    }
    shim::warp_barrier();
}

#define DYNAMIC_SHARED(type, name) type* name = (type*)(((uintptr_t)shim::block.shared.data() + 63) & ~(uintptr_t)63)
