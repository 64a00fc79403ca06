"""Our own operators on quantized tensors (compiler/ir/integer.py holds their exact meaning).

The code generator contracts a product with a following addition where the processor can: `exact` keeps it from that,
and `fused` asks for it, on every processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.tirx.script import builder as T

from onyxc.backends.kernels.imperative import Imperative
from onyxc.backends.kernels.mathematics import fused
from onyxc.backends.lowering.code import Code, kernel
from onyxc.backends.lowering.pooling import Pool
from onyxc.backends.lowering.quantization import finished, limits
from onyxc.backends.lowering.registry import elementwise, imperative, lowers, static
from onyxc.backends.lowering.scalar import at_most, attr, bits, cast, like
from onyxc.backends.lowering.tensors import Inputs, at, compute, guarded, needed, shape_of
from onyxc.backends.lowering.words import Cell, fix, i32, split
from onyxc.compiler.ir.graph import Node
from onyxc.compiler.ir.integer import add_constants, scalar
from onyxc.compiler.ir.schema import DOMAIN

Expr = Any
UNROLLED = 64  # taps of a pool
MOST = 3e38  # more than any product here; LLVM knows signs, but no sizes of floats, so that the comparison stays


def finish(node: Node, real: Expr, zero_point: int = 0) -> Expr:
    """Round half to even, add the zero point, clip to [low, high]."""
    offset = like(real, zero_point) if zero_point else None
    return finished(real, offset, node.integer("low"), node.integer("high"), attr(node, "dtype"))


def number(x: Expr, zero_point: int = 0) -> Expr:
    """An integer less its zero point, as float32."""
    x = cast(x, "int32")
    return cast(x - like(x, zero_point) if zero_point else x, "float32")


def exact(x: Expr, factor: float) -> Expr:
    """A float32 times a float32, rounded to float32 by itself: no sum can reach through the comparison."""
    return at_most(x * like(x, float(factor)), like(x, MOST))


@elementwise("Requantize", domain=DOMAIN)
def requantize(node: Node, acc: Expr, scale: Expr) -> Expr:
    """An int32 accumulator in the scale of the output."""
    return finish(node, cast(acc, "float32") * scale, node.integer("zero_point"))


@elementwise("Rescale", domain=DOMAIN)
def rescale(node: Node, x: Expr) -> Expr:
    """A quantized tensor in another scale."""
    (sx, zx), (sy, zy) = scalar(node, "x"), scalar(node, "y")
    real = number(x, zx)
    return finish(node, real * like(real, float(sx)) / like(real, float(sy)), zy)


@elementwise("QAdd", domain=DOMAIN)
def add(node: Node, a: Expr, b: Expr) -> Expr:
    """The sum of quantized tensors."""
    ra, rb, c = (float(v) for v in add_constants(node))
    left, right = number(a), number(b)
    short = fits(ra, rb, c)
    inner = fused(right, like(right, rb), like(right, c), short)
    return finish(node, fused(left, like(left, ra), inner, short))


def fits(ra: float, rb: float, c: float) -> bool:
    """Whether every sum a * ra + b * rb + c of 8-bit numbers is exact in float64, all three being float32.

    It is a multiple of ``unit``, also with a part rounded to float32.
    """
    unit = min(float(np.spacing(np.float32(abs(v)))) for v in (ra, rb, c) if v)
    return 256 * (abs(ra) + abs(rb)) + abs(c) < unit * 2**53


@elementwise("QMul", domain=DOMAIN)
def multiply(node: Node, a: Expr, b: Expr) -> Expr:
    """The product of quantized tensors."""
    (sa, za), (sb, zb), (sy, zy) = (scalar(node, p) for p in "aby")
    left, right = cast(a, "int32"), cast(b, "int32")
    product = cast((left - like(left, za)) * (right - like(right, zb)), "float32")
    real = exact(product, float(np.float32(np.float32(sa * sb) / sy)))
    return finish(node, real + like(real, zy))


@lowers("QAveragePool", domain=DOMAIN)
def average_pool(node: Node, inputs: Inputs) -> list[Any]:
    """The mean of a quantized tensor under the window, summed in float32 in the window's order."""
    x, shape = needed(node, inputs), node.output.dims
    (sx, zx), (sy, zy) = scalar(node, "x"), scalar(node, "y")
    if attr(node, "channels_last", 0):
        (n, *size, c), stored = shape_of(x), x
        x, shape = compute((n, c, *size), lambda *i: at(stored, last(i)), "first"), first(shape)
    pool = Pool(node, x, shape[2:])

    def tap(index: Sequence[Expr], taps: Sequence[Expr]) -> Expr:
        where, asked = pool.places(index[2:], taps)
        value = exact(number(at(x, [*index[:2], *where]), zx), float(sx))
        return guarded(asked, value, tirx.const(0, "float32"))

    def unrolled(*index: Expr) -> Expr:
        value: Expr = tirx.const(0, "float32")
        for taps in np.ndindex(*pool.view.kernel):
            value = value + tap(index, taps)
        return value

    def summed(*index: Expr) -> Expr:
        return te.sum(tap(index, [t.var for t in pool.taps]), axis=pool.taps)

    # a reduction may be summed in another order
    total = compute(shape, unrolled if prod(pool.view.kernel) <= UNROLLED else summed, "pool")

    def element(*index: Expr) -> Expr:
        value = at(total, index)
        count = pool.count(index[2:], bool(attr(node, "count_include_pad")))
        value = value / (like(value, count) if isinstance(count, int) else cast(count, "float32"))
        return finish(node, value / like(value, float(sy)) + like(value, zy))

    if attr(node, "channels_last", 0):
        return [compute(node.output.dims, lambda *i: element(*first(i)), "average_pool")]
    return [compute(shape, element, "average_pool")]


