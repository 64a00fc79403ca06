/* The levels of an artifact: one program compiled for several processors, and the choice among them. */
typedef struct {
    const char *name;
    const char *const *features; /* that the processor must have; null behind the last */
    int64_t arena_bytes;
    int steps; /* that tick */
    void (*entry)(Pool *pool, char *A, char *W, char *S); /* runs all steps */
    void (*profiled)(Pool *pool, char *A, char *W, char *S, Clock *clock);
    const int64_t *input_places, *output_places, *count_places;
    const char *apart; /* for each input, then each output, whether it may lie outside of the arena */
} Level;

static const char *missing_feature(const Level *level) {
    const char *const *feature = level->features;
    while (*feature && has_feature(*feature)) feature++;
    return *feature;
}

/* The first of `levels` (the best is first) that this processor can run, or the one that the environment variable
 * ONYXC_LEVEL names; null after fail(). */
static const Level *choose_level(const Level *levels, int count) {
    const char *wanted = getenv("ONYXC_LEVEL"), *missing = NULL;
    for (int i = 0; i < count; i++) {
        if (wanted && *wanted && strcmp(wanted, levels[i].name)) continue;
        if (!(missing = missing_feature(&levels[i]))) return &levels[i];
    }
    if (missing)
        fail("this processor lacks %s, which the artifact was compiled for: compile with another --target", missing);
    else
        fail("ONYXC_LEVEL is %s, but the artifact holds %s", wanted, TARGET_NAME);
    return NULL;
}
