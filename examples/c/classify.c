/* Reads 64 numbers from 0 to 16, an image of 8 x 8 pixels, and says which digit it is.
 *
 *   onyxc demo -o digits && make run
 */
#include "digits.h"
#include <stdio.h>

int main(void) {
    digits_context *context = digits_create(1);
    if (!context) {
        fprintf(stderr, "%s\n", digits_error());
        return 1;
    }
    float *image = digits_input(context, DIGITS_INPUT_IMAGE);
    for (size_t i = 0; i < DIGITS_INPUT_IMAGE_BYTES / sizeof *image; i++) {
        if (scanf("%f", &image[i]) != 1) {
            fprintf(stderr, "expected 64 numbers\n");
            return 1;
        }
        image[i] /= 16;
    }
    if (digits_run(context)) {
        fprintf(stderr, "%s\n", digits_error());
        return 1;
    }
    const float *logits = digits_output(context, DIGITS_OUTPUT_LOGITS);
    int best = 0;
    for (int i = 1; i < 10; i++)
        if (logits[i] > logits[best]) best = i;
    printf("this is a %d\n", best);
    digits_destroy(context);
    return 0;
}
