"""Kernels for operators that are programs rather than expressions: TopK, NonZero, NonMaxSuppression, LSTM.

Such an operator is an `Imperative`: its outputs, a number of independent tasks, and ``emit``, which writes the
statements of one task. Buffers look like arrays, so that the code reads like the algorithm:

    def emit(row, inputs, outputs, e):                       # CumSum along the last axis
        (x,), (y,) = inputs, outputs
        total = e.var("float32", 0)
        with e.for_(x.shape[1]) as i:
            total.value = total.value + x[row, i]
            y[row, i] = total.value

    build_imperative("cumsum", [((8, 100), "float32")], Imperative([((8, 100), "float32")], 8, emit), target)

A condition or an index is evaluated where it is written; a value that must not follow later writes is kept by
`Emitter.bind`. The same `emit` serves a CPU, where a task is a turn of a loop, and CUDA, where it is a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

from tvm import tirx
from tvm.ir import Expr as TvmExpr
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import expr as nodes
from tvm.tirx.script import builder as T

from onyxc.backends.kernels.codegen import attributes, plain
from onyxc.backends.kernels.expression import Expr, Var, dtype_of, narrow
from onyxc.backends.kernels.floats import FORMATS, computed_dtype, decode, encode, encode8, memory_dtype
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target

Spec = tuple[tuple[int, ...], str]  # shape, dtype
LOCAL_BYTES = 1024  # above, LLVM for aarch64 runs out of stack offsets; use scratch


@dataclass(frozen=True)
class Pack:
    """Another form of a constant input: its ``shape``, and how ``make`` gets it at compile time."""

    shape: tuple[int, ...]
    make: Callable[[Any], Any]


@dataclass
class Imperative:
    """One operator as a program.

    ``emit(task, inputs, outputs, emitter)`` writes one of ``tasks`` independent tasks; ``scratch`` are
    temporaries in the arena, shared by all tasks (give each its part), at ``emitter.scratch``.
    ``work``: operations in all, about. ``packs``: for a CPU, forms of the node's inputs, by number, in which the
    program takes those that are constants; ``packed`` are those that come so, which ``emitter.packed`` tells.
    """

    outputs: list[Spec]
    tasks: int
    emit: Callable[[Var, list[Array], list[Array], Emitter], None]
    scratch: list[Spec] = field(default_factory=list)
    work: int = 0
    packs: Callable[[Target], dict[int, Pack]] | None = None
    packed: frozenset[int] = frozenset()


def build_imperative(name: str, input_specs: Sequence[Spec], imp: Imperative, target: Target) -> Kernel:
    """The CPU kernel ``name(inputs..., outputs..., scratch..., begin, end)``."""
    func = plain(build_body(name, input_specs, imp, target), target)
    return Kernel(name, imp.tasks, func, work=imp.work, note=f"program of {imp.tasks} tasks")


def build_body(name: str, input_specs: Sequence[Spec], imp: Imperative, target: Target) -> Any:
    """The function before lowering: tasks begin..end one after the other."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name(name)
        T.func_attr(attributes(name, target))
        specs = [*input_specs, *imp.outputs, *imp.scratch]
        pointers = [T.arg(f"p{i}", T.ptr(memory_dtype(dtype))) for i, (_, dtype) in enumerate(specs)]
        begin, end = (T.arg(n, T.int32()) for n in ("begin", "end"))
        emitter = Emitter(target, imp.packed)
        arrays = [emitter.array(p, *spec) for p, spec in zip(pointers, specs, strict=True)]
        reads, writes = len(input_specs), len(input_specs) + len(imp.outputs)
        emitter.scratch = arrays[writes:]
        with T.serial(begin, end) as task:
            T.evaluate(tirx.const(0, "int32"))  # a task may write nothing
            imp.emit(task, arrays[:reads], arrays[reads:writes], emitter)
    return builder.get()


class Array:
    """A buffer with a shape. ``a[i, j]`` reads, ``a[i, j] = value`` writes, converting to its dtype.

    Narrow floats read as float32, bool as bool. Indices are not checked.
    """

    def __init__(
        self, emitter: Emitter, buffer: Any, shape: Sequence[int], dtype: str, lane: tuple[Expr, int] | None = None
    ) -> None:
        self.emitter, self.buffer, self.shape, self.dtype = emitter, buffer, tuple(shape), dtype
        self._lane = lane  # a local array of a vectorised loop has a copy a lane

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def flat(self) -> Array:
        """The same memory with one index."""
        return self.reshape(self.size)

    def reshape(self, *shape: int) -> Array:
        """The same memory, indexed in another shape."""
        return Array(self.emitter, self.buffer, shape, self.dtype, self._lane)

    def _offset(self, indices: Any) -> Expr:
        indices = indices if isinstance(indices, tuple) else (indices,)
        if len(indices) != len(self.shape):
            raise IndexError(f"{len(indices)} indices for shape {self.shape}")
        offset: Expr = tirx.const(0, "int32")
        for index, extent in zip(indices, self.shape, strict=True):
            offset = offset * extent + (index if isinstance(index, int) else narrow(index))
        return offset if self._lane is None else offset * self._lane[1] + self._lane[0]

    def __getitem__(self, indices: Any) -> Expr:
        return decode(tirx.BufferLoad(self.buffer, [self._offset(indices)]), self.dtype)

    def __setitem__(self, indices: Any, value: Any) -> None:
        made = as_dtype(value, computed_dtype(self.dtype))
        if self.dtype in FORMATS:
            made = encode8(made, self.dtype, self.emitter.keep)
        T.buffer_store(self.buffer, encode(made, self.dtype), [self._offset(indices)])


