/* The clock of a profiled run: the time of each step, and how often it ran. The generated steps() tick after each
 * step. They are compiled twice: as profiled(), and with NULL as entry(), where every tick() vanishes. */
#define ALWAYS_INLINE inline __attribute__((always_inline))

typedef struct {
    int64_t last; /* when the step before ended, in nanoseconds */
    int64_t *spent, *calls;
} Clock;

__attribute__((noinline)) static void charge(Clock *clock, int step) {
    clock->spent[step] += nanoseconds() - clock->last;
    clock->calls[step]++;
    clock->last = nanoseconds(); /* read again: what charge() does is nobody's */
}

static ALWAYS_INLINE void tick(Clock *clock, int step) {
    if (clock) charge(clock, step);
}
