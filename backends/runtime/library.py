"""The shared library of an artifact through ctypes, and its contexts. Mirrors table.h."""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Mapping, Sequence
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int32, c_int64, c_void_p
from functools import partial
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from onyxc.backends.runtime.specs import Array, Spec
from onyxc.compiler.errors import ModelError, OnyxcError

VERSION = 1
LARGE = 1 << 18  # bytes from which on a tensor is read or written where its array lies: binding it costs a microsecond
SLACK, LINE = 64, 64  # bytes behind a tensor that kernels may read; bytes of a cache line


class _TensorV1(Structure):
    _fields_ = (
        ("name", c_char_p),
        ("dtype", c_char_p),
        ("rank", c_int32),
        ("is_dynamic", c_int32),
        ("shape", POINTER(c_int64)),
        ("bytes", c_int64),
    )


class TableV1(Structure):
    """``OnyxcModelV1``."""

    _fields_ = (
        ("version", c_int32),
        ("inputs", c_int32),
        ("outputs", c_int32),
        ("bytes", c_int32),
        ("name", c_char_p),
        ("target", c_char_p),
        ("input", POINTER(_TensorV1)),
        ("output", POINTER(_TensorV1)),
        ("arena_bytes", c_int64),
        ("weight_bytes", c_int64),
        ("create", CFUNCTYPE(c_void_p, c_int, c_char_p)),
        ("run", CFUNCTYPE(c_int, c_void_p)),
        ("input_data", CFUNCTYPE(c_void_p, c_void_p, c_int)),
        ("output_data", CFUNCTYPE(c_void_p, c_void_p, c_int)),
        ("output_shape", CFUNCTYPE(c_void_p, c_void_p, c_int)),
        ("destroy", CFUNCTYPE(None, c_void_p)),
        ("error", CFUNCTYPE(c_char_p)),
        ("level", CFUNCTYPE(c_char_p, c_void_p)),
        ("bind_input", CFUNCTYPE(c_int, c_void_p, c_int, c_void_p)),
        ("bind_output", CFUNCTYPE(c_int, c_void_p, c_int, c_void_p)),
    )


class RunError(OnyxcError):
    """The artifact could not be started, or a run failed; the message is the library's own."""


def load_table(path: Path) -> TableV1:
    """The table of the library at ``path``.

    dlopen takes a library that it has seen under the same name for the same one. A link of a fresh name makes it
    look at the file, so that a rebuilt library is loaded anew and an unchanged one is shared.

    Raises:
        ModelError: it does not load, or is not an onyxc library of this version.
    """
    with tempfile.TemporaryDirectory(prefix="onyxc-") as folder:
        link = os.path.join(folder, path.name)
        os.symlink(path.resolve(), link)
        try:
            library = ctypes.CDLL(link)
        except OSError as error:
            raise ModelError(f"cannot load {path}: {str(error).replace(link, str(path))}") from None
    try:
        get = library.onyxc_table_v1
    except AttributeError:
        raise ModelError(f"{path} has no onyxc_table_v1: it is not an onyxc library of version {VERSION}") from None
    get.restype = POINTER(TableV1)
    table: TableV1 = get().contents
    return table


