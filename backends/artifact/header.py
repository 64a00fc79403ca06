"""The C header of an artifact: ``<prefix>.h``, with everything that a C or C++ program needs to run the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onyxc.backends.artifact.manifest import Manifest, Tensor
from onyxc.backends.artifact.names import comment, identifiers

RUNTIME = Path(__file__).parent.parent / "runtime"

_TEMPLATE = """\
#ifndef {UPPER}_H
#define {UPPER}_H
/* {name}, compiled by onyxc for {target}.
 *
 *   {p}_context *context = {p}_create(1);
 *   memcpy({p}_input(context, {first_input}), data, {first_bytes});
 *   {p}_run(context);
 *   const void *result = {p}_output(context, {first_output});
 *   {p}_destroy(context);
 *
 * A context holds {arena} bytes of working memory. Use one for each thread that runs the model at the same time;
 * they share the weights ({weights} bytes{where}).
 */
#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

{table}
{inputs}
{outputs}
typedef struct {p}_context {p}_context;

/* A context that works with `threads` threads (the caller is one of them; 0: one for each processor).
 * Null on failure: {p}_error() says why. */
{p}_context *{p}_create(int threads);
{p}_context *{p}_create_with(int threads, const char *weights); /* path of weights.bin; null: beside the library */
void {p}_destroy({p}_context *context);

/* Where to write an input before a run, and where to find an output after it: dense, row-major, aligned to 64
 * bytes. The place stays the same for the life of the context. A run leaves the inputs as they are. */
void *{p}_input({p}_context *context, int index);
const void *{p}_output({p}_context *context, int index);

/* From now on read an input from `memory`, or write an output to it, in place of the above, without a copy; null: as
 * before. 64 bytes behind the end must be readable; any alignment will do. Refused for a few tensors, such as an output
 * that is an input, or a part of another one. */
int {p}_bind_input({p}_context *context, int index, const void *memory);
int {p}_bind_output({p}_context *context, int index, void *memory);

/* Which target's code runs: the best of those above that the processor has, or the one that the environment variable
 * ONYXC_LEVEL named when the context was created. */
const char *{p}_level({p}_context *context);

/* The shape of an output after a run. Where the shape is dynamic, the elements of this shape lie at the start. */
const int64_t *{p}_output_shape({p}_context *context, int index);

/* Compute the outputs; ONYXC_OK, or an error code and {p}_error(). */
int {p}_run({p}_context *context);

/* What failed last in this process. */
const char *{p}_error(void);

/* All of the above as a table, for programs that do not know the model. */
const OnyxcModelV1 *{p}_table(void);

#ifdef __cplusplus
}}
#endif
#endif
"""


def header(manifest: Manifest) -> str:
    """Text of the header."""
    first = manifest.inputs[0].bytes if manifest.inputs else 0
    upper = manifest.prefix.upper()
    return _TEMPLATE.format(
        p=manifest.prefix,
        UPPER=upper,
        name=comment(manifest.name),
        target=manifest.target,
        first_input=_first(upper, "INPUT", manifest.inputs),
        first_output=_first(upper, "OUTPUT", manifest.outputs),
        first_bytes=first,
        arena=manifest.arena_bytes,
        weights=manifest.weight_bytes,
        where=f" in {manifest.weights}" if manifest.weights else "",
        table=(RUNTIME / "table.h").read_text(),
        inputs=_tensors(upper, "INPUT", manifest.inputs),
        outputs=_tensors(upper, "OUTPUT", manifest.outputs),
    )


def _first(upper: str, side: str, tensors: Sequence[Tensor]) -> str:
    return f"{upper}_{side}_{identifiers(t.name for t in tensors)[0]}" if tensors else "0"


def _tensors(upper: str, side: str, tensors: Sequence[Tensor]) -> str:
    lines = [f"#define {upper}_{side}S {len(tensors)}"]
    for index, (name, tensor) in enumerate(zip(identifiers(t.name for t in tensors), tensors, strict=True)):
        shape = ", ".join(map(str, tensor.shape))
        bound = " at most" if tensor.dynamic else ""
        lines += [
            f"#define {upper}_{side}_{name} {index} /* {comment(tensor.name)}: {tensor.dtype}[{shape}]{bound} */",
            f"#define {upper}_{side}_{name}_BYTES {tensor.bytes}",
        ]
    return "\n".join(lines) + "\n"
