"""Compile one kernel for a target and call it on numpy arrays; makes `convolution_reference` importable."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onyxc.backends.kernels.codegen import compile_objects
from onyxc.backends.program import ALIGNMENT, SLACK, Kernel
from onyxc.backends.target import Target, host

sys.path.insert(0, str(Path(__file__).parent))

LEVELS = {"x86-64-v2": 4, "x86-64-v3": 8, "x86-64-v4": 16, "x86-64-v4+vnni": 17, "x86-64-v4+bf16": 18}


def aligned(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy in memory as the runtime gives it: on a cache line, with slack behind (filled with NaN patterns)."""
    raw = np.full(array.nbytes + ALIGNMENT + SLACK, 0xFF, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    copy = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., None]:
    """``call(kernel, target, arrays)``: run all tasks in three uneven ranges; the last array is written in place."""
    numbers = count()

    def run(kernel: Kernel, target: Target, arrays: Sequence[np.ndarray[Any, Any]]) -> None:
        if LEVELS.get(target.name, 99) > LEVELS.get(host().name, 0):
            pytest.skip(f"this machine does not run {target.name}")
        path = tmp_path / f"k{next(numbers)}.o"
        path.write_bytes(compile_objects([kernel], target)[0])
        library = path.with_suffix(".so")
        subprocess.run(["cc", "-shared", "-o", library, path, "-lm"], check=True)
        entry = getattr(ctypes.CDLL(str(library)), kernel.name)
        copies = [aligned(a) for a in arrays]
        cuts = [0, kernel.tasks // 3, kernel.tasks // 3, kernel.tasks - kernel.tasks // 4, kernel.tasks]
        for begin, end in pairwise(cuts):
            entry(*(ctypes.c_void_p(c.ctypes.data) for c in copies), begin, end)
        for array, copy in zip(arrays, copies, strict=True):
            array[...] = copy

    return run
