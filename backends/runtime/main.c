/* The program `run` of an artifact: one run of the model on files, or on a stream (for emulators and boards).
 *
 *   run [-t THREADS] [-n TIMES] [-w WEIGHTS] [-o PREFIX] NAME=FILE...   inputs as .npy or raw bytes, outputs written
 *                                                                       to PREFIX0.npy, PREFIX1.npy, ...
 *   run [-t THREADS] [-n TIMES] [-w WEIGHTS] -s                         all inputs as raw bytes in order on stdin; on
 *                                                                       stdout, for each output, its shape (int64
 *                                                                       each) and its raw bytes
 *   -n TIMES runs that often and prints the mean time to stderr.
 *   -p TIMES runs in pairs, plain and profiled (0: for a second or two), and prints what `onyxc profile` reads to
 *            stdout instead of the outputs:
 *                level NAME                     the target whose kernels ran
 *                calls N...                     how often each step (steps.json) ran in one run
 *                run PLAIN N...                 for each pair: nanoseconds of the plain run, of each step of the other
 *                peak FLOAT32 INT8              operations a second, measured; 0: not known
 *                bandwidth BYTES RATE           bytes a second, read from so large a block; one line for each size
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "profile.h"

extern const OnyxcProfileV1 *PROFILE(void);
static const OnyxcModelV1 *model;

static void stop(const char *what, const char *which) {
    fprintf(stderr, "run: %s%s\n", what, which);
    exit(1);
}

static int64_t elements(const int64_t *shape, int rank) {
    int64_t count = 1;
    for (int i = 0; i < rank; i++) count *= shape[i];
    return count;
}

static void read_exactly(FILE *file, void *data, int64_t bytes, const char *name) {
    if (fread(data, 1, (size_t)bytes, file) != (size_t)bytes) stop("too few bytes for input ", name);
}

/* A .npy file starts with \x93NUMPY, two version bytes and the length of a text header. */
static void skip_npy_header(FILE *file) {
    unsigned char start[12];
    size_t got = fread(start, 1, 12, file), length;
    if (got < 10 || memcmp(start, "\x93NUMPY", 6)) {
        rewind(file);
        return;
    }
    length = start[6] == 1 ? 10 + start[8] + 256u * start[9] : 12 + start[8] + 256u * start[9] + 65536u * start[10];
    fseek(file, (long)length, SEEK_SET);
}

static void read_input(void *context, const char *argument) {
    const char *path = strrchr(argument, '=');
    for (int i = 0; path && i < model->inputs; i++) {
        const OnyxcTensorV1 *tensor = &model->input[i];
        if (strlen(tensor->name) != (size_t)(path - argument) || strncmp(tensor->name, argument, path - argument)) continue;
        FILE *file = fopen(path + 1, "rb");
        if (!file) stop("cannot open ", path + 1);
        skip_npy_header(file);
        read_exactly(file, model->input_data(context, i), tensor->bytes, tensor->name);
        if (fgetc(file) != EOF) stop("too many bytes in ", path + 1);
        fclose(file);
        return;
    }
    stop("not NAME=FILE with the name of an input: ", argument);
}

static int64_t bytes_of(void *context, int index) {
    const OnyxcTensorV1 *tensor = &model->output[index];
    int64_t bound = elements(tensor->shape, tensor->rank);
    return bound ? tensor->bytes / bound * elements(model->output_shape(context, index), tensor->rank) : 0;
}

static const char *npy_type(const char *dtype) {
    static const char *const types[][2] = {
        {"float32", "<f4"}, {"float64", "<f8"}, {"float16", "<f2"}, {"int8", "|i1"},      {"int16", "<i2"},
        {"int32", "<i4"},   {"int64", "<i8"},   {"uint8", "|u1"},   {"uint16", "<u2"},    {"uint32", "<u4"},
        {"uint64", "<u8"},  {"bool", "|b1"},    {"bfloat16", "<V2"}, {"complex64", "<c8"}, {"complex128", "<c16"},
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(dtype, types[i][0])) return types[i][1];
    return "|V1";
}

static void write_output(void *context, int index, const char *prefix) {
    const OnyxcTensorV1 *tensor = &model->output[index];
    const int64_t *shape = model->output_shape(context, index);
    char path[4096], header[1024];
    int length = snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': (", npy_type(tensor->dtype));
    for (int i = 0; i < tensor->rank; i++)
        length += snprintf(header + length, sizeof header - length, "%lld, ", (long long)shape[i]);
    length += snprintf(header + length, sizeof header - length, ")}");
    while ((length + 11) % 64) header[length++] = ' ';
    header[length++] = '\n';
    snprintf(path, sizeof path, "%s%d.npy", prefix, index);
    FILE *file = fopen(path, "wb");
    if (!file) stop("cannot write ", path);
    fwrite("\x93NUMPY\1", 1, 8, file);
    fputc(length & 255, file);
    fputc(length >> 8, file);
    fwrite(header, 1, (size_t)length, file);
    fwrite(model->output_data(context, index), 1, (size_t)bytes_of(context, index), file);
    if (fclose(file)) stop("cannot write ", path);
}

