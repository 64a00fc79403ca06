/* Timing step by step (profile.h); the last part of an artifact, behind api.c. */
static int64_t clock_cost(void) { /* what reading the clock adds to an interval */
    int64_t least = INT64_MAX;
    for (int i = 0; i < 1000; i++) {
        int64_t start = nanoseconds(), taken = nanoseconds() - start;
        if (taken < least) least = taken;
    }
    return least;
}

static int profile_run(void *context, int runs, int64_t *times, int64_t *calls) {
    const int steps = body_timing(context).steps;
    const int64_t cost = clock_cost();
    for (; runs > 0; runs--, times += 1 + steps) {
        int64_t start = nanoseconds();
        int error = body_run(context);
        times[0] = nanoseconds() - start - cost;
        memset(times + 1, 0, (size_t)steps * sizeof *times);
        memset(calls, 0, (size_t)steps * sizeof *calls);
        if (error || (error = body_profile(context, times + 1, calls))) return error;
        for (int i = 1; i <= steps; i++) {
            times[i] -= calls[i - 1] * cost;
            if (times[i] < 0) times[i] = 0;
        }
    }
    return ONYXC_OK;
}

static int profile_steps(void *context) { return body_timing(context).steps; }
static double profile_peak(void *context, int kind, int threads) {
    return measured_peak(body_timing(context).features, kind, threads);
}
static double profile_bandwidth(void *context, int64_t bytes, int threads) {
    return measured_bandwidth(body_timing(context).features, bytes, threads);
}

API const OnyxcProfileV1 *MODEL(profile)(void) {
    static const OnyxcProfileV1 profile = {profile_steps, profile_run, profile_peak, profile_bandwidth};
    return &profile;
}
