"""Compile kernels to a shared library of its own path and call them from numpy."""

from __future__ import annotations

import ctypes
import itertools
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onyxc.backends.kernels.codegen import compile_objects
from onyxc.backends.kernels.generic import build_all, key
from onyxc.backends.program import ALIGNMENT, SLACK, Kernel
from onyxc.backends.target import Target, host
from onyxc.compiler.ir.types import numpy_dtype

Array = np.ndarray[Any, Any]
_names = itertools.count()


def aligned(shape: Sequence[int], dtype: str) -> Array:
    """An array as kernels expect them: aligned, with slack, and full of a pattern that shows missed writes."""
    kind = numpy_dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64))
    raw = np.full(count * kind.itemsize + ALIGNMENT + SLACK, 0xA5, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + count * kind.itemsize].view(kind).reshape(shape)


def place(values: Array) -> Array:
    """A copy of ``values`` in aligned memory."""
    made = aligned(values.shape, str(values.dtype))
    made[...] = values
    return made


class Library:
    """Compiled kernels, callable by name."""

    def __init__(self, kernels: Sequence[Kernel], folder: Path, target: Target) -> None:
        self.kernels = {k.name: k for k in kernels}
        number = next(_names)
        objects = []
        for index, data in enumerate(compile_objects(list(kernels), target)):
            objects.append(folder / f"k{number}_{index}.o")
            objects[-1].write_bytes(data)
        path = folder / f"k{number}.so"
        subprocess.run(["cc", "-shared", "-Wl,-z,defs", "-o", path, *objects, "-lm"], check=True, capture_output=True)
        self.library = ctypes.CDLL(str(path))

    def call(self, name: str, args: Sequence[Array], parts: int = 1) -> None:
        """Run all tasks of a kernel in ``parts`` ranges, last range first."""
        tasks = self.kernels[name].tasks
        edges = [tasks * i // parts for i in range(parts + 1)]
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in args]
        for begin, end in reversed(list(itertools.pairwise(edges))):
            getattr(self.library, name)(*pointers, ctypes.c_int32(begin), ctypes.c_int32(end))


@pytest.fixture
def native(tmp_path: Path) -> Callable[[Sequence[Kernel]], Library]:
    """A function that compiles and loads kernels for this machine."""
    return lambda kernels: Library(kernels, tmp_path, host())


@pytest.fixture
def for_target(tmp_path: Path) -> Callable[[Sequence[Kernel], Target], Library]:
    """The same for another target that this machine runs."""
    return lambda kernels, target: Library(kernels, tmp_path, target)


@pytest.fixture
def placed() -> Callable[[Array], Array]:
    """`place`, for tests that call kernels themselves."""
    return place


@pytest.fixture
def empty() -> Callable[[Sequence[int], str], Array]:
    """`aligned`, for tests that call kernels themselves."""
    return aligned


@pytest.fixture
def run_group(native: Callable[[Sequence[Kernel]], Library]) -> Callable[..., list[Array]]:
    """``run_group(inputs, outputs, arrays)``: the group's outputs, computed by its compiled kernels."""

    def run(inputs: Sequence[Any], outputs: Sequence[Any], arrays: Sequence[Array]) -> list[Array]:
        pieces, temporaries = build_all("k", inputs, outputs, host())
        library = native([p.kernel for p in pieces])
        memory = {key(t): place(a) for t, a in zip(inputs, arrays, strict=True)}
        for t in (*temporaries, *outputs):
            memory[key(t)] = aligned([int(d) for d in t.shape], str(t.dtype))
        for piece in pieces:
            library.call(piece.kernel.name, [memory[key(t)] for t in piece.args], parts=min(3, piece.kernel.tasks))
        return [memory[key(t)] for t in outputs]

    return run
