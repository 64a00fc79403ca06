/* Finding the constants: inside the library (an object file of their own) or in a file beside it. */
#if WEIGHT_BYTES == 0

static char *load_weights(const char *path) {
    static _Alignas(64) char nothing[64];
    (void)path;
    return nothing;
}
static void unload_weights(char *weights) { (void)weights; }

#elif !defined(WEIGHTS_FILE)

extern char MODEL(weights)[] __attribute__((visibility("hidden")));
static char *load_weights(const char *path) {
    (void)path;
    return MODEL(weights);
}
static void unload_weights(char *weights) { (void)weights; }

#else

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* The path of `name` in the folder of the library or program that holds this code. */
static int beside_library(const char *name, char *path, size_t size) {
    unsigned long long first, end, self = (uintptr_t)&fail;
    char line[4352];
    int at = 0, found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    if (!maps) return 0;
    while (!found && fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%llx-%llx %*s %*s %*s %*s %n", &first, &end, &at) < 2 || self < first || self >= end) continue;
        char *slash = strrchr(line + at, '/');
        if (!slash) break;
        found = snprintf(path, size, "%.*s/%s", (int)(slash - (line + at)), line + at, name) < (int)size;
    }
    fclose(maps);
    return found;
}

static char *load_weights(const char *path) {
    char own[4608];
    struct stat status;
    if (!path) {
        if (!beside_library(WEIGHTS_FILE, own, sizeof own)) {
            fail("cannot find the folder of the library: give the path of %s", WEIGHTS_FILE);
            return NULL;
        }
        path = own;
    }
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &status)) {
        fail("cannot open the weights %s: %s", path, strerror(errno));
        if (file >= 0) close(file);
        return NULL;
    }
    void *weights = MAP_FAILED;
    if (status.st_size != WEIGHT_BYTES)
        fail("%s has %lld bytes instead of %lld: it belongs to another model", path, (long long)status.st_size,
             (long long)WEIGHT_BYTES);
    else if ((weights = mmap(NULL, WEIGHT_BYTES, PROT_READ, MAP_PRIVATE, file, 0)) == MAP_FAILED)
        fail("cannot map the weights %s: %s", path, strerror(errno));
    close(file);
    return weights == MAP_FAILED ? NULL : weights;
}
static void unload_weights(char *weights) { munmap(weights, WEIGHT_BYTES); }

#endif