static void stream_outputs(void *context) {
    for (int i = 0; i < model->outputs; i++) {
        fwrite(model->output_shape(context, i), sizeof(int64_t), (size_t)model->output[i].rank, stdout);
        fwrite(model->output_data(context, i), 1, (size_t)bytes_of(context, i), stdout);
    }
    if (fflush(stdout)) stop("cannot write to stdout", "");
}

static void run_times(void *context, int times) {
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int i = 0; i < (times ? times : 1); i++)
        if (model->run(context)) stop(model->error(), "");
    clock_gettime(CLOCK_MONOTONIC, &end);
    double seconds = (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
    if (times) fprintf(stderr, "%.6f ms\n", seconds * 1e3 / times);
}

static int64_t runs_in_a_second(void *context) {
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    if (model->run(context)) stop(model->error(), "");
    clock_gettime(CLOCK_MONOTONIC, &end);
    int64_t taken = (end.tv_sec - start.tv_sec) * INT64_C(1000000000) + end.tv_nsec - start.tv_nsec;
    int64_t runs = 1000000000 / (taken + 1);
    return runs < 10 ? 10 : runs > 500 ? 500 : runs;
}

static void print_profile(void *context, int64_t runs, int threads) {
    const OnyxcProfileV1 *profile = PROFILE();
    const int steps = profile->steps(context);
    if (model->run(context)) stop(model->error(), "");
    if (runs < 1) runs = runs_in_a_second(context);
    int64_t *times = malloc(((size_t)runs + 1) * (1 + (size_t)steps) * sizeof *times), *calls = times + runs * (1 + steps);
    if (!times) stop("not enough memory for the times of all runs", "");
    if (profile->run(context, (int)runs, times, calls)) stop(model->error(), "");
    printf("level %s\ncalls", model->level(context));
    for (int i = 0; i < steps; i++) printf(" %lld", (long long)calls[i]);
    for (int64_t i = 0; i < runs; i++) {
        printf("\nrun");
        for (int k = 0; k <= steps; k++) printf(" %lld", (long long)times[i * (1 + steps) + k]);
    }
    printf("\npeak %.0f %.0f\n", profile->peak(context, 0, threads), profile->peak(context, 1, threads));
    for (int64_t bytes = 16 << 10; bytes <= 256 << 20; bytes *= 4)
        printf("bandwidth %lld %.0f\n", (long long)bytes, profile->bandwidth(context, bytes, threads));
    free(times);
    if (fflush(stdout)) stop("cannot write to stdout", "");
}

int main(int count, char **arguments) {
    const char *prefix = "output", *weights = NULL;
    int threads = 1, times = 0, stream = 0, pairs = -1, next = 1;
    for (; next < count && arguments[next][0] == '-'; next++) {
        char option = arguments[next][1];
        if (option == 's') stream = 1;
        else if (option && strchr("tnpwo", option) && next + 1 < count) {
            const char *value = arguments[++next];
            if (option == 't') threads = atoi(value);
            if (option == 'n') times = atoi(value);
            if (option == 'p') pairs = atoi(value);
            if (option == 'w') weights = value;
            if (option == 'o') prefix = value;
        } else stop("usage: run [-t THREADS] [-n TIMES | -p TIMES] [-w WEIGHTS] (-s | [-o PREFIX] NAME=FILE...); not understood: ",
                  arguments[next]);
    }
    model = TABLE();
    void *context = model->create(threads, weights);
    if (!context) stop(model->error(), "");
    if (!stream && count - next != model->inputs) stop("give every input as NAME=FILE", "");
    for (int i = 0; i < model->inputs; i++) {
        if (stream) read_exactly(stdin, model->input_data(context, i), model->input[i].bytes, model->input[i].name);
        else read_input(context, arguments[next + i]);
    }
    if (pairs >= 0) print_profile(context, pairs, threads);
    else {
        run_times(context, times);
        if (stream) stream_outputs(context);
        for (int i = 0; !stream && i < model->outputs; i++) write_output(context, i, prefix);
    }
    model->destroy(context);
    return 0;
}
