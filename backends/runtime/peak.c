/* The roofline of this machine, measured: arithmetic in registers and reading of memory, by vectors of the width that
 * the kernels work with. Every figure is the best of several slices of time, since whatever disturbs a measurement
 * only makes it slower. Threads measure side by side, and their rates are added. */
enum { PEAK_FLOAT32, PEAK_INT8 }; /* kinds of arithmetic; a multiply-add is two operations */
enum { SLICES = 20, SLICE = 1000000 /* nanoseconds */, TURNS = 4096, PART = 1 << 20 /* bytes */ };

typedef struct Probe {
    double (*once)(struct Probe *); /* does some work and returns how much */
    int64_t bytes;                  /* of the block to read */
    char *block;
    int64_t offset;                 /* where its next part begins */
    double rate;                    /* the result: work a second */
    volatile float sink;            /* takes what would otherwise be computed for nobody */
} Probe;

static volatile float factors[2] = {0.999f, 0.001f}; /* chains go towards 1: neither infinite nor subnormal */

/* So many chains of dependent multiply-adds hide their latency; with the two factors they fill 16 registers. */
#define CHAINS_14(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13)
#if defined(__aarch64__) /* which has 32, and cores that start four a cycle */
#define EACH_CHAIN(DO) CHAINS_14(DO) DO(14) DO(15) DO(16) DO(17) DO(18) DO(19)
enum { CHAINS = 20 };
#else
#define EACH_CHAIN CHAINS_14
enum { CHAINS = 14 };
#endif

#if defined(__x86_64__) /* in assembler, since compilers neither fuse nor keep registers at low levels of optimization */
#define SSE __attribute__((target("sse2")))
#define AVX2 __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx512f,avx512vnni")))

#define CHAIN_LOOP(LOAD, CLEAR, STEPS, END)                                                                            \
    int64_t turns = TURNS;                                                                                             \
    __asm__ volatile(LOAD EACH_CHAIN(CLEAR) "1:\n\t" STEPS "dec %0\n\tjnz 1b\n\t" END                                  \
                     : "+r"(turns) : "m"(factors[0]), "m"(factors[1])                                                  \
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",   \
                       "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");                                                   \
    (void)probe

#define LOAD_16 "movss %1, %%xmm14\n\tshufps $0, %%xmm14, %%xmm14\n\tmovss %2, %%xmm15\n\tshufps $0, %%xmm15, %%xmm15\n\t"
#define CLEAR_16(i) "xorps %%xmm" #i ", %%xmm" #i "\n\t"
#define MULTIPLY_16(i) "mulps %%xmm14, %%xmm" #i "\n\t"
#define ADD_16(i) "addps %%xmm15, %%xmm" #i "\n\t"
#define LOAD(register) "vbroadcastss %1, %%" register "14\n\tvbroadcastss %2, %%" register "15\n\t"
#define CLEAR(i) "vxorps %%xmm" #i ", %%xmm" #i ", %%xmm" #i "\n\t"
#define STEP_32(i) "vfmadd213ps %%ymm15, %%ymm14, %%ymm" #i "\n\t"
#define STEP_64(i) "vfmadd213ps %%zmm15, %%zmm14, %%zmm" #i "\n\t"
#define STEP_BYTES(i) "vpdpbusd %%zmm15, %%zmm14, %%zmm" #i "\n\t"

SSE static double multiply_add_16(Probe *probe) {
    CHAIN_LOOP(LOAD_16, CLEAR_16, EACH_CHAIN(MULTIPLY_16) EACH_CHAIN(ADD_16), "");
    return 2.0 * CHAINS * TURNS * 4;
}
AVX2 static double multiply_add_32(Probe *probe) {
    CHAIN_LOOP(LOAD("ymm"), CLEAR, EACH_CHAIN(STEP_32), "vzeroupper");
    return 2.0 * CHAINS * TURNS * 8;
}
AVX512 static double multiply_add_64(Probe *probe) {
    CHAIN_LOOP(LOAD("zmm"), CLEAR, EACH_CHAIN(STEP_64), "vzeroupper");
    return 2.0 * CHAINS * TURNS * 16;
}
AVX512 static double multiply_add_bytes(Probe *probe) {
    CHAIN_LOOP(LOAD("zmm"), CLEAR, EACH_CHAIN(STEP_BYTES), "vzeroupper");
    return 2.0 * CHAINS * TURNS * 64;
}

#else

typedef float Floats __attribute__((vector_size(16)));
#if defined(__aarch64__)
#define STEP(i) __asm__("fmla %0.4s, %1.4s, %2.4s" : "+w"(chain##i) : "w"(scale), "w"(shift));
#else
#define STEP(i) chain##i = chain##i * scale + shift;
#endif
#define DECLARE(i) Floats chain##i = scale * i;
#define COLLECT(i) sum += chain##i;

static double multiply_add_16(Probe *probe) {
    const Floats scale = factors[0] - (Floats){0}, shift = factors[1] - (Floats){0};
    EACH_CHAIN(DECLARE)
    for (int turn = 0; turn < TURNS; turn++) { EACH_CHAIN(STEP) }
    Floats sum = shift;
    EACH_CHAIN(COLLECT)
    probe->sink = sum[0];
    return 2.0 * CHAINS * TURNS * 4;
}
#endif

/* Reads the next PART of the block, or a smaller block again and again; at four places at once, as more requests are
 * then under way to the memory. */
#define READ_BLOCK(BYTES, CODE)                                                                                        \
    CODE static double read_block_##BYTES(Probe *probe) {                                                              \
        typedef float Vector __attribute__((vector_size(BYTES), may_alias));                                           \
        const int64_t rest = probe->bytes - probe->offset, part = rest < PART ? rest : PART, passes = PART / part;     \
        const int64_t q = part / 4 / BYTES;                                                                            \
        const Vector *start = (const Vector *)(probe->block + probe->offset), *end = start + q;                        \
        Vector a = {0}, b = a, c = a, d = a, e = a, f = a, g = a, h = a;                                               \
        for (int64_t pass = 0; pass < passes; pass++)                                                                  \
            for (const Vector *at = start; at < end; at += 2)                                                          \
                a += at[0], b += at[1], c += at[q], d += at[q + 1], e += at[2 * q], f += at[2 * q + 1],                \
                    g += at[3 * q], h += at[3 * q + 1];                                                                \
        probe->sink = (a + b + c + d + e + f + g + h)[0];                                                              \
        probe->offset = (probe->offset + part) % probe->bytes;                                                         \
        return (double)(part * passes);                                                                                \
    }

