"""Programs made by hand, their kernels in C: artifacts without TVM."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from onyxc.backends.program import Buffer, Call, Kernel, Program, Step

# One task is one element, unless said.
KERNELS_C = r"""
#include <stdint.h>
#define EACH for (int32_t i = begin; i < end; i++)
void add(float *a, float *b, float *c, int32_t begin, int32_t end) { EACH c[i] = a[i] + b[i]; }
void twice(float *a, float *c, int32_t begin, int32_t end) { EACH c[i] = 2 * a[i]; }
void split(float *a, float *sign, float *size, int32_t begin, int32_t end) {
    EACH { sign[i] = a[i] < 0 ? -1 : 1; size[i] = a[i] < 0 ? -a[i] : a[i]; }
}
void first_positive(float *a, uint8_t *c, int32_t begin, int32_t end) { EACH c[0] = a[0] > 0; }
void first_below_100(float *a, uint8_t *c, int32_t begin, int32_t end) { EACH c[0] = a[0] < 100; }
void to_float(int64_t *a, float *c, int32_t begin, int32_t end) { EACH c[i] = (float)a[i]; }
void nonzero16(float *a, int64_t *found, int64_t *count, int32_t begin, int32_t end) { /* one task */
    int64_t n = 0;
    for (int32_t i = 0; i < 16; i++) if (a[i] != 0) found[n++] = i;
    count[0] = n;
}
"""

ZIG = {"aarch64": "aarch64-linux-gnu", "armv7": "arm-linux-gnueabihf"}


@cache
def object_code(arch: str = "x86_64", text: str = KERNELS_C) -> bytes:
    """The kernels as a relocatable object file."""
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", ZIG[arch]] if arch in ZIG else ["cc"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "k.c").write_text(text)
        flags = ["-O1", "-g0", "-fPIC", "-c", "k.c", "-o", "k.o", *(["-fno-sanitize=all"] if arch in ZIG else [])]
        subprocess.run([*compiler, *flags], cwd=folder, check=True)
        return Path(folder, "k.o").read_bytes()


def tensor(name: str, shape: tuple[int, ...] = (16,), dtype: str = "float32", kind: Any = "arena") -> Buffer:
    return Buffer(name, dtype, shape, kind)


def constant(name: str, values: Any, dtype: str = "float32") -> Buffer:
    data = np.asarray(values, dtype)
    return Buffer(name, dtype, data.shape, "constant", data)


def call(name: str, *args: Buffer, reads: int | None = None, work: int = 0, tasks: int | None = None) -> Call:
    """A call of the C kernel ``name``; the last argument is what it writes, unless ``reads`` says more are."""
    elements = int(np.prod(args[-1].shape)) if tasks is None else tasks
    return Call(Kernel(name, tasks=elements, work=work), args, len(args) - 1 if reads is None else reads)


def chain(name: str = "chain", elements: int = 16, steps: int = 3, work: int = 0, step: float = 1.0) -> Program:
    """y = x + w + ... + w with ``steps`` additions of w = step * (0, 1, 2, ...)."""
    x, w = tensor("x", (elements,), kind="input"), constant("w", step * np.arange(elements))
    places = [x, *(tensor(f"t{i}", (elements,)) for i in range(steps - 1)), tensor("y", (elements,), kind="output")]
    calls: list[Step] = [call("add", a, w, b, work=work) for a, b in pairwise(places)]
    return Program(name, [x], [places[-1]], calls)


def vector(elements: int = 16) -> np.ndarray[Any, Any]:
    """Small whole numbers of both signs: sums of them are exact in any order."""
    return np.arange(elements, dtype=np.float32) - 5


def have(tool: str) -> bool:
    return shutil.which(tool) is not None