def first(axes: Sequence[Any]) -> tuple[Any, ...]:
    """[N, ..., C] as [N, C, ...]."""
    return (axes[0], axes[-1], *axes[1:-1])


def last(axes: Sequence[Any]) -> tuple[Any, ...]:
    """[N, C, ...] as [N, ..., C]."""
    return (axes[0], *axes[2:], axes[1])


@imperative("QSoftmax", domain=DOMAIN)
def softmax(node: Node) -> Imperative:
    """A row is a task; its exponentials are summed in order."""
    dims = static(node, 0).dims
    _, length, inner = split(dims, node.integer("axis") % len(dims))
    scale, zero = scalar(node, "y")
    factor = float(np.floor(np.float32(1) / scale))

    def emit(code: Code) -> None:
        (x, table), y = code.ins, code.outs[0]
        outer = fix(tirx.truncdiv(code.task, inner))
        first = fix(outer * (length * inner) + (code.task - outer * inner))
        most, total = Cell("int32", limits(node.output.dtype)[0]), Cell("float32", 0)

        def power(i: Expr) -> Expr:
            return table[i32(x[first + i * inner]) + (255 - most.get())]

        with T.serial(0, length) as i:
            most.set(T.max(most.get(), i32(x[first + i * inner])))
        with T.serial(0, length) as i:
            total.add(power(i))
        with T.serial(0, length) as i:
            real = cast(power(i), "float64") * tirx.const(factor, "float64") / cast(total.get(), "float64")
            y[first + i * inner] = finish(node, real, zero)

    return kernel(node, None, emit, tasks=prod(dims) // max(1, length), work=8 * prod(dims))


@lowers("Lookup", domain=DOMAIN)
def lookup(node: Node, inputs: Inputs) -> list[Any]:
    """A table entry for each byte."""
    x, table = needed(node, inputs), needed(node, inputs, 1)

    def element(*index: Expr) -> Expr:
        return at(table, [cast(bits(at(x, index), "uint8"), "int32")])

    return [compute(node.output.dims, element, "lookup")]
