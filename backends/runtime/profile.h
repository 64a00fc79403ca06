#ifndef ONYXC_PROFILE_V1
#define ONYXC_PROFILE_V1
/* What `onyxc profile` and the program `run` ask of a model beside its table (version 1). */

typedef struct {
    int (*steps)(void *context); /* kernel calls and copies of the context's level; 0: they cannot be timed */

    /* `runs` pairs of a plain and a profiled run. `times` gets runs x (1 + steps) numbers: the nanoseconds of the
     * plain run, then those of each step in the profiled one. `calls`: how often each step ran in a run. */
    int (*run)(void *context, int runs, int64_t *times, int64_t *calls);

    /* Measured on this machine with `threads` threads at once; 0 where it cannot be measured. */
    double (*peak)(void *context, int kind, int threads);           /* operations a second; kinds: see peak.c */
    double (*bandwidth)(void *context, int64_t bytes, int threads); /* bytes a second, reading so large a block */
} OnyxcProfileV1;

#endif
