/* What lies between the public functions (api.c) and the code that computes (the body).
 *
 * An artifact is one translation unit: the generated tables, this header, a body, api.c; everything is static, so
 * that any number of models may live in one process. A body is cpu.c with the generated entry function, or the host
 * program of the CUDA backend. The generated part defines before this header is included:
 *
 *   MODEL(x)          the C identifier prefix_x          ARENA_BYTES, WEIGHT_BYTES
 *   WEIGHTS_FILE      name of the weights file, only if they lie beside the library
 *   REQUIRED_FEATURES list of processor features as strings, each followed by a comma (may be empty)
 */
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct Context Context; /* the body defines the struct */

typedef struct {
    const char *level;           /* name of the target whose kernels the context runs */
    const char *const *features; /* that those use; null behind the last */
    int steps;                   /* that body_profile() times; 0: it cannot */
} Timing;

/* A body defines these. Indices are in range, contexts are not null. */
static Context *body_create(int threads, const char *weights_path); /* null after fail() */
static int body_run(Context *context);                              /* ONYXC_OK or an error code after fail() */
static void *body_input(Context *context, int index);
static const void *body_output(Context *context, int index);
static int body_bind(Context *context, int index, void *memory); /* outputs behind inputs; 1: it cannot */
static const int64_t *body_output_shape(Context *context, int index); /* null: the static shape holds */
static void body_destroy(Context *context);
static Timing body_timing(Context *context);
static int body_profile(Context *context, int64_t *spent, int64_t *calls); /* a run that adds to both, for each step */

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static char last_error[512];

__attribute__((format(printf, 1, 2))) static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(last_error, sizeof last_error, format, arguments);
    va_end(arguments);
}

static char *allocate(size_t bytes) { /* on a cache line, zeroed; null after fail() */
    void *memory = NULL;
    if (posix_memalign(&memory, 64, bytes)) {
        fail("no memory for %zu bytes", bytes);
        return NULL;
    }
    return memset(memory, 0, bytes);
}
