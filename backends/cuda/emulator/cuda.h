// CUDA on the CPU, for tests: the kernels' own source, compiled by a C++ compiler after this header.
//
// Blocks run one after another. The threads of a kernel without barriers are a plain loop; those of a kernel with
// barriers are fibres, each with a stack, which a scheduler resumes in turn: __syncthreads() and the warp functions
// wait for the others as they do on a GPU. Shared memory is filled with NaNs before every block. Barriers that not
// all threads reach, and accesses outside an allocation, end the launch with an error. Races inside a warp go unseen.
#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <sys/mman.h>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;

struct dim3 {
    unsigned x, y, z;
};
static dim3 threadIdx, blockIdx, blockDim, gridDim; // static: no store through a pointer can change them

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

// ---- fibres ----

enum State { DONE, READY, AT_BLOCK, AT_WARP };

struct Fibre {
    State state;
    int place; // of the barrier in the source
    unsigned mask, turn;
    jmp_buf resume;
    dim3 index;
};

static const unsigned WARP = 32, MOST_THREADS = 1024;
static const size_t STACK = 256 << 10, DYNAMIC = 228 << 10;
static Fibre fibres[MOST_THREADS];
static unsigned started, fibre_count, current;
static uint64_t slots[2][MOST_THREADS]; // what lanes hand each other: even and odd turns
static jmp_buf scheduler;
static ucontext_t first_resume;
static void (*fibre_body)(void **);
static void **fibre_parameters;
alignas(1024) static unsigned char dynamic_shared[DYNAMIC];

static sigjmp_buf failed_launch;
[[noreturn]] static void launch_failed(int code) { siglongjmp(failed_launch, code); }

[[noreturn]] static void fibre_main(unsigned id) { // serves one thread of every block, for ever
    for (;;) {
        fibre_body(fibre_parameters);
        fibres[id].state = DONE;
        if (!_setjmp(fibres[id].resume)) _longjmp(scheduler, 1);
    }
}

static void wait_for_others(State how, int place, unsigned mask) {
    Fibre &self = fibres[current];
    self.state = how, self.place = place, self.mask = mask;
    if (!_setjmp(self.resume)) _longjmp(scheduler, 1);
}

static void resume(unsigned id) {
    Fibre &fibre = fibres[id];
    current = id, threadIdx = fibre.index;
    if (_setjmp(scheduler)) return;
    if (id < started) _longjmp(fibre.resume, 1);
    static ucontext_t entry;
    getcontext(&entry);
    void *stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    entry.uc_stack.ss_sp = stack, entry.uc_stack.ss_size = STACK, entry.uc_link = nullptr;
    makecontext(&entry, (void (*)())fibre_main, 1, id);
    started = id + 1;
    swapcontext(&first_resume, &entry);
}

// Let waiting fibres go on where all those that they wait for have come; false if none can.
static bool release() {
    bool any = false;
    for (unsigned warp = 0; warp < fibre_count; warp += WARP) {
        unsigned end = std::min(warp + WARP, fibre_count), mask = 0, here = 0;
        for (unsigned t = warp; t < end; t++)
            if (fibres[t].state == AT_WARP) here |= 1u << (t - warp), mask |= fibres[t].mask;
        if (end - warp < WARP) mask &= (1u << (end - warp)) - 1;
        for (unsigned t = warp; t < end; t++)
            if (fibres[t].state == DONE) mask &= ~(1u << (t - warp));
        if (!here || here != mask) continue;
        for (unsigned t = warp; t < end; t++)
            if (fibres[t].state == AT_WARP) fibres[t].state = READY, any = true;
    }
    if (any) return true;
    int place = -1;
    for (unsigned t = 0; t < fibre_count; t++) {
        if (fibres[t].state == DONE) continue;
        if (fibres[t].state != AT_BLOCK || (place >= 0 && place != fibres[t].place)) return false;
        place = fibres[t].place;
    }
    for (unsigned t = 0; t < fibre_count; t++)
        if (fibres[t].state == AT_BLOCK) fibres[t].state = READY;
    return true;
}

static void run_fibres(const char *name) {
    for (;;) {
        unsigned waiting = 0;
        for (unsigned t = 0; t < fibre_count; t++) {
            if (fibres[t].state == READY) resume(t);
            waiting += fibres[t].state != DONE;
        }
        if (!waiting) return;
        if (release()) continue;
        fprintf(stderr, "emulator: %s: threads of a block wait at different barriers\n", name);
        launch_failed(719); // CUDA_ERROR_LAUNCH_FAILED
    }
}

// ---- barriers and warp functions ----

#define __syncthreads() wait_for_others(AT_BLOCK, __LINE__, 0)
#define __syncwarp(...) wait_for_others(AT_WARP, __LINE__, ~0u)

// Hand `value` to the warp, wait for the lanes of `mask`, and get what lane `source` handed.
template <class T> static const T *exchange(unsigned mask, T value) {
    unsigned id = current, turn = fibres[id].turn++ & 1;
    static_assert(sizeof(T) <= 8, "a lane hands over at most 8 bytes");
    memcpy(&slots[turn][id], &value, sizeof value);
    wait_for_others(AT_WARP, 0, mask);
    return (const T *)&slots[turn][id / WARP * WARP];
}
template <class T> static T lane(const T *values, unsigned index) { return values[index * (8 / sizeof(T))]; }

