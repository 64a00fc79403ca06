"""Random numbers: a hash of seed and position, so that any element is computed alone and every run gives the same.

    word(i, stream) = mix(mix(i ^ mix(seed)) ^ stream * 0x85EBCA6B)       mix: a bijection of 32-bit words
    uniform         = (word >> 8) / 2^24, in [0, 1)
    normal          = sqrt(-2 ln(1 - uniform of stream 0)) * cos(2 pi * uniform of stream 1)

The seed is the bits of the attribute ``seed`` as a float32; without one it is a hash of operator and output shape.
The numbers are not those of other runtimes, and runs repeat: a model that needs fresh noise should take it as input.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.kernels.imperative import Imperative
from onyxc.backends.lowering.code import Code, kernel
from onyxc.backends.lowering.registry import imperative, lowers, static
from onyxc.backends.lowering.scalar import cast
from onyxc.backends.lowering.tensors import at, compute, needed, ravel
from onyxc.backends.lowering.words import Cell, Expr, fix, i32, when
from onyxc.compiler.ir.graph import Node


def seed_of(node: Node) -> int:
    """The 32 bits from which the node's numbers come."""
    seed = node.attrs.get("seed")
    if isinstance(seed, int | float):
        return int(np.float32(seed).view(np.uint32))
    return zlib.crc32(f"{node.op}{node.output.dims}".encode())


def _word(value: int) -> Expr:
    return tirx.const(value & 0xFFFFFFFF, "uint32")


def mix(x: Expr) -> Expr:
    """Every bit of the result depends on every bit of ``x`` (the finaliser "lowbias32" of C. Wellons)."""
    x = (x ^ (x >> _word(16))) * _word(0x7FEB352D)
    x = (x ^ (x >> _word(15))) * _word(0x846CA68B)
    return x ^ (x >> _word(16))


def mixed(x: int) -> int:
    """`mix` of a number."""
    x = (x ^ (x >> 16)) * 0x7FEB352D & 0xFFFFFFFF
    x = (x ^ (x >> 15)) * 0x846CA68B & 0xFFFFFFFF
    return x ^ (x >> 16)


def uniform(position: Expr, seed: int, stream: int = 0) -> Expr:
    """A float32 in [0, 1)."""
    start = cast(position, "uint32") ^ _word(mixed(seed))
    word = mix(mix(start) ^ _word(stream * 0x85EBCA6B))  # no sums: TVM's simplifier takes them not to wrap around
    return tirx.Cast("float32", tirx.Cast("int32", word >> _word(8))) * tirx.const(2.0**-24, "float32")


def normal(position: Expr, seed: int) -> Expr:
    """A float32 of the standard normal distribution (Box and Muller)."""
    radius = tirx.sqrt(tirx.const(-2.0, "float32") * tirx.log(tirx.const(1.0, "float32") - uniform(position, seed)))
    return radius * tirx.cos(tirx.const(2 * math.pi, "float32") * uniform(position, seed, 1))


def _number(node: Node, key: str, default: float) -> float:
    value = node.attrs.get(key, default)
    return float(value) if isinstance(value, int | float) else default


def _filled(node: Node, element: Callable[[Expr], Expr]) -> list[Any]:
    shape, kind = node.output.dims, node.output.dtype
    return [compute(shape, lambda *i: cast(element(ravel(i, shape)), kind), node.op.lower())]


@lowers("RandomNormal", "RandomNormalLike")
def random_normal(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """Mean + scale * normal."""
    mean, scale = (tirx.const(_number(node, k, d), "float32") for k, d in (("mean", 0.0), ("scale", 1.0)))
    return _filled(node, lambda i: mean + scale * normal(i, seed_of(node)))


@lowers("RandomUniform", "RandomUniformLike")
def random_uniform(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """Between low and high."""
    low, high = _number(node, "low", 0.0), _number(node, "high", 1.0)
    start, reach = tirx.const(low, "float32"), tirx.const(high - low, "float32")
    return _filled(node, lambda i: start + reach * uniform(i, seed_of(node)))


@lowers("Bernoulli")
def bernoulli(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """1 with the probability that the input gives."""
    x = needed(node, inputs)
    shape, kind = node.output.dims, node.output.dtype

    def element(*index: Expr) -> Expr:
        drawn = uniform(ravel(index, shape), seed_of(node)) < cast(at(x, index), "float32")
        return cast(tirx.Select(drawn, tirx.const(1, "int32"), tirx.const(0, "int32")), kind)

    return [compute(shape, element, "bernoulli")]


@imperative("Multinomial")
def multinomial(node: Node) -> Imperative:
    """Samples of the classes whose logarithms of (unnormalised) probability are given; a task is a batch entry."""
    batch, classes = static(node, 0).dims
    count = node.output.dims[1]

    def emit(code: Code) -> None:
        x, y, row = code.ins[0], code.outs[0], code.task
        base = fix(row * classes)
        top, total = Cell("float32", -3.0e38), Cell("float32", 0)
        with T.serial(0, classes) as c:
            top.set(tirx.max(top.get(), cast(x[base + c], "float32")))
        with T.serial(0, classes) as c:
            total.add(tirx.exp(cast(x[base + c], "float32") - top.get()))
        with T.serial(0, count) as i:
            left = Cell("float32", uniform(row * count + i, seed_of(node)) * total.get())
            chosen = Cell("int32", -1)
            with T.serial(0, classes) as c, when(chosen.get() < 0):
                left.add(tirx.const(0, "float32") - tirx.exp(cast(x[base + c], "float32") - top.get()))
                with when(left.get() < 0):
                    chosen.set(c)
            y[row * count + i] = tirx.Select(chosen.get() < 0, i32(classes - 1), chosen.get())

    return kernel(node, None, emit, tasks=batch, work=prod((batch, classes, 10 + count * 10)))