class Variable:
    """A mutable local scalar: read and assign ``value``."""

    def __init__(self, array: Array) -> None:
        self.array = array

    @property
    def value(self) -> Expr:
        """The current value."""
        return self.array[0]

    @value.setter
    def value(self, value: Any) -> None:
        self.array[0] = value


class Emitter:
    """Statements, for the code of one task."""

    def __init__(self, target: Target, packed: frozenset[int] = frozenset()) -> None:
        self.target, self.packed = target, packed
        self.scratch: list[Array] = []
        self._lane: tuple[Expr, int] | None = None
        self._last: Expr | None = None  # condition of the `if_` that was closed last

    def array(self, pointer: Var, shape: Sequence[int], dtype: str) -> Array:
        """An argument as an array."""
        buffer = T.decl_buffer((max(1, prod(shape)),), memory_dtype(dtype), data=pointer)
        return Array(self, buffer, shape, dtype)

    def local(self, shape: Sequence[int], dtype: str) -> Array:
        """A small uninitialised array on the stack (or in registers, when all indices are constants)."""
        kind = memory_dtype(dtype)
        if prod(shape) * 8 > LOCAL_BYTES * 2:
            raise ValueError(f"a local array of shape {tuple(shape)} is too large; use scratch")
        lanes = self._lane[1] if self._lane else 1
        buffer = T.alloc_buffer((max(1, prod(shape)) * lanes,), kind, scope="local")
        return Array(self, buffer, shape, dtype, self._lane)

    def var(self, dtype: str, init: Any) -> Variable:
        """A mutable scalar that starts at ``init``."""
        made = Variable(self.local((1,), dtype))
        made.value = init
        return made

    def bind(self, value: Expr) -> Expr:
        """``value`` as it is now."""
        return T.bind(value)

    def keep(self, value: Expr) -> Expr:
        """``value`` through memory, for `encode8`."""
        variable = self.var(dtype_of(value), value)
        return variable.value

    @contextmanager
    def for_(self, start: Any, stop: Any = None) -> Iterator[Var]:
        """A loop over ``range(start)`` or ``range(start, stop)``; bounds may be expressions."""
        low, high = (0, start) if stop is None else (start, stop)
        low, high = (v if isinstance(v, int) else narrow(v) for v in (low, high))
        with T.serial(low, high) as index:
            yield index

    def vectorised(self, extent: int, dtype: str = "float32") -> Iterator[Expr]:
        """``for i in e.vectorised(n): ...``: turns that do not depend on each other, several at once on a CPU.

        The body runs in Python once for the whole vectors of ``dtype`` and once for the rest. It may use
        `for_`, `var` and `local` (a copy a lane), but neither `if_` nor `while_`: select values instead.
        """
        lanes = 1 if self.target.kind == "cuda" else self.target.lanes(8 if dtype.endswith("64") else 4)
        whole = extent // lanes if lanes > 1 else 0
        if whole:
            with T.serial(0, whole) as block, T.vectorized(0, lanes) as lane:
                self._lane = (lane, lanes)
                yield block * lanes + lane
                self._lane = None
        if whole * lanes < extent:
            with T.serial(whole * lanes, extent) as index:
                yield index

    @contextmanager
    def while_(self, condition: Expr) -> Iterator[None]:
        """A loop as long as ``condition``, read anew before each turn, holds."""
        self._scalar("while_")
        with T.While(condition):
            yield

    def _scalar(self, what: str) -> None:
        if self._lane is not None:
            raise ValueError(f"{what} inside vectorised: lanes cannot go different ways; use tirx.Select")

    @contextmanager
    def if_(self, condition: Expr) -> Iterator[None]:
        """Statements for when ``condition`` holds; `else_` may follow."""
        self._scalar("if_")
        decided = T.bind(condition)
        with T.If(decided), T.Then():
            yield
        self._last = decided

    @contextmanager
    def else_(self) -> Iterator[None]:
        """Statements for when the condition of the `if_` that was just closed did not hold."""
        decided, self._last = self._last, None
        if decided is None:
            raise ValueError("else_ must follow an if_")
        with T.If(nodes.Not(decided)), T.Then():
            yield


def as_dtype(value: Any, dtype: str) -> Expr:
    """``value``, a number or an expression, in ``dtype``."""
    if not isinstance(value, TvmExpr):
        return tirx.const(value, dtype)
    if dtype_of(value) == dtype:
        return value
    if dtype == "bool":
        return nodes.NE(value, tirx.const(0, dtype_of(value)))
    if dtype_of(value) == "bool":
        return nodes.Select(value, tirx.const(1, dtype), tirx.const(0, dtype))
    return nodes.Cast(dtype, value)