template <class T> static T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    unsigned self = current % WARP;
    return lane(exchange(mask, value), (self & ~(width - 1)) | (source & (width - 1)));
}
template <class T> static T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    unsigned self = current % WARP, source = (self & (width - 1)) + delta;
    const T *values = exchange(mask, value);
    return lane(values, source < (unsigned)width ? self + delta : self);
}
template <class T> static T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    unsigned self = current % WARP;
    const T *values = exchange(mask, value);
    return lane(values, (self & (width - 1)) >= delta ? self - delta : self);
}
template <class T> static T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    unsigned self = current % WARP, source = self ^ bits;
    const T *values = exchange(mask, value);
    return lane(values, source / width == self / width ? source : self);
}
static unsigned __activemask() {
    unsigned first = current / WARP * WARP, lanes = std::min(WARP, fibre_count - first), mask = 0;
    for (unsigned i = 0; i < lanes; i++) mask |= unsigned(fibres[first + i].state != DONE) << i;
    return mask;
}
static unsigned __ballot_sync(unsigned mask, int predicate) {
    const int *values = exchange(mask, predicate);
    unsigned first = current / WARP * WARP, lanes = std::min(WARP, fibre_count - first), found = 0;
    for (unsigned i = 0; i < lanes; i++) found |= unsigned((mask >> i & 1) && lane(values, i)) << i;
    return found;
}
static int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }

// ---- types, memory, arithmetic ----

#define VECTOR(T, NAME)                                                                                               \
    struct alignas(2 * sizeof(T)) NAME##2 { T x, y; };                                                               \
    struct NAME##3 { T x, y, z; };                                                                                    \
    struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) NAME##4 { T x, y, z, w; };                               \
    static inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }                                                 \
    static inline NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; }                                         \
    static inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
VECTOR(signed char, char)
VECTOR(uchar, uchar)
VECTOR(short, short)
VECTOR(ushort, ushort)
VECTOR(int, int)
VECTOR(uint, uint)
VECTOR(long long, longlong)
VECTOR(unsigned long long, ulonglong)
VECTOR(float, float)
VECTOR(double, double)

#define CUDART_INF HUGE_VAL
#define CUDART_INF_F HUGE_VALF
#define CUDART_NAN ((double)NAN)
#define CUDART_NAN_F NAN

template <class T> static inline T __ldg(const T *address) { return *address; }
template <class T> static inline T atomicAdd(T *address, T value) {
    T old = *address;
    *address = old + value;
    return old;
}
template <class A, class B> static inline auto max(A a, B b) { // of floats as fmax: a NaN loses
    typedef std::common_type_t<A, B> T;
    return T(a) > T(b) || T(b) != T(b) ? T(a) : T(b);
}
template <class A, class B> static inline auto min(A a, B b) {
    typedef std::common_type_t<A, B> T;
    return T(a) < T(b) || T(b) != T(b) ? T(a) : T(b);
}
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
#define __expf expf
#define __logf logf
static inline float __fdividef(float x, float y) { return x / y; }
static inline int __float_as_int(float x) { int y; memcpy(&y, &x, 4); return y; }
static inline float __int_as_float(int x) { float y; memcpy(&y, &x, 4); return y; }
static inline int __float2int_rn(float x) { return (int)rintf(x); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }

#include "half.h"

// ---- launches ----

struct Emulated {
    const char *name;
    bool has_barriers;
    int parameters;
    void (*run)(void **);
    unsigned char *shared, *shared_end;
};

template <auto function, class... A, size_t... I>
static void call_with(void **values, void (*)(A...), std::index_sequence<I...>) {
    function(*(A *)values[I]...);
}
template <auto function, class... A> static void call_kernel(void **values) {
    call_with<function>(values, function, std::make_index_sequence<sizeof...(A)>());
}
template <auto function, class... A>
static Emulated emulated(const char *name, bool barriers, unsigned char *shared, unsigned char *end, void (*)(A...)) {
    return {name, barriers, sizeof...(A), call_kernel<function, A...>, shared, end};
}

static void illegal_address(int) { launch_failed(700); } // CUDA_ERROR_ILLEGAL_ADDRESS

// Run all threads; 0 or the number of a CUDA error.
static int run_launch(const Emulated &kernel, dim3 grid, dim3 block, size_t dynamic, void **parameters) {
    struct sigaction handler = {}, old_segv, old_bus;
    handler.sa_handler = illegal_address;
    sigaction(SIGSEGV, &handler, &old_segv);
    sigaction(SIGBUS, &handler, &old_bus);
    gridDim = grid, blockDim = block, fibre_count = block.x * block.y * block.z;
    fibre_body = kernel.run, fibre_parameters = parameters;
    int code = sigsetjmp(failed_launch, 1);
    for (unsigned b = 0; !code && b < grid.x * grid.y * grid.z; b++) {
        blockIdx = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
        if (kernel.shared != kernel.shared_end) memset(kernel.shared, 0xff, kernel.shared_end - kernel.shared);
        memset(dynamic_shared, 0xff, dynamic);
        for (unsigned t = 0; t < fibre_count; t++) {
            dim3 index = {t % block.x, t / block.x % block.y, t / block.x / block.y};
            if (kernel.has_barriers)
                fibres[t].index = index, fibres[t].state = READY, fibres[t].turn = 0;
            else
                threadIdx = index, kernel.run(parameters);
        }
        if (kernel.has_barriers) run_fibres(kernel.name);
    }
    sigaction(SIGSEGV, &old_segv, nullptr);
    sigaction(SIGBUS, &old_bus, nullptr);
    return code;
}
