"""Local response normalization along the last axis, in one pass: vectors of channels and their two neighbours.

    for pixel, for vector of channels:
        s = bias + alpha / size * (sum of the squares of the vector, shifted by every offset of the window)
        y = x * s ^ -3/4

The power comes without a root or a division: a first guess from the exponent's bits (error 4.5 %), then twice
y += y * h * (1/4 + 5/32 h) with h = 1 - s^3 y^4, which cubes the error: 2 units in the last place at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.cpu.epilogue import Epilogue
from onyxc.backends.cpu.shapes import Strides
from onyxc.backends.cpu.vectors import Expr, constant, function, hold, span, strided
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target

_GUESS = 1863655096  # the bits of y for s with no bits: 7/4 of the bits of 1, less what evens out the error
_LARGEST = 3e38  # keeps infinity out of the products
_WORK = 24  # operations of an element beside the window's


@dataclass(frozen=True)
class LrnShape:
    """One normalization of [N, H, W, C] images. ``before``, ``after``: channels of the window on each side."""

    size: tuple[int, int, int, int]
    before: int
    after: int
    scale: float  # alpha / size
    bias: float
    x_strides: Strides
    y_strides: Strides

    @property
    def tasks(self) -> int:
        """Rows of all images."""
        return self.size[0] * self.size[1]


def fits(shape: LrnShape, beta: float, target: Target) -> bool:
    """Whether this template computes it: the usual power, whole vectors, a window that reaches their neighbours."""
    lanes, channels = target.lanes(), shape.size[3]
    reach = max(shape.before, shape.after)
    return beta == 0.75 and channels % lanes == 0 and reach <= lanes and shape.scale >= 0 and shape.bias > 0


def emit(name: str, shape: LrnShape, epilogue: Epilogue, target: Target) -> Kernel:
    """The kernel ``name(x, operands..., y, begin, end)``."""
    _, height, width, channels = shape.size
    lanes = target.lanes()
    vectors = channels // lanes
    with function(name, [("x", "float32"), *epilogue.parameters(), ("y", epilogue.y_dtype)]) as made:
        source, *operands, result = made.pointers
        x = strided(source, "float32", shape.size, shape.x_strides)
        y = strided(result, epilogue.y_dtype, shape.size, shape.y_strides)
        views = epilogue.views(operands, shape.size)
        with T.serial(made.begin, made.end) as row:
            image = T.bind(T.truncdiv(row, height))
            line = T.bind(row - image * height)
            with T.serial(0, width) as pixel, T.serial(0, vectors) as vector:
                load = _loader(x, (image, line, pixel), lanes, vectors)
                own = hold(load(vector))
                squares = [hold(_squares(load, vector, at, vectors, lanes)) for at in (-1, 0, 1)]
                total = reduce(lambda a, b: a + b, (_shifted(squares, d, lanes) for d in _offsets(shape)))
                s = hold(total * constant(shape.scale, "float32", lanes) + constant(shape.bias, "float32", lanes))
                value = own * power(s, lanes)
                epilogue.write(y, value, (image, line, pixel, vector * lanes), lanes, views)
    work = shape.tasks * width * channels * (_WORK + shape.before + shape.after)
    return made.kernel(shape.tasks, work, target, f"LRN, {vectors} vectors of {lanes} channels")


def _offsets(shape: LrnShape) -> range:
    return range(-shape.before, shape.after + 1)


def _loader(x: Expr, at: tuple[Any, ...], lanes: int, vectors: int) -> Callable[[Expr], Expr]:
    """Vector ``number`` of a pixel's channels; one outside gives the nearest inside."""

    def load(number: Expr) -> Expr:
        inside = T.max(T.min(number, vectors - 1), 0) if vectors > 1 else 0
        return x[(*at, span(inside * lanes, lanes))]

    return load


def _squares(load: Callable[[Expr], Expr], vector: Expr, offset: int, vectors: int, lanes: int) -> Expr:
    """The squares of the vector ``offset`` vectors away, zeros where there is none."""
    value = hold(load(vector + offset if offset else vector))
    square = value * value
    if not offset:
        return square
    inside = vector > 0 if offset < 0 else vector < vectors - 1
    return square * tirx.Broadcast(tirx.Cast("float32", inside), lanes)


def _shifted(squares: list[Expr], offset: int, lanes: int) -> Expr:
    """The squares ``offset`` channels further on; ``squares``: of the vector before, this one, and the next."""
    if offset == 0:
        return squares[1]
    pair, first = (squares[:2], lanes + offset) if offset < 0 else (squares[1:], offset)
    return tirx.Shuffle(pair, [tirx.const(first + lane, "int32") for lane in range(lanes)])


def power(s: Expr, lanes: int) -> Expr:
    """s ^ -3/4 for positive float32, NaN for NaN."""

    def number(value: float) -> Expr:
        return constant(value, "float32", lanes)

    s = hold(T.min(number(_LARGEST), s))
    bits = hold(tirx.reinterpret(f"int32x{lanes}", s))
    one, two = (constant(n, "int32", lanes) for n in (1, 2))
    y = hold(tirx.reinterpret(f"float32x{lanes}", constant(_GUESS, "int32", lanes) - ((bits >> one) + (bits >> two))))
    for _ in range(2):
        root = hold(s * y)
        h = hold(number(1) - (root * root) * (root * y))
        y = hold(y + y * (h * (number(1 / 4) + number(5 / 32) * h)))
    return y
