/* What host.c and its generated tables share: records, and the driver's functions that are looked up by name. */
#include <dlfcn.h>

typedef struct { const char *name; unsigned grid[3], block[3], shared_bytes; } KernelRecord;
typedef struct { int32_t kind, kernel, first, count; int64_t bytes, staging; } Step;
typedef struct { int32_t first, end; } Segment;
enum { LAUNCH, COPY, UPLOAD, DOWNLOAD };

#define DRIVER(X)                                                                                                      \
    X(cuInit, unsigned)                                                                                                \
    X(cuDeviceGet, int *, int)                                                                                         \
    X(cuDeviceGetAttribute, int *, int, int)                                                                           \
    X(cuDevicePrimaryCtxRetain, void **, int)                                                                          \
    X(cuDevicePrimaryCtxRelease_v2, int)                                                                               \
    X(cuCtxPushCurrent_v2, void *)                                                                                     \
    X(cuCtxPopCurrent_v2, void **)                                                                                     \
    X(cuGetErrorName, int, const char **)                                                                              \
    X(cuModuleLoadData, void **, const void *)                                                                         \
    X(cuModuleUnload, void *)                                                                                          \
    X(cuModuleGetFunction, void **, void *, const char *)                                                              \
    X(cuFuncSetAttribute, void *, int, int)                                                                            \
    X(cuMemAlloc_v2, uint64_t *, size_t)                                                                               \
    X(cuMemFree_v2, uint64_t)                                                                                          \
    X(cuMemAllocHost_v2, void **, size_t)                                                                              \
    X(cuMemFreeHost, void *)                                                                                           \
    X(cuMemcpyHtoD_v2, uint64_t, const void *, size_t)                                                                 \
    X(cuMemcpyHtoDAsync_v2, uint64_t, const void *, size_t, void *)                                                    \
    X(cuMemcpyDtoHAsync_v2, void *, uint64_t, size_t, void *)                                                          \
    X(cuMemcpyDtoDAsync_v2, uint64_t, uint64_t, size_t, void *)                                                        \
    X(cuStreamCreate, void **, unsigned)                                                                               \
    X(cuStreamDestroy_v2, void *)                                                                                      \
    X(cuStreamSynchronize, void *)                                                                                     \
    X(cuStreamBeginCapture_v2, void *, int)                                                                            \
    X(cuStreamEndCapture, void *, void **)                                                                             \
    X(cuGraphInstantiateWithFlags, void **, void *, unsigned long long)                                                \
    X(cuGraphLaunch, void *, void *)                                                                                   \
    X(cuGraphExecDestroy, void *)                                                                                      \
    X(cuGraphDestroy, void *)                                                                                          \
    X(cuLaunchKernel, void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,   \
      void **)
