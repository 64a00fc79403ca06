/* What this processor has, by the names of backends/target.py: a clear refusal instead of an illegal instruction.
 * Asked of the processor itself: the compilers' __builtin_cpu_supports is not the same in all of them.
 * A name that is not known here is a feature that no processor has. */
#if defined(__x86_64__)
#include <cpuid.h>

enum { XMM_YMM = 0x6, XMM_YMM_ZMM = 0xe6 }; /* register states that the system must save */

static unsigned saved_states(void) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int has_feature(const char *name) {
    unsigned a, b, c, d, b7 = 0, c7 = 0, a71 = 0, extended = 0, states = 0;
    if (!__get_cpuid(0x80000001, &a, &b, &extended, &d)) extended = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    if (c >> 27 & 1) states = saved_states(); /* OSXSAVE */
    if (__get_cpuid_count(7, 0, &a, &b7, &c7, &d) && a > 0) __get_cpuid_count(7, 1, &a71, &b, &a, &d);
    int avx = (states & XMM_YMM) == XMM_YMM, avx512 = (states & XMM_YMM_ZMM) == XMM_YMM_ZMM;
    if (!strcmp(name, "sse4.2")) return c >> 20 & 1;
    if (!strcmp(name, "fma")) return avx && (c >> 12 & 1);
    if (!strcmp(name, "avx2")) /* and what comes with it in x86-64-v3: F16C MOVBE LZCNT BMI1 BMI2 */
        return avx && (b7 >> 5 & c >> 29 & c >> 22 & extended >> 5 & b7 >> 3 & b7 >> 8 & 1);
    if (!strcmp(name, "avx512")) /* F DQ CD BW VL */
        return avx512 && (b7 >> 16 & b7 >> 17 & b7 >> 28 & b7 >> 30 & b7 >> 31 & 1);
    if (!strcmp(name, "vnni")) return avx512 && (c7 >> 11 & 1);
    if (!strcmp(name, "bf16")) return avx512 && (a71 >> 5 & 1);
    return 0;
}

#elif defined(__aarch64__)
#include <sys/auxv.h>

static int has_feature(const char *name) {
    if (!strcmp(name, "dotprod")) return getauxval(AT_HWCAP) >> 20 & 1; /* HWCAP_ASIMDDP */
    if (!strcmp(name, "i8mm")) return getauxval(AT_HWCAP2) >> 13 & 1;   /* HWCAP2_I8MM */
    return 0;
}

#else

static int has_feature(const char *name) {
    (void)name;
    return 0;
}

#endif
