"""Small words for imperative lowerings: mutable scalars, conditions, loops, flat views, coordinates, sorting.

An expression that reads memory is evaluated where it is used, not where it is written down; `fix` evaluates now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.kernels.imperative import Array, as_dtype

Expr = Any  # TVM is untyped


def fix(value: Expr) -> Expr:
    """The value that ``value`` has at this place of the program."""
    return T.bind(value)


def span(start: Expr, lanes: int, step: int = 1) -> Expr:
    """The index of ``lanes`` elements, ``step`` apart."""
    return start if lanes == 1 else tirx.Ramp(start, step, lanes)


def hold(value: Expr) -> Expr:
    """``value`` as it is now, through a local array.

    For the results of mathematical functions, on whose Bind TVM's LowerIntrin fails, and for what is used several
    times in a chain: TVM's passes put a Bind's value back in place of the variable, where it doubles each time.
    """
    kind, lanes = str(value.ty.dtype).partition("x")[0], int(value.ty.dtype.lanes)
    local = T.alloc_buffer((lanes,), kind, scope="local")
    T.buffer_store(local, value, [span(0, lanes)])
    return local[span(0, lanes)]


def i32(value: Expr | int) -> Expr:
    """``value`` as an int32, the type of every index."""
    return cast(value, "int32")


def i64(value: Expr | int) -> Expr:
    """``value`` as an int64, the type of counts and of most index tensors."""
    return cast(value, "int64")


def cast(value: Expr | float, dtype: str) -> Expr:
    """``value`` as a ``dtype``; the lanes of a vector stay."""
    if isinstance(value, int | float):
        return tirx.const(value, dtype)
    lanes = int(value.ty.dtype.lanes)
    wanted = dtype if lanes == 1 else f"{dtype}x{lanes}"
    return value if str(value.ty.dtype) == wanted else tirx.Cast(wanted, value)


class Cell:
    """A mutable scalar in a register."""

    def __init__(self, dtype: str, value: Expr | float) -> None:
        self.dtype = dtype
        self._buffer = T.alloc_buffer((1,), dtype, scope="local")
        self.set(value)

    def get(self) -> Expr:
        """The value at the place where the expression is used."""
        return self._buffer[0]

    def set(self, value: Expr | float) -> None:
        """Change the value."""
        T.buffer_store(self._buffer, as_dtype(value, self.dtype), [0])

    def add(self, value: Expr | float) -> None:
        """Increase the value."""
        self.set(self.get() + cast(value, self.dtype))


@contextmanager
def when(condition: Expr) -> Iterator[None]:
    """Statements that run if ``condition`` holds."""
    with T.If(condition), T.Then():
        yield


def choose(condition: Expr, then: Callable[[], None], otherwise: Callable[[], None]) -> None:
    """Statements of ``then`` if ``condition`` holds, else those of ``otherwise``."""
    with T.If(condition):
        with T.Then():
            then()
        with T.Else():
            otherwise()


def copy(target: Array, start: Expr | int, source: Array, first: Expr | int, count: Expr | int) -> None:
    """Copy ``count`` consecutive elements between one-dimensional arrays."""
    with T.serial(0, count) as i:
        if target.dtype == source.dtype:  # as they lie in memory
            T.buffer_store(target.buffer, source.buffer[first + i], [start + i])
        else:
            target[start + i] = source[first + i]


def fill(target: Array, start: Expr | int, count: Expr | int, value: float) -> None:
    """Set ``count`` consecutive elements."""
    with T.serial(0, count) as i:
        target[start + i] = value


def strides(shape: Sequence[int]) -> list[int]:
    """Row-major strides."""
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]


def unravel(index: Expr, shape: Sequence[int]) -> list[Expr]:
    """The coordinates of a row-major position."""
    found: list[Expr] = []
    for extent, step in zip(shape, strides(shape), strict=True):
        part = index if step == 1 else tirx.truncdiv(index, step)
        first = not found
        found.append(i32(0) if extent == 1 else part if first else tirx.truncmod(part, extent))
    return found


def ravel(coordinates: Sequence[Expr], steps: Sequence[int]) -> Expr:
    """The position of ``coordinates`` in memory with strides ``steps``."""
    total: Expr = i32(0)
    for at, step in zip(coordinates, steps, strict=True):
        total = total + at * step
    return total


def split(shape: Sequence[int], axis: int) -> tuple[int, int, int]:
    """Elements before, along and after ``axis``."""
    return prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])


def every(*conditions: Expr) -> Expr:
    """The conjunction."""
    result = conditions[0]
    for condition in conditions[1:]:
        result = tirx.And(result, condition)
    return result


def wrapped(index: Expr, extent: int) -> Expr:
    """An index that may count from the end (negative), as a non-negative int32."""
    index = i32(index)
    return tirx.Select(index < 0, index + extent, index)


Less = Callable[[Expr, Expr], Expr]
Swap = Callable[[Expr, Expr], None]


def sift(count: Expr, root: Expr, less: Less, swap: Swap) -> None:
    """Let the element at ``root`` of a heap with the largest on top sink to its place."""
    at, going = Cell("int32", root), Cell("bool", True)
    with T.While(every(going.get(), at.get() * 2 + 1 < count)):
        left = fix(at.get() * 2 + 1)
        child = Cell("int32", left)
        with when(left + 1 < count), when(less(left, left + 1)):
            child.set(left + 1)
        going.set(False)
        with when(less(at.get(), child.get())):
            swap(at.get(), child.get())
            at.set(child.get())
            going.set(True)


def heapify(count: Expr, less: Less, swap: Swap) -> None:
    """Order elements 0..count as a heap with the largest on top."""
    half = fix(tirx.truncdiv(count, 2))
    with T.serial(0, half) as i:
        sift(count, half - 1 - i, less, swap)


def heapsort(count: Expr, less: Less, swap: Swap) -> None:
    """Sort elements 0..count ascending in place; ``less`` should break ties, the sort is not stable by itself."""
    heapify(count, less, swap)
    unheap(count, less, swap)


def unheap(count: Expr, less: Less, swap: Swap) -> None:
    """From a heap to ascending order."""
    with T.serial(0, T.max(count - 1, 0)) as i:
        last = fix(count - 1 - i)
        swap(i32(0), last)
        sift(last, i32(0), less, swap)
