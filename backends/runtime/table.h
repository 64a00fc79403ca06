#ifndef ONYXC_TABLE_V1
#define ONYXC_TABLE_V1
/* What every onyxc model says about itself, whatever its name (version 1; later versions get new names). */

#define ONYXC_OK 0
#define ONYXC_ERROR_ARGUMENT 1 /* a null context or an index out of range */
#define ONYXC_ERROR_DEVICE 2   /* the device failed: see error() */

typedef struct {
    const char *name;     /* as in the ONNX model */
    const char *dtype;    /* as numpy spells it: float32, int64, bool, ... */
    int32_t rank;
    int32_t is_dynamic;   /* 1: the shape is only a bound; ask output_shape() after a run */
    const int64_t *shape; /* rank numbers */
    int64_t bytes;
} OnyxcTensorV1;

typedef struct {
    int32_t version; /* 1 */
    int32_t inputs, outputs;
    int32_t bytes; /* of this table, which grows at its end: read no field behind (0: nothing from level on) */
    const char *name, *target; /* several targets have commas between them */
    const OnyxcTensorV1 *input, *output;
    int64_t arena_bytes, weight_bytes;
    void *(*create)(int threads, const char *weights);
    int (*run)(void *context);
    void *(*input_data)(void *context, int index);
    const void *(*output_data)(void *context, int index);
    const int64_t *(*output_shape)(void *context, int index);
    void (*destroy)(void *context);
    const char *(*error)(void);
    const char *(*level)(void *context); /* which of the targets runs */
    int (*bind_input)(void *context, int index, const void *memory);
    int (*bind_output)(void *context, int index, void *memory);
} OnyxcModelV1;

#endif
