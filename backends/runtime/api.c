/* The public functions, over those of the body (body.h). The generated part defines the tables. */
#define API __attribute__((visibility("default")))

API MODEL(context) *MODEL(create_with)(int threads, const char *weights) {
    return (MODEL(context) *)body_create(threads, weights);
}

API MODEL(context) *MODEL(create)(int threads) { return MODEL(create_with)(threads, NULL); }

API int MODEL(run)(MODEL(context) *context) {
    if (context) return body_run((Context *)context);
    fail("the context is null");
    return ONYXC_ERROR_ARGUMENT;
}

API void *MODEL(input)(MODEL(context) *context, int index) {
    return !context || index < 0 || index >= INPUTS ? NULL : body_input((Context *)context, index);
}

API const void *MODEL(output)(MODEL(context) *context, int index) {
    return !context || index < 0 || index >= OUTPUTS ? NULL : body_output((Context *)context, index);
}

static int lend(void *context, int index, int count, int first, void *memory) {
    if (context && index >= 0 && index < count && !body_bind((Context *)context, first + index, memory)) return ONYXC_OK;
    fail("the tensor cannot lie elsewhere, or the context is null, or the index out of range");
    return ONYXC_ERROR_ARGUMENT;
}

API int MODEL(bind_input)(MODEL(context) *context, int index, const void *memory) {
    return lend(context, index, INPUTS, 0, (void *)memory);
}

API int MODEL(bind_output)(MODEL(context) *context, int index, void *memory) {
    return lend(context, index, OUTPUTS, INPUTS, memory);
}

API const int64_t *MODEL(output_shape)(MODEL(context) *context, int index) {
    if (!context || index < 0 || index >= OUTPUTS) return NULL;
    const int64_t *shape = body_output_shape((Context *)context, index);
    return shape ? shape : output_tensors[index].shape;
}

API const char *MODEL(level)(MODEL(context) *context) {
    return context ? body_timing((Context *)context).level : NULL;
}

API void MODEL(destroy)(MODEL(context) *context) {
    if (context) body_destroy((Context *)context);
}

API const char *MODEL(error)(void) { return last_error; }

static void *any_create(int threads, const char *weights) { return MODEL(create_with)(threads, weights); }
static int any_run(void *context) { return MODEL(run)(context); }
static void *any_input(void *context, int index) { return MODEL(input)(context, index); }
static const void *any_output(void *context, int index) { return MODEL(output)(context, index); }
static const int64_t *any_output_shape(void *context, int index) { return MODEL(output_shape)(context, index); }
static int any_bind_input(void *context, int index, const void *memory) {
    return MODEL(bind_input)(context, index, memory);
}
static int any_bind_output(void *context, int index, void *memory) { return MODEL(bind_output)(context, index, memory); }
static void any_destroy(void *context) { MODEL(destroy)(context); }
static const char *any_level(void *context) { return MODEL(level)(context); }

API const OnyxcModelV1 *MODEL(table)(void) {
    static const OnyxcModelV1 table = {
        1,           INPUTS,       OUTPUTS,      sizeof(OnyxcModelV1), MODEL_NAME, TARGET_NAME, input_tensors,
        output_tensors, ARENA_BYTES, WEIGHT_BYTES, any_create, any_run, any_input, any_output, any_output_shape,
        any_destroy, MODEL(error), any_level, any_bind_input, any_bind_output,
    };
    return &table;
}

#ifdef SHARED_LIBRARY /* the same by a name that all models share; a static archive must not define it */
API const OnyxcModelV1 *onyxc_table_v1(void) { return MODEL(table)(); }
#endif