READ_BLOCK(16, )
#if defined(__x86_64__)
READ_BLOCK(32, AVX2)
READ_BLOCK(64, AVX512)
#endif

static void *measure_one(void *argument) {
    Probe *probe = argument;
    if (probe->bytes && !(probe->block = allocate((size_t)probe->bytes))) return NULL;
    for (int slice = 0; slice < SLICES; slice++) {
        int64_t start = nanoseconds(), now;
        double work = 0;
        do work += probe->once(probe);
        while ((now = nanoseconds()) < start + SLICE);
        double rate = work / (double)(now - start) * 1e9;
        if (rate > probe->rate) probe->rate = rate;
    }
    free(probe->block);
    return NULL;
}

static double measure(double (*once)(Probe *), int64_t bytes, int threads) {
    Probe probes[threads];
    pthread_t others[threads];
    int started = 1;
    double rate = 0;
    for (int i = 0; i < threads; i++) probes[i] = (Probe){.once = once, .bytes = bytes};
    while (started < threads && !pthread_create(&others[started], NULL, measure_one, &probes[started])) started++;
    measure_one(&probes[0]);
    for (int i = 1; i < started; i++) pthread_join(others[i], NULL);
    for (int i = 0; i < started; i++) rate += probes[i].rate;
    return rate;
}

static int lists(const char *const *features, const char *name) {
    while (*features && strcmp(*features, name)) features++;
    return *features != NULL;
}

/* Operations a second of `kind`; 0 where it is not known how to measure. `features`: what the kernels use. */
static double measured_peak(const char *const *features, int kind, int threads) {
    if (threads < 1) return 0;
#if defined(__x86_64__)
    if (kind == PEAK_INT8) return lists(features, "vnni") ? measure(multiply_add_bytes, 0, threads) : 0;
    if (lists(features, "avx512")) return measure(multiply_add_64, 0, threads);
    if (lists(features, "avx2")) return measure(multiply_add_32, 0, threads);
#endif
    return kind == PEAK_FLOAT32 ? measure(multiply_add_16, 0, threads) : 0;
}

/* Bytes a second that `threads` threads read from blocks of `bytes` in all. */
static double measured_bandwidth(const char *const *features, int64_t bytes, int threads) {
    const int64_t turn = 8 * 64;
    int64_t share = threads < 1 ? 0 : bytes / threads / turn * turn;
    if (!share) return 0;
#if defined(__x86_64__)
    if (lists(features, "avx512")) return measure(read_block_64, share, threads);
    if (lists(features, "avx2")) return measure(read_block_32, share, threads);
#endif
    (void)features;
    return measure(read_block_16, share, threads);
}
