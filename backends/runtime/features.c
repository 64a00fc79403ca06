/* Whether this processor can run the artifact: a clear refusal instead of an illegal instruction.
 * Asked of the processor itself: the compilers' __builtin_cpu_supports is not the same in all of them. */
#if defined(__x86_64__)
#include <cpuid.h>

enum { XMM_YMM = 0x6, XMM_YMM_ZMM = 0xe6 }; /* register states that the system must save */

static unsigned saved_states(void) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int has_feature(const char *name) {
    unsigned a, b, c, d, b7 = 0, c7 = 0, states = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    if (c >> 27 & 1) states = saved_states(); /* OSXSAVE */
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d)) b7 = c7 = 0;
    int avx = (states & XMM_YMM) == XMM_YMM, avx512 = (states & XMM_YMM_ZMM) == XMM_YMM_ZMM;
    if (!strcmp(name, "sse4.2")) return c >> 20 & 1;
    if (!strcmp(name, "fma")) return avx && (c >> 12 & 1);
    if (!strcmp(name, "avx2")) return avx && (b7 >> 5 & 1);
    if (!strcmp(name, "avx512")) return avx512 && (b7 >> 16 & b7 >> 17 & b7 >> 30 & b7 >> 31 & 1); /* F DQ BW VL */
    if (!strcmp(name, "vnni")) return avx512 && (c7 >> 11 & 1);
    return 1;
}

#elif defined(__aarch64__)
#include <sys/auxv.h>

static int has_feature(const char *name) {
    if (!strcmp(name, "dotprod")) return getauxval(AT_HWCAP) >> 20 & 1; /* HWCAP_ASIMDDP */
    if (!strcmp(name, "i8mm")) return getauxval(AT_HWCAP2) >> 13 & 1;   /* HWCAP2_I8MM */
    return 1;
}

#else

static int has_feature(const char *name) { return name != NULL; }

#endif

static int processor_fits(void) {
    static const char *const required[] = {REQUIRED_FEATURES NULL};
    for (int i = 0; required[i]; i++)
        if (!has_feature(required[i])) {
            fail("this processor lacks %s, which the artifact was compiled for: compile with another --target", required[i]);
            return 0;
        }
    return 1;
}
