"""Matrix products: MatMul, Gemm and integer forms. 16-bit floats accumulate in float32, 8-bit integers in int32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from onyxc.backends.lowering.registry import aligned, lowers
from onyxc.backends.lowering.scalar import HALF, attr, cast, like
from onyxc.backends.lowering.tensors import Inputs, at, compute, needed, optional, shape_of
from onyxc.compiler.ir.graph import Node

Expr = Any
Read = Callable[[Sequence[Expr]], Expr]


def accumulator(dtype: str) -> str:
    """The type in which products of ``dtype`` are summed."""
    return "float32" if dtype in HALF else "int32" if dtype in ("int8", "uint8", "int16", "uint16") else dtype


def product(a: Any, b: Any, shape: Sequence[int], left: Read, right: Read, dtype: str) -> Any:
    """numpy.matmul of ``a`` and ``b``, elements read by ``left`` and ``right``, summed in ``dtype``."""
    size_a, size_b = shape_of(a), shape_of(b)
    k = te.reduce_axis((0, size_a[-1]), "k")

    def element(*index: Expr) -> Expr:
        rest = list(index)
        column = [rest.pop()] if len(size_b) > 1 else []
        row = [rest.pop()] if len(size_a) > 1 else []
        batch_a = aligned(rest, size_a[:-2]) if len(size_a) > 2 else ()
        batch_b = aligned(rest, size_b[:-2]) if len(size_b) > 2 else ()
        x = cast(left([*batch_a, *row, k.var]), dtype)
        y = cast(right([*batch_b, k.var, *column]), dtype)
        return te.sum(x * y, axis=k)

    return compute(shape, element, "matmul")


def reader(x: Any) -> Read:
    """Plain reads of ``x``."""
    return lambda index: at(x, index)


def rounded(x: Any, dtype: str, name: str) -> Any:
    """``x`` as ``dtype``."""
    return x if str(x.dtype) == dtype else compute(shape_of(x), lambda *i: cast(at(x, i), dtype), name)


@lowers("MatMul")
def matmul(node: Node, inputs: Inputs) -> list[Any]:
    """The product of matrices, batches broadcast, vectors promoted."""
    a, b = needed(node, inputs), needed(node, inputs, 1)
    kind = node.output.dtype
    return [rounded(product(a, b, node.output.dims, reader(a), reader(b), accumulator(kind)), kind, "matmul")]


@lowers("Gemm")
def gemm(node: Node, inputs: Inputs) -> list[Any]:
    """alpha * A' B' + beta * C."""
    a, b, c = needed(node, inputs), needed(node, inputs, 1), optional(inputs, 2)
    kind = node.output.dtype
    kind_sum = accumulator(kind)
    over, under = bool(attr(node, "transA")), bool(attr(node, "transB"))
    k = te.reduce_axis((0, shape_of(a)[0 if over else 1]), "k")

    def dot(i: Expr, j: Expr) -> Expr:
        x = cast(at(a, (k.var, i) if over else (i, k.var)), kind_sum)
        return te.sum(x * cast(at(b, (j, k.var) if under else (k.var, j)), kind_sum), axis=k)

    summed = compute(node.output.dims, dot, "gemm")
    alpha, beta = node.real("alpha", 1.0), node.real("beta", 1.0)

    def scaled(value: Expr, factor: float) -> Expr:
        if factor == 1:
            return value
        if kind_sum.startswith("float") or factor.is_integer():
            return value * like(value, factor if kind_sum.startswith("float") else int(factor))
        return cast(cast(value, "float64") * tirx.const(factor, "float64"), kind_sum)

    def element(i: Expr, j: Expr) -> Expr:
        value = scaled(at(summed, (i, j)), alpha)
        if c is not None and beta:
            value = value + scaled(cast(at(c, aligned((i, j), c.shape)), kind_sum), beta)
        return cast(value, kind)

    if c is None and alpha == 1:
        return [rounded(summed, kind, "gemm")]
    return [compute(node.output.dims, element, "gemm")]


def zero_point(x: Any | None, index: Expr | None) -> Expr:
    """A zero point as int32: nothing, one number, or one for each row or column at ``index``."""
    if x is None:
        return tirx.const(0, "int32")
    shape = shape_of(x)
    where = [0] * len(shape)
    if index is not None and any(d > 1 for d in shape):
        where = [index if d > 1 else 0 for d in shape]
    return cast(at(x, where), "int32")


def integer_product(a: Any, b: Any, za: Any | None, zb: Any | None, shape: Sequence[int]) -> Any:
    """(A - za)(B - zb) in int32; zero points are numbers, or vectors along rows of A and columns of B."""

    def left(index: Sequence[Expr]) -> Expr:
        value = cast(at(a, index), "int32")
        if za is None:
            return value
        return value - _point(za, index, -2)

    def right(index: Sequence[Expr]) -> Expr:
        value = cast(at(b, index), "int32")
        if zb is None:
            return value
        return value - _point(zb, index, -1)

    return product(a, b, shape, left, right, "int32")


def _point(zero: Any, index: Sequence[Expr], axis: int) -> Expr:
    """The zero point for the element at ``index`` of a matrix whose rows (-2) or columns (-1) have their own."""
    shape = shape_of(zero)
    if len(shape) <= 1:
        return zero_point(zero, index[axis] if len(index) >= -axis else None)
    return cast(at(zero, aligned(index, shape)), "int32")


@lowers("MatMulInteger")
def matmul_integer(node: Node, inputs: Inputs) -> list[Any]:
    """The product of 8-bit matrices less their zero points, in int32."""
    a, b = needed(node, inputs), needed(node, inputs, 1)
    return [integer_product(a, b, optional(inputs, 2), optional(inputs, 3), node.output.dims)]
