/* The body of a CPU artifact. The generated part defines the levels (levels.c), with the places of the tensors:
 * a place is an offset into the arena, or, if negative, ~offset into the weights. */
struct Context {
    const Level *level;
    char *arena, *weights;
    Pool *pool;
};

static char *at(Context *context, int64_t place) {
    return place < 0 ? context->weights + ~place : context->arena + place;
}

static void body_destroy(Context *context) {
    if (context->pool) pool_destroy(context->pool);
    if (context->weights) unload_weights(context->weights);
    free(context->arena);
    free(context);
}

static Context *body_create(int threads, const char *weights_path) {
    Context *context = (Context *)allocate(sizeof *context);
    if (!context) return NULL;
    if ((context->level = choose_level(levels, sizeof levels / sizeof *levels)) &&
        (context->weights = load_weights(weights_path)) &&
        (context->arena = allocate((size_t)context->level->arena_bytes)) &&
        (context->pool = pool_create(threads, context->arena, context->weights)))
        return context;
    body_destroy(context);
    return NULL;
}

static int body_run(Context *context) {
    context->level->entry(context->pool, context->arena, context->weights, context->pool->scratch);
    return ONYXC_OK;
}

static int body_profile(Context *context, int64_t *spent, int64_t *calls) {
    Clock clock = {nanoseconds(), spent, calls};
    context->level->profiled(context->pool, context->arena, context->weights, context->pool->scratch, &clock);
    return ONYXC_OK;
}

static Timing body_timing(Context *context) {
    return (Timing){context->level->name, context->level->features, context->level->steps};
}

static void *body_input(Context *context, int index) { return at(context, context->level->input_places[index]); }
static const void *body_output(Context *context, int index) { return at(context, context->level->output_places[index]); }

static const int64_t *body_output_shape(Context *context, int index) {
    return has_count[index] ? (const int64_t *)at(context, context->level->count_places[index]) : NULL;
}
