// The part of libcuda.so.1 that the host program calls, over the emulated kernels (table: `kernels`, `kernel_count`).
// As strict as a GPU where it is cheap: ranges of copies, launch limits, arguments kept by captured graphs, and a
// device pointer is never readable past its end.
#define API extern "C" __attribute__((visibility("default")))
enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_IMAGE = 200, NO_BINARY = 209, NOT_FOUND = 500 };

struct Allocation {
    unsigned char *pages, *start;
    size_t room, bytes;
};
struct Work { // one node of a graph
    const Emulated *kernel;
    dim3 grid, block;
    size_t bytes; // dynamic shared memory, or of a copy
    std::vector<uint64_t> values;
};
typedef std::vector<Work> Graph;

static std::vector<Allocation> allocations;
static thread_local Graph *recording; // captures are of the calls of one thread
static std::mutex lock;               // of `allocations`, and one launch at a time
static int sticky, contexts;
static size_t shared_limit[4096];
static const size_t PAGE = 4096, GUARD = 64 << 20; // never accessible, behind every allocation

static bool holds(uint64_t address, size_t bytes) {
    std::lock_guard<std::mutex> held(lock);
    for (const Allocation &a : allocations)
        if (address >= (uint64_t)a.start && address + bytes <= (uint64_t)a.start + a.bytes) return true;
    return false;
}

static int perform(Work &work) {
    std::lock_guard<std::mutex> held(lock);
    if (!work.kernel) {
        memmove((void *)work.values[0], (void *)work.values[1], work.bytes);
        return 0;
    }
    std::vector<void *> pointers;
    for (uint64_t &value : work.values) pointers.push_back(&value);
    return sticky = run_launch(*work.kernel, work.grid, work.block, work.bytes, pointers.data());
}

static int submit(Work work) {
    if (sticky) return sticky;
    if (!recording) return perform(work);
    recording->push_back(std::move(work));
    return 0;
}

static int copy(uint64_t target, uint64_t source, size_t bytes, bool to_device, bool from_device) {
    if ((to_device && !holds(target, bytes)) || (from_device && !holds(source, bytes))) return INVALID_VALUE;
    return submit({nullptr, {}, {}, bytes, {target, source}});
}

static int emulated_sm() { // ONYXC_EMULATED_SM=75 makes it that processor, else any cubin is welcome
    const char *arch = getenv("ONYXC_EMULATED_SM");
    return arch ? atoi(arch) : 0;
}

API int cuInit(unsigned) { return 0; }
API int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
API int cuDeviceGetCount(int *count) { return *count = 1, 0; }
API int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, ordinal ? INVALID_VALUE : 0; }
API int cuDeviceGetAttribute(int *value, int attribute, int) {
    int sm = emulated_sm() ? emulated_sm() : 90;
    *value = attribute == 75 ? sm / 10 : attribute == 76 ? sm % 10 : 0;
    return attribute == 75 || attribute == 76 ? 0 : INVALID_VALUE;
}
API int cuDevicePrimaryCtxRetain(void **context, int) { return *context = &contexts, contexts++, 0; }
API int cuDevicePrimaryCtxRelease_v2(int) { return contexts-- > 0 ? 0 : INVALID_VALUE; }
API int cuCtxPushCurrent_v2(void *context) { return context == &contexts ? 0 : INVALID_VALUE; }
API int cuCtxPopCurrent_v2(void **context) { return *context = &contexts, 0; }
API int cuGetErrorName(int code, const char **name) {
    *name = code == INVALID_VALUE   ? "CUDA_ERROR_INVALID_VALUE"
            : code == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
            : code == INVALID_IMAGE ? "CUDA_ERROR_INVALID_IMAGE"
            : code == NOT_FOUND     ? "CUDA_ERROR_NOT_FOUND"
            : code == 700           ? "CUDA_ERROR_ILLEGAL_ADDRESS"
            : code == 719           ? "CUDA_ERROR_LAUNCH_FAILED"
                                    : "CUDA_ERROR_UNKNOWN";
    return 0;
}

