"""Random graphs of stages, with every stage that has no reader as an output, against numpy."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tvm import te, tirx

Array = np.ndarray[Any, Any]
Pair = tuple[Any, Array]  # a TE tensor and what it should hold


def unary(t: Any, a: Array, rng: random.Random) -> Pair:
    kind = rng.choice(["relu", "tanh", "scale"])
    if kind == "relu":
        return te.compute(t.shape, lambda *i: tirx.max(t(*i), 0.0)), np.maximum(a, 0)
    if kind == "tanh":
        return te.compute(t.shape, lambda *i: te.tanh(t(*i))), np.tanh(a)
    return te.compute(t.shape, lambda *i: t(*i) * 0.5 + 1.0), a * 0.5 + 1


def reduce(t: Any, a: Array, rng: random.Random) -> Pair:
    axis, keep = rng.randrange(a.ndim), rng.random() < 0.5
    k = te.reduce_axis((0, a.shape[axis]), "k")
    shape = tuple(1 if n == axis else d for n, d in enumerate(a.shape) if keep or n != axis)
    top = rng.random() < 0.5

    def at(*i: Any) -> Any:
        full = list(i)
        full[axis : axis + keep] = [k]
        return te.max(t(*full), axis=k) if top else te.sum(t(*full), axis=k)

    names = [f"i{n}" for n in range(len(shape))]
    return te.compute(shape, at, varargs_names=names), (a.max if top else a.mean)(axis, keepdims=keep) * (
        1 if top else a.shape[axis]
    )


def transpose(t: Any, a: Array, rng: random.Random) -> Pair:
    order = list(range(a.ndim))
    rng.shuffle(order)
    place = [order.index(n) for n in range(a.ndim)]
    made = a.transpose(order)
    return te.compute(made.shape, lambda *i: t(*(i[p] for p in place))), made


def pad(t: Any, a: Array, rng: random.Random) -> Pair:
    axis, low, high = rng.randrange(a.ndim), rng.randrange(3), rng.randrange(3)
    widths = [(low, high) if n == axis else (0, 0) for n in range(a.ndim)]
    made = np.pad(a, widths)

    def at(*i: Any) -> Any:
        inside = tirx.all(i[axis] >= low, i[axis] < low + a.shape[axis])
        return te.if_then_else(inside, t(*(v - low if n == axis else v for n, v in enumerate(i))), 0.0)

    return te.compute(made.shape, at), made


def binary(t: Any, a: Array, s: Any, b: Array) -> Pair:
    made = a + b

    def at(x: Any, i: Any) -> Any:
        own = [int(d) for d in x.shape]
        return x(*(0 if d == 1 else v for d, v in zip(own, i[len(i) - len(own) :], strict=True)))

    names = [f"i{n}" for n in range(made.ndim)]
    return te.compute(made.shape, lambda *i: at(t, i) + at(s, i), varargs_names=names), made


def broadcastable(a: Array, b: Array) -> bool:
    try:
        np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("seed", range(40))
def test_random_group(seed: int, run_group: Callable[..., list[Array]]) -> None:
    rng = random.Random(seed)
    dims = [rng.choice([1, 2, 3, 5, 8, 17, 33, 70]) for _ in range(rng.randint(1, 4))]
    inputs: list[Pair] = []
    for n in range(2):
        shape = [d if n == 0 or rng.random() < 0.6 else 1 for d in dims]
        values = np.random.default_rng(seed + n).standard_normal(shape, dtype=np.float32)
        inputs.append((te.placeholder(shape, name=f"x{n}"), values))
    made, read = list(inputs), set[int]()
    for _ in range(rng.randint(1, 9)):
        at = rng.randrange(len(made))
        t, a = made[at]
        others = [n for n, (_, b) in enumerate(made) if broadcastable(a, b) and np.broadcast(a, b).size < 200_000]
        read.add(at)
        if rng.random() < 0.4 and others:
            other = rng.choice(others)
            read.add(other)
            made.append(binary(t, a, *made[other]))
        elif a.ndim:
            made.append(rng.choice([unary, unary, reduce, transpose, pad])(t, a, rng))
    outputs = [p for n, p in enumerate(made) if n >= 2 and n not in read]
    if not outputs:
        outputs = made[-1:] if len(made) > 2 else []
    results = run_group([t for t, _ in inputs], [t for t, _ in outputs], [a for _, a in inputs])
    for got, (_, expected) in zip(results, outputs, strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-3)
