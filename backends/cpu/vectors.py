"""Small words for writing CPU kernels with TVM's IRBuilder: signatures, vectors, tails, prefetch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from onyxc.backends.kernels.codegen import plain
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target

Expr = Any  # TVM is untyped


@dataclass
class Signature:
    """The parameters of the kernel that is being written, and its function once the with block has ended."""

    name: str
    pointers: list[Expr]
    begin: Expr
    end: Expr
    func: Any = None

    def kernel(self, tasks: int, work: int, target: Target, note: str = "") -> Kernel:
        """The finished kernel, in code-generation form; ``note``: its template and plan in words."""
        return Kernel(self.name, tasks, plain(self.func, target), work=work, note=note)


@contextmanager
def function(name: str, parameters: Sequence[tuple[str, str]]) -> Iterator[Signature]:
    """Write ``void name(dtype *parameter, ..., int32_t begin, int32_t end)`` in the block of the with statement."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        pointers = [T.arg(parameter, T.ptr(dtype)) for parameter, dtype in parameters]
        signature = Signature(name, pointers, T.arg("begin", T.int32()), T.arg("end", T.int32()))
        yield signature
    signature.func = builder.get()


def strided(pointer: Expr, dtype: str, shape: Sequence[int], strides: Sequence[int], start: int = 0) -> Expr:
    """A view of ``pointer`` from element ``start`` on, with a stride per dimension, aligned to no more than an element."""
    return T.decl_buffer(tuple(shape), dtype, data=pointer, strides=list(strides), elem_offset=start or None)


def dense(pointer: Expr, dtype: str, shape: Sequence[int]) -> Expr:
    """A row-major view of ``pointer``."""
    return T.decl_buffer(tuple(shape), dtype, data=pointer)


def span(start: Expr, lanes: int, step: int = 1) -> Expr:
    """The index of ``lanes`` elements from ``start`` on."""
    return start if lanes == 1 else tirx.Ramp(start, step, lanes)


def fill(value: Expr, lanes: int) -> Expr:
    """``value`` in every lane."""
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def constant(value: float, dtype: str, lanes: int = 1) -> Expr:
    """A constant of ``dtype`` in every lane."""
    return fill(tirx.const(value, dtype), lanes)


def lanes_of(value: Expr) -> int:
    """Lanes of an expression."""
    return int(value.ty.dtype.lanes)


def cast(value: Expr, dtype: str) -> Expr:
    """``value`` with elements of ``dtype``, lanes kept."""
    lanes = lanes_of(value)
    wanted = dtype if lanes == 1 else f"{dtype}x{lanes}"
    return value if str(value.ty.dtype) == wanted else tirx.Cast(wanted, value)


def across(value: Expr, combine: Callable[[Expr, Expr], Expr]) -> Expr:
    """All lanes combined into one element, halves first."""
    while (lanes := lanes_of(value)) > 1:
        held, half = T.bind(value), range(lanes // 2)
        low, high = (tirx.Shuffle([held], [tirx.const(i + start, "int32") for i in half]) for start in (0, lanes // 2))
        value = combine(low, high)
    return value


def hold(value: Expr) -> Expr:
    """``value`` computed once: it waits in local memory, of which LLVM makes a register (TVM undoes let variables)."""
    lanes = lanes_of(value)
    # TVM's default layout of a buffer takes as long as all else here
    buffer = T.alloc_buffer((lanes,), str(value.ty.dtype).partition("x")[0], scope="local", layout=None)
    T.buffer_store(buffer, value, [span(0, lanes)])
    return buffer[span(0, lanes)]


def store(buffer: Expr, value: Expr, index: Sequence[Expr], valid: int) -> None:
    """Store the first ``valid`` lanes of ``value`` from ``index`` on, contiguous along the last dimension."""
    lanes = lanes_of(value)
    *outer, last = index
    if valid >= lanes:
        T.buffer_store(buffer, value, [*outer, span(last, lanes)])
        return
    mask = tirx.Ramp(0, 1, lanes) < fill(tirx.const(valid, "int32"), lanes)
    T.evaluate(tirx.op.masked_store(buffer, value, *outer, span(last, lanes), mask))


def prefetch(buffer: Expr, index: Sequence[Expr], level: int = 1) -> None:
    """Ask for the cache line of an element; ``level``: nearest cache that takes it."""
    address = tirx.address_of(buffer[tuple(index)])
    hint = [tirx.const(value, "int32") for value in (0, 4 - level, 1)]
    T.evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", address, *hint))
