/* The body of a CUDA artifact, on the driver API of libcuda.so.1 alone. Module and weights are shared by all contexts
 * of the process. The generated part defines before it:
 *
 *   CUBIN                    the kernels' machine code
 *   STAGING_BYTES            room of inputs, outputs and counts in host memory, with their places there
 *   kernels, steps, places   what to launch; a place is an offset into the arena, ~offset into the weights
 *   segments                 steps without control flow between them: each is captured in a graph
 *
 * (records in host.h) and after it entry(), which runs the segments. */
#define DECLARE(name, ...) static int (*name)(__VA_ARGS__);
DRIVER(DECLARE)

/* Call the driver; on an error note it and leave the function with 0. */
#define TRY(name, ...)                                                                                                 \
    do {                                                                                                               \
        if (!succeeded(#name, name(__VA_ARGS__))) return 0;                                                            \
    } while (0)

static int succeeded(const char *call, int code) {
    const char *text = "unknown error";
    if (!code) return 1;
    cuGetErrorName(code, &text);
    fail("CUDA: %s: %s (%d)", call, text, code);
    return 0;
}

static int load_driver(void) {
    const char *path = getenv("ONYXC_LIBCUDA"), *missing = NULL; /* another driver, such as the emulator */
    void *library = dlopen(path && *path ? path : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fail("no CUDA driver: %s", dlerror());
        return 0;
    }
#define FIND(name, ...)                                                                                                \
    if (!(*(void **)&name = dlsym(library, #name))) missing = #name;
    DRIVER(FIND)
    if (missing) fail("the CUDA driver is too old: it has no %s", missing);
    return !missing;
}

/* ---- the device: what all contexts share ---- */

static struct {
    pthread_mutex_t lock;
    int users, device, retained;
    void *context, *module, *functions[KERNELS + 1];
    uint64_t weights;
} device = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int load_code(void) {
    int major = 0, minor = 0, code = cuModuleLoadData(&device.module, CUBIN);
    if (code != 209 /* no binary for this GPU */) return succeeded("cuModuleLoadData", code);
    TRY(cuDeviceGetAttribute, &major, 75, device.device);
    TRY(cuDeviceGetAttribute, &minor, 76, device.device);
    fail("the model is compiled for %s, the device is sm_%d%d: compile it for that", TARGET_NAME, major, minor);
    return 0;
}

static int load_module(const char *weights_path) {
    if (!load_code()) return 0;
    for (int i = 0; i < KERNELS; i++) {
        TRY(cuModuleGetFunction, &device.functions[i], device.module, kernels[i].name);
        if (kernels[i].shared_bytes > 48 << 10) TRY(cuFuncSetAttribute, device.functions[i], 8, kernels[i].shared_bytes);
    }
    if (!WEIGHT_BYTES) return 1;
    char *weights = load_weights(weights_path);
    if (!weights) return 0;
    int done = succeeded("cuMemAlloc_v2", cuMemAlloc_v2(&device.weights, WEIGHT_BYTES)) &&
               succeeded("cuMemcpyHtoD_v2", cuMemcpyHtoD_v2(device.weights, weights, WEIGHT_BYTES));
    unload_weights(weights);
    return done;
}

static int open_device(const char *weights_path) { /* the context becomes current */
    if (!cuInit && !load_driver()) {
        cuInit = NULL;
        return 0;
    }
    TRY(cuInit, 0);
    TRY(cuDeviceGet, &device.device, 0);
    TRY(cuDevicePrimaryCtxRetain, &device.context, device.device);
    device.retained = 1;
    TRY(cuCtxPushCurrent_v2, device.context);
    return load_module(weights_path);
}

static void close_device(void) {
    if (device.weights) cuMemFree_v2(device.weights);
    if (device.module) cuModuleUnload(device.module);
    if (device.retained) cuCtxPopCurrent_v2(&device.context), cuDevicePrimaryCtxRelease_v2(device.device);
    device.weights = 0, device.module = NULL, device.retained = 0;
}

/* ---- a context: arena, staging memory, stream, graphs ---- */

struct Context {
    uint64_t arena;
    char *staging;
    void *stream, *graphs[SEGMENTS + 1];
};

static uint64_t at(Context *context, int64_t place) {
    return place < 0 ? device.weights + ~place : context->arena + place;
}

static int enqueue(Context *context, const Step *step) {
    const int64_t *place = places + step->first;
    if (step->kind == UPLOAD)
        TRY(cuMemcpyHtoDAsync_v2, at(context, place[0]), context->staging + step->staging, step->bytes, context->stream);
    else if (step->kind == DOWNLOAD)
        TRY(cuMemcpyDtoHAsync_v2, context->staging + step->staging, at(context, place[0]), step->bytes, context->stream);
    else if (step->kind == COPY)
        TRY(cuMemcpyDtoDAsync_v2, at(context, place[0]), at(context, place[1]), step->bytes, context->stream);
    else {
        const KernelRecord *k = kernels + step->kernel;
        uint64_t values[MOST_ARGUMENTS];
        void *pointers[MOST_ARGUMENTS];
        for (int i = 0; i < step->count; i++) values[i] = at(context, place[i]), pointers[i] = values + i;
        TRY(cuLaunchKernel, device.functions[step->kernel], k->grid[0], k->grid[1], k->grid[2], k->block[0], k->block[1],
            k->block[2], k->shared_bytes, context->stream, pointers, NULL);
    }
    return 1;
}

static int capture(Context *context, int number) {
    const Segment segment = segments[number];
    void *graph = NULL;
    int done = 1;
    TRY(cuStreamBeginCapture_v2, context->stream, 1 /* of this thread's calls */);
    for (int i = segment.first; i < segment.end && done; i++) done = enqueue(context, steps + i);
    int ended = cuStreamEndCapture(context->stream, &graph);
    if (done && (done = succeeded("cuStreamEndCapture", ended)))
        done = succeeded("cuGraphInstantiateWithFlags", cuGraphInstantiateWithFlags(&context->graphs[number], graph, 0));
    if (graph) cuGraphDestroy(graph);
    return done;
}

static int run_segment(Context *context, int number) {
    TRY(cuGraphLaunch, context->graphs[number], context->stream);
    return 1;
}

static int read_back(Context *context, int64_t place, void *value, size_t bytes) { /* for control flow */
    TRY(cuMemcpyDtoHAsync_v2, value, at(context, place), bytes, context->stream);
    TRY(cuStreamSynchronize, context->stream);
    return 1;
}

static int write_number(Context *context, int64_t place, int64_t value) {
    TRY(cuMemcpyHtoDAsync_v2, at(context, place), &value, sizeof value, context->stream);
    TRY(cuStreamSynchronize, context->stream);
    return 1;
}

static int entry(Context *context); /* generated */

static int fill_context(Context *context) {
    TRY(cuMemAlloc_v2, &context->arena, ARENA_BYTES);
    TRY(cuMemAllocHost_v2, (void **)&context->staging, STAGING_BYTES);
    memset(context->staging, 0, STAGING_BYTES);
    TRY(cuStreamCreate, &context->stream, 1 /* does not wait for the default stream */);
    for (int i = 0; i < SEGMENTS; i++)
        if (!capture(context, i)) return 0;
    return 1;
}

static void empty_context(Context *context) {
    for (int i = 0; i < SEGMENTS; i++)
        if (context->graphs[i]) cuGraphExecDestroy(context->graphs[i]);
    if (context->stream) cuStreamDestroy_v2(context->stream);
    if (context->staging) cuMemFreeHost(context->staging);
    if (context->arena) cuMemFree_v2(context->arena);
}

static Context *body_create(int threads, const char *weights_path) {
    (void)threads;
    Context *context = (Context *)allocate(sizeof *context);
    if (!context) return NULL;
    pthread_mutex_lock(&device.lock);
    int done = device.users ? succeeded("cuCtxPushCurrent_v2", cuCtxPushCurrent_v2(device.context)) : open_device(weights_path);
    if (done && fill_context(context)) {
        device.users++;
        cuCtxPopCurrent_v2(&device.context);
    } else {
        if (done) empty_context(context);
        if (!device.users) close_device();
        else if (done) cuCtxPopCurrent_v2(&device.context);
        free(context);
        context = NULL;
    }
    pthread_mutex_unlock(&device.lock);
    return context;
}

static void body_destroy(Context *context) {
    pthread_mutex_lock(&device.lock);
    cuCtxPushCurrent_v2(device.context);
    empty_context(context);
    free(context);
    if (--device.users) cuCtxPopCurrent_v2(&device.context);
    else close_device();
    pthread_mutex_unlock(&device.lock);
}

static int body_run(Context *context) {
    void *ignored;
    if (!succeeded("cuCtxPushCurrent_v2", cuCtxPushCurrent_v2(device.context))) return ONYXC_ERROR_DEVICE;
    int done = entry(context) && succeeded("cuStreamSynchronize", cuStreamSynchronize(context->stream));
    cuCtxPopCurrent_v2(&ignored);
    return done ? ONYXC_OK : ONYXC_ERROR_DEVICE;
}

static Timing body_timing(Context *context) {
    static const char *const features[] = {NULL};
    (void)context;
    return (Timing){TARGET_NAME, features, 0};
}

static int body_profile(Context *context, int64_t *spent, int64_t *calls) {
    (void)context, (void)spent, (void)calls;
    fail("launches lie in graphs that run as a whole: time them with nsys or ncu");
    return ONYXC_ERROR_DEVICE;
}

static void *body_input(Context *context, int index) { return context->staging + input_staging[index]; }
static const void *body_output(Context *context, int index) { return context->staging + output_staging[index]; }
static int body_bind(Context *context, int index, void *memory) { return (void)context, (void)index, (void)memory, 1; }
static const int64_t *body_output_shape(Context *context, int index) {
    return count_staging[index] < 0 ? NULL : (const int64_t *)(context->staging + count_staging[index]);
}
