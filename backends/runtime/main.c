/* The program `run` of an artifact: one run of the model on files, or on a stream (for emulators and boards).
 *
 *   run [-t THREADS] [-n TIMES] [-w WEIGHTS] [-o PREFIX] NAME=FILE...   inputs as .npy or raw bytes, outputs written
 *                                                                       to PREFIX0.npy, PREFIX1.npy, ...
 *   run [-t THREADS] [-n TIMES] [-w WEIGHTS] -s                         all inputs as raw bytes in order on stdin; on
 *                                                                       stdout, for each output, its shape (int64
 *                                                                       each) and its raw bytes
 *   -n TIMES runs that often and prints the mean time to stderr.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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

int main(int count, char **arguments) {
    const char *prefix = "output", *weights = NULL;
    int threads = 1, times = 0, stream = 0, next = 1;
    for (; next < count && arguments[next][0] == '-'; next++) {
        char option = arguments[next][1];
        if (option == 's') stream = 1;
        else if (option && strchr("tnwo", option) && next + 1 < count) {
            const char *value = arguments[++next];
            if (option == 't') threads = atoi(value);
            if (option == 'n') times = atoi(value);
            if (option == 'w') weights = value;
            if (option == 'o') prefix = value;
        } else stop("usage: run [-t THREADS] [-n TIMES] [-w WEIGHTS] (-s | [-o PREFIX] NAME=FILE...); not understood: ", arguments[next]);
    }
    model = TABLE();
    void *context = model->create(threads, weights);
    if (!context) stop(model->error(), "");
    if (!stream && count - next != model->inputs) stop("give every input as NAME=FILE", "");
    for (int i = 0; i < model->inputs; i++) {
        if (stream) read_exactly(stdin, model->input_data(context, i), model->input[i].bytes, model->input[i].name);
        else read_input(context, arguments[next + i]);
    }
    run_times(context, times);
    if (stream) stream_outputs(context);
    for (int i = 0; !stream && i < model->outputs; i++) write_output(context, i, prefix);
    model->destroy(context);
    return 0;
}
