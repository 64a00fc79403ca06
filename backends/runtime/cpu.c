/* The body of a CPU artifact. The generated part defines the levels (levels.c), with the places of the tensors:
 * a place is an offset into the arena, or, if negative, ~offset into the weights. In front of the arena are pointers
 * to the inputs and outputs, through which the steps reach them: these may lie elsewhere. */
#define POINTERS (INPUTS + OUTPUTS)
#define FRONT ((POINTERS * sizeof(char *) + 63) / 64 * 64)

struct Context {
    const Level *level;
    char *memory, *arena, *weights;
    Pool *pool;
};

static char *at(Context *context, int64_t place) {
    return place < 0 ? context->weights + ~place : context->arena + place;
}

static void body_destroy(Context *context) {
    if (context->pool) pool_destroy(context->pool);
    if (context->weights) unload_weights(context->weights);
    free(context->memory);
    free(context);
}

static Context *body_create(int threads, const char *weights_path) {
    Context *context = (Context *)allocate(sizeof *context);
    if (!context) return NULL;
    if ((context->level = choose_level(levels, sizeof levels / sizeof *levels)) &&
        (context->weights = load_weights(weights_path)) &&
        (context->memory = allocate(FRONT + (size_t)context->level->arena_bytes)) &&
        (context->arena = context->memory + FRONT) &&
        (context->pool = pool_create(threads, context->arena, context->weights))) {
        for (int i = 0; i < POINTERS; i++) body_bind(context, i, NULL);
        return context;
    }
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


static int body_bind(Context *context, int index, void *memory) {
    if (!context->level->apart[index]) return 1;
    char *own = index < INPUTS ? body_input(context, index) : (char *)body_output(context, index - INPUTS);
    ((char **)context->arena)[index - POINTERS] = memory ? memory : own;
    return 0;
}

static const int64_t *body_output_shape(Context *context, int index) {
    return has_count[index] ? (const int64_t *)at(context, context->level->count_places[index]) : NULL;
}