class Context:
    """Working memory of one run at a time; arrays over its inputs and outputs."""

    def __init__(self, table: TableV1, inputs: Sequence[Spec], outputs: Sequence[Spec], threads: int, weights: Path | None):
        self.table = table
        self.handle = table.create(threads, os.fsencode(weights) if weights else None)
        if not self.handle:
            raise RunError(_message(table))
        self.inputs = [_array(table.input_data(self.handle, i), s, s.shape) for i, s in enumerate(inputs)]
        self.outputs = [None if s.dynamic else self.output(i, s, s.shape) for i, s in enumerate(outputs)]
        self.output_specs = outputs
        # what a run needs, looked up once: around a small model it takes a good part of the time
        self._run = table.run
        bind_in, bind_out = (table.bind_input, table.bind_output) if table.bytes >= ctypes.sizeof(TableV1) else (None, None)
        self._named = [
            (s.name, s.dtype, s.shape, a, self._may(bind_in, i, a))
            for i, (s, a) in enumerate(zip(inputs, self.inputs, strict=True))
        ]
        self._lent: set[int] = set()
        self._apart = [i for i, a in enumerate(self.outputs) if self._may(bind_out, i, a)]
        self._copies = [partial(self.dynamic, i) if a is None else a.copy for i, a in enumerate(self.outputs)]

    def accept(self, feeds: Mapping[str, Any]) -> bool:
        """Copy ``feeds`` in if they are exactly the inputs; otherwise the caller finds out what is wrong."""
        named = self._named
        if len(feeds) != len(named):
            return False
        for index, (name, dtype, shape, place, apart) in enumerate(named):
            array = feeds.get(name)
            if type(array) is not ndarray or array.shape != shape:
                return False
            if array.dtype is not dtype and array.dtype != dtype:
                return False
            if not (apart and self._lend(index, array)):
                place[...] = array
        return True

    def take(self, arrays: Sequence[Array]) -> None:
        """Copy in the inputs in order, or have large ones read where they lie."""
        for index, (array, (*_, place, apart)) in enumerate(zip(arrays, self._named, strict=True)):
            if not (apart and self._lend(index, array)):
                place[...] = array

    def run(self) -> list[Array]:
        """Run on the inputs that were taken; arrays of their own for the outputs."""
        own = {i: self._room(i) for i in self._apart}
        try:
            if self._run(self.handle):
                raise RunError(_message(self.table))
        finally:
            if own or self._lent:
                self._release()
        return [own[i] if i in own else copy() for i, copy in enumerate(self._copies)]

    def _may(self, bind: Any, index: int, place: Array | None) -> bool:
        """Whether a tensor is large, and may lie outside of the context's memory."""
        return bind is not None and place is not None and place.nbytes >= LARGE and not bind(self.handle, index, None)

    def _lend(self, index: int, array: Array) -> bool:
        """Have an input read where ``array`` lies, if it is dense and its last page holds what kernels may read behind."""
        start = array.ctypes.data
        last = start + array.nbytes - 1
        fits = array.flags.c_contiguous and last // PAGESIZE == (last + SLACK) // PAGESIZE
        self.table.bind_input(self.handle, index, start if fits else None)
        self._lent.add(index)
        return fits

    def _room(self, index: int) -> Array:
        """A new array, to which the next run writes an output."""
        place = self.outputs[index]
        assert place is not None
        memory = np.empty(place.nbytes + SLACK + LINE, np.uint8)
        skip = -memory.ctypes.data % LINE
        self.table.bind_output(self.handle, index, memory.ctypes.data + skip)
        return np.ndarray(place.shape, place.dtype, memory, skip)

    def _release(self) -> None:
        """All tensors back in the context's memory: arrays may go after the run."""
        for index in self._lent:
            self.table.bind_input(self.handle, index, None)
        for index in self._apart:
            self.table.bind_output(self.handle, index, None)
        self._lent.clear()

    def dynamic(self, index: int) -> Array:
        """A copy of an output whose shape this run decided."""
        spec = self.output_specs[index]
        shape = (c_int64 * len(spec.shape)).from_address(self.table.output_shape(self.handle, index))
        return self.output(index, spec, tuple(shape)).copy()

    def output(self, index: int, spec: Spec, shape: tuple[int, ...]) -> Array:
        """An array over an output's memory."""
        return _array(self.table.output_data(self.handle, index), spec, shape)

    @property
    def level(self) -> str:
        """The target, of those that the artifact holds, whose code runs."""
        return str(self.table.level(self.handle).decode())

    def close(self) -> None:
        """Free everything; the arrays over the memory must not be used any more."""
        handle, self.handle = self.handle, None
        self.inputs, self.outputs, self._named, self._copies = [], [], [], []
        if handle:
            self.table.destroy(handle)


def _array(address: int, spec: Spec, shape: tuple[int, ...]) -> Array:
    count = int(np.prod(shape, dtype=np.int64))
    memory = (ctypes.c_uint8 * (count * spec.dtype.itemsize)).from_address(address)
    return np.ndarray(shape, spec.dtype, memoryview(memory))


def _message(table: TableV1) -> str:
    return str((table.error() or b"unknown error").decode(errors="replace"))