API int cuModuleLoadData(void **module, const void *image) {
    *module = (void *)kernels;
    if (memcmp(image, "\x7f" "ELF", 4)) return INVALID_IMAGE;
    int sm = ((const unsigned char *)image)[49]; // second byte of e_flags
    return emulated_sm() && emulated_sm() != sm ? NO_BINARY : 0;
}
API int cuModuleUnload(void *) { return 0; }
API int cuModuleGetFunction(void **function, void *, const char *name) {
    for (size_t i = 0; i < kernel_count; i++)
        if (!strcmp(kernels[i].name, name)) return *function = (void *)&kernels[i], 0;
    fprintf(stderr, "emulator: no kernel is called %s\n", name);
    return NOT_FOUND;
}
API int cuFuncSetAttribute(void *function, int attribute, int value) {
    if (attribute != 8 || value < 0 || (size_t)value > DYNAMIC) return INVALID_VALUE;
    return shared_limit[((Emulated *)function - kernels) % 4096] = value, 0;
}

API int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    size_t used = (bytes + 15) / 16 * 16, room = (used + PAGE - 1) / PAGE * PAGE; // the end lies on the guard
    void *pages = mmap(nullptr, room + GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!bytes || pages == MAP_FAILED) return bytes ? OUT_OF_MEMORY : INVALID_VALUE;
    mprotect(pages, room, PROT_READ | PROT_WRITE);
    unsigned char *start = (unsigned char *)pages + room - used;
    memset(pages, 0xff, room);
    std::lock_guard<std::mutex> held(lock);
    allocations.push_back({(unsigned char *)pages, start, room + GUARD, bytes});
    return *address = (uint64_t)start, 0;
}
API int cuMemFree_v2(uint64_t address) {
    std::lock_guard<std::mutex> held(lock);
    for (size_t i = 0; i < allocations.size(); i++)
        if ((uint64_t)allocations[i].start == address) {
            munmap(allocations[i].pages, allocations[i].room);
            allocations.erase(allocations.begin() + i);
            return 0;
        }
    return INVALID_VALUE;
}
API int cuMemAllocHost_v2(void **memory, size_t bytes) {
    return posix_memalign(memory, PAGE, bytes) ? OUT_OF_MEMORY : 0;
}
API int cuMemFreeHost(void *memory) { return free(memory), 0; }
API int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t n) { return copy(to, (uint64_t)from, n, true, false); }
API int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t n, void *) {
    return copy(to, (uint64_t)from, n, true, false);
}
API int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t n, void *) {
    return copy((uint64_t)to, from, n, false, true);
}
API int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t n, void *) { return copy(to, from, n, true, true); }

API int cuStreamCreate(void **stream, unsigned) { return *stream = &sticky, 0; }
API int cuStreamDestroy_v2(void *) { return 0; }
API int cuStreamSynchronize(void *) { return recording ? 900 : sticky; } // not while capturing
API int cuStreamBeginCapture_v2(void *, int) { return recording = new Graph, 0; }
API int cuStreamEndCapture(void *, void **graph) { return *graph = recording, recording = nullptr, 0; }
API int cuGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long) {
    return *exec = new Graph(*(Graph *)graph), 0;
}
API int cuGraphLaunch(void *exec, void *) {
    for (Work &work : *(Graph *)exec)
        if (int code = sticky ? sticky : perform(work)) return code;
    return 0;
}
API int cuGraphExecDestroy(void *exec) { return delete (Graph *)exec, 0; }
API int cuGraphDestroy(void *graph) { return delete (Graph *)graph, 0; }

API int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                       unsigned dynamic, void *, void **values, void **) {
    const Emulated *kernel = (const Emulated *)function;
    size_t threads = (size_t)bx * by * bz, limit = std::max<size_t>(48 << 10, shared_limit[(kernel - kernels) % 4096]);
    if (!gx || !gy || !gz || gy > 65535 || gz > 65535 || !threads || threads > MOST_THREADS || bz > 64) return INVALID_VALUE;
    if (dynamic > limit || kernel->shared_end - kernel->shared > 48 << 10) return INVALID_VALUE;
    Work work = {kernel, {gx, gy, gz}, {bx, by, bz}, dynamic, {}};
    for (int i = 0; i < kernel->parameters; i++) work.values.push_back(*(uint64_t *)values[i]);
    return submit(std::move(work));
}
