"""Every kind of TE group against numpy, through compiled kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tvm import te, tirx

from onyxc.backends.kernels.generic import build, build_all
from onyxc.backends.target import get, host

Array = np.ndarray[Any, Any]
Run = Callable[..., list[Array]]


def floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def tensor(array: Array, name: str = "x") -> Any:
    return te.placeholder(array.shape, str(array.dtype), name=name)


def reduced(source: Any, axis: int, combine: Any = te.sum) -> Any:
    shape = [int(d) for d in source.shape]
    k = te.reduce_axis((0, shape.pop(axis)), "k")
    return te.compute(shape, lambda *i: combine(source(*i[:axis], k, *i[axis:]), axis=k), name="fold")


def close(actual: Array, expected: Array, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(actual.astype(np.float64), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (16,), (65,), (3, 5), (1, 1, 9), (4, 1, 33), (6, 128), (100_003,)])
def test_elementwise(shape: tuple[int, ...], run_group: Run) -> None:
    a, b = floats(*shape), floats(*shape, seed=1)
    x, y = tensor(a), tensor(b, "y")
    z = te.compute(shape, lambda *i: tirx.max(x(*i) * y(*i) + 1, 0), name="z")
    close(run_group([x, y], [z], [a, b])[0], np.maximum(a * b + 1, 0))


@pytest.mark.parametrize(
    ("left", "right"),
    [((8, 7, 7), (8, 1, 1)), ((8, 7, 7), (7,)), ((5, 1), (1, 6)), ((3, 1, 50), (2, 1)), ((0, 3), (3,)), ((64, 49), ())],
)
def test_broadcast(left: tuple[int, ...], right: tuple[int, ...], run_group: Run) -> None:
    a, b = floats(*left), np.asarray(floats(*right, seed=1))
    shape = np.broadcast_shapes(left, right)

    def at(t: Any, i: Any) -> Any:
        own = [int(d) for d in t.shape]
        return t(*(0 if d == 1 else v for d, v in zip(own, i[len(i) - len(own) :], strict=True)))

    x, y = tensor(a), tensor(b, "y")
    z = te.compute(shape, lambda *i: at(x, i) - at(y, i), name="z")
    close(run_group([x, y], [z], [a, b])[0], a - b)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 40, 19), (1, 1, 300), (40, 3, 1), (16, 70, 130)])
def test_reductions(axis: int, shape: tuple[int, ...], run_group: Run) -> None:
    a = floats(*shape)
    x = tensor(a)
    for combine, expected in ((te.sum, a.sum(axis)), (te.max, a.max(axis)), (te.min, a.min(axis))):
        close(run_group([x], [reduced(x, axis, combine)], [a])[0], expected, 1e-4)


def test_reduce_all_and_empty(run_group: Run) -> None:
    a = floats(37, 1000)
    x = tensor(a)
    k, j = te.reduce_axis((0, 37), "k"), te.reduce_axis((0, 1000), "j")
    mean = te.compute((), lambda: te.sum(x[k, j] / 37000, axis=[k, j]), name="mean")
    close(run_group([x], [mean], [a])[0], a.mean(), 1e-5)
    x = te.placeholder((3, 0))
    close(run_group([x], [reduced(x, 1)], [np.zeros((3, 0), np.float32)])[0], np.zeros(3))


@pytest.mark.parametrize("shape", [(4, 10), (33, 128), (2, 3, 1000), (5, 1)])
def test_softmax(shape: tuple[int, ...], run_group: Run) -> None:
    a = floats(*shape) * 4
    x = tensor(a)
    top = reduced(x, len(shape) - 1, te.max)
    e = te.compute(shape, lambda *i: te.exp(x(*i) - top(*i[:-1])), name="e")
    total = reduced(e, len(shape) - 1)
    y = te.compute(shape, lambda *i: e(*i) / total(*i[:-1]), name="y")
    expected = np.exp(a - a.max(-1, keepdims=True))
    close(run_group([x], [y], [a])[0], expected / expected.sum(-1, keepdims=True))


@pytest.mark.parametrize(("rows", "width"), [(1, 5), (128, 768), (300, 50)])
def test_layer_norm(rows: int, width: int, run_group: Run) -> None:
    a, g = floats(rows, width), floats(width, seed=2)
    x, s = tensor(a), tensor(g, "s")
    k = te.reduce_axis((0, width), "k")
    mean = te.compute((rows,), lambda i: te.sum(x[i, k] / width, axis=k), name="mean")
    d = te.compute((rows, width), lambda i, j: x[i, j] - mean[i], name="d")
    j2 = te.reduce_axis((0, width), "j2")
    var = te.compute((rows,), lambda i: te.sum(d[i, j2] * d[i, j2] / width, axis=j2), name="var")
    y = te.compute((rows, width), lambda i, j: d[i, j] * te.rsqrt(var[i] + 1e-5) * s[j], name="y")
    dd = a - a.mean(1, keepdims=True)
    close(run_group([x, s], [y], [a, g])[0], dd / np.sqrt((dd**2).mean(1, keepdims=True) + 1e-5) * g, 1e-4)


def argmax_combiner() -> Any:
    def better(x: Any, y: Any) -> Any:
        take = tirx.any(x[1] > y[1], tirx.all(x[1] == y[1], x[0] < y[0]))
        return tirx.Select(take, x[0], y[0]), tirx.Select(take, x[1], y[1])

    return te.comm_reducer(better, lambda i, v: (tirx.const(2**31 - 1, i), te.min_value(v)), name="argmax")


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(4, 9), (50, 70), (1, 33)])
def test_argmax(axis: int, shape: tuple[int, int], run_group: Run) -> None:
    a = np.round(floats(*shape) * 2)
    x = tensor(a)
    k = te.reduce_axis((0, shape[axis]), "k")
    best = argmax_combiner()
    index, value = te.compute((shape[1 - axis],), lambda i: best((k, x[(i, k) if axis else (k, i)]), axis=k), name="best")
    wide = te.compute(index.shape, lambda i: index[i].astype("int64"), name="wide")
    got = run_group([x], [wide, value], [a])
    np.testing.assert_array_equal(got[0], a.argmax(axis))
    close(got[1], a.max(axis))


@pytest.mark.parametrize(("h", "w", "c", "o", "stride"), [(7, 7, 3, 4, 1), (20, 35, 5, 6, 1), (11, 12, 2, 3, 2)])
def test_convolution(h: int, w: int, c: int, o: int, stride: int, run_group: Run) -> None:
    a, f, bias = floats(1, c, h, w), floats(o, c, 3, 3, seed=1), floats(o, seed=2)
    x, k, b = tensor(a), tensor(f, "k"), tensor(bias, "b")
    oh, ow = (h - 1) // stride + 1, (w - 1) // stride + 1
    pad = te.compute(
        (1, c, h + 2, w + 2),
        lambda n, c, i, j: te.if_then_else(
            tirx.all(i >= 1, i <= h, j >= 1, j <= w), x[n, c, i - 1, j - 1], tirx.const(0.0, "float32")
        ),
        name="pad",
    )
    rc, ri, rj = te.reduce_axis((0, c), "rc"), te.reduce_axis((0, 3), "ri"), te.reduce_axis((0, 3), "rj")
    conv = te.compute(
        (1, o, oh, ow),
        lambda n, m, i, j: te.sum(pad[n, rc, i * stride + ri, j * stride + rj] * k[m, rc, ri, rj], axis=[rc, ri, rj]),
        name="conv",
    )
    y = te.compute((1, o, oh, ow), lambda n, m, i, j: tirx.max(conv[n, m, i, j] + b[m], 0), name="y")
    p = np.pad(a, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(p, (3, 3), (2, 3))[:, :, ::stride, ::stride]
    expected = np.einsum("nchwij,ocij->nohw", windows, f) + bias[:, None, None]
    close(run_group([x, k, b], [y], [a, f, bias])[0], np.maximum(expected, 0), 1e-4)


@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (5, 7, 9), (33, 65, 130), (64, 64, 8)])
@pytest.mark.parametrize("transposed", [False, True])
def test_matmul(m: int, k: int, n: int, transposed: bool, run_group: Run) -> None:
    a, b = floats(m, k), floats(*((n, k) if transposed else (k, n)), seed=1)
    x, y = tensor(a), tensor(b, "y")
    r = te.reduce_axis((0, k), "r")
    z = te.compute((m, n), lambda i, j: te.sum(x[i, r] * (y[j, r] if transposed else y[r, j]), axis=r), name="z")
    close(run_group([x, y], [z], [a, b])[0], a @ (b.T if transposed else b), 1e-4)


def test_attention_splits(run_group: Run) -> None:
    q, k, v = (floats(2, 17, 24, seed=s) for s in range(3))
    tq, tk, tv = (tensor(t, n) for t, n in ((q, "q"), (k, "k"), (v, "v")))
    d, r, s, t = (te.reduce_axis((0, n), "r") for n in (24, 17, 17, 17))
    scores = te.compute((2, 17, 17), lambda h, i, j: te.sum(tq[h, i, d] * tk[h, j, d], axis=d), name="scores")
    top = te.compute((2, 17), lambda h, i: te.max(scores[h, i, r], axis=r), name="top")
    e = te.compute((2, 17, 17), lambda h, i, j: te.exp(scores[h, i, j] - top[h, i]), name="e")
    total = te.compute((2, 17), lambda h, i: te.sum(e[h, i, s], axis=s), name="total")
    p = te.compute((2, 17, 17), lambda h, i, j: e[h, i, j] / total[h, i], name="p")
    y = te.compute((2, 17, 24), lambda h, i, j: te.sum(p[h, i, t] * tv[h, t, j], axis=t), name="y")
    z = np.einsum("hid,hjd->hij", q, k)
    z = np.exp(z - z.max(-1, keepdims=True))
    close(run_group([tq, tk, tv], [y], [q, k, v])[0], z / z.sum(-1, keepdims=True) @ v, 1e-4)


@pytest.mark.parametrize("shape", [(5, 7), (40, 33), (128, 200)])
def test_movement(shape: tuple[int, int], run_group: Run) -> None:
    a, b = floats(*shape), floats(3, shape[1], seed=1)
    x, y = tensor(a), tensor(b, "y")
    h, w = shape
    transposed = te.compute((w, h), lambda i, j: x[j, i], name="transposed")
    close(run_group([x], [transposed], [a])[0], a.T)
    joined = te.compute((h + 3, w), lambda i, j: te.if_then_else(i < h, x[i, j], y[i - h, j]), name="joined")
    close(run_group([x, y], [joined], [a, b])[0], np.concatenate([a, b]))
    side = te.compute((h, 2 * w), lambda i, j: te.if_then_else(j < w, x[i, j], x[i, j - w] * 2), name="side")
    close(run_group([x], [side], [a])[0], np.concatenate([a, a * 2], 1))
    shaped = te.compute((h * w,), lambda i: x[tirx.floordiv(i, w), tirx.floormod(i, w)] + 1, name="shaped")
    close(run_group([x], [shaped], [a])[0], a.reshape(-1) + 1)
    flipped = te.compute(shape, lambda i, j: x[h - 1 - i, w - 1 - j], name="flipped")
    close(run_group([x], [flipped], [a])[0], a[::-1, ::-1])


@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_gather(kind: str, run_group: Run) -> None:
    a, i = floats(20, 37), np.array([3, -1, 19, 0, 7], kind)
    x, n = tensor(a), tensor(i, "n")

    def wrap(v: Any, extent: int) -> Any:
        return tirx.Select(v < 0, v + extent, v)

    rows = te.compute((5, 37), lambda p, q: x[wrap(n[p], 20), q], name="rows")
    close(run_group([x, n], [rows], [a, i])[0], a[i])
    columns = te.compute((20, 5), lambda p, q: x[p, wrap(n[q], 37)], name="columns")
    close(run_group([x, n], [columns], [a, i])[0], a[:, i])


@pytest.mark.parametrize("kernel", [2, 3])
def test_pooling(kernel: int, run_group: Run) -> None:
    a = floats(3, 20, 41)
    x = tensor(a)
    i, j = te.reduce_axis((0, kernel), "i"), te.reduce_axis((0, kernel), "j")
    shape = (3, (20 - kernel) // 2 + 1, (41 - kernel) // 2 + 1)
    y = te.compute(shape, lambda c, h, w: te.max(x[c, 2 * h + i, 2 * w + j], axis=[i, j]), name="y")
    windows = np.lib.stride_tricks.sliding_window_view(a, (kernel, kernel), (1, 2))[:, ::2, ::2]
    close(run_group([x], [y], [a])[0], windows.max((-1, -2)))


def test_several_outputs(run_group: Run) -> None:
    a = floats(9, 30)
    x = tensor(a)
    first = te.compute((9, 30), lambda i, j: x[i, j] * 2, name="first")
    second = te.compute((9, 30), lambda i, j: first[i, j] + 1, name="second")
    third = te.compute((9, 30), lambda i, j: te.abs(x[i, j]), name="third")
    total = reduced(second, 1)
    got = run_group([x], [first, second, third, total], [a])
    for actual, expected in zip(got, (a * 2, a * 2 + 1, abs(a), (a * 2 + 1).sum(1)), strict=True):
        close(actual, expected, 1e-4)


def test_shared_values_beside_unsafe_conditions(run_group: Run) -> None:
    """A lane-dependent condition over a gather cannot be a vector; the shared value next to it still is right."""
    a, i = floats(4, 37), np.array([3, -1, 19, -5, 7] * 8, np.int32)[:37]
    x, n = tensor(a), tensor(i, "n")
    s = te.compute((4, 37), lambda p, q: te.exp(x[p, q]) * 2, name="s")
    g = te.compute((4, 37), lambda p, q: te.if_then_else(n[q] >= 0, x[p, n[q]], s[p, q]) + s[p, q] * s[p, q], name="g")
    e = np.exp(a) * 2
    close(run_group([x, n], [g], [a, i])[0], np.where(i >= 0, a[:, np.maximum(i, 0)], e) + e * e, 1e-4)


def test_reduction_under_a_condition_and_read_twice(run_group: Run) -> None:
    a = floats(6, 50)
    x = tensor(a)
    total = reduced(x, 1)
    shift = te.compute((6,), lambda i: total[i] + te.if_then_else(i > 0, total[i - 1], 0.0), name="shift")
    sums = a.sum(1)
    close(run_group([x], [shift], [a])[0], sums + np.concatenate([[0], sums[:-1]]), 1e-4)


def test_long_chain_of_shared_stages(run_group: Run) -> None:
    """Every stage reads the previous one twice: 2^40 nodes if each were inlined."""
    a = floats(3, 40)
    x = tensor(a)
    y, expected = x, a
    for n in range(40):
        y = _average(y, n)
        expected = expected * 0.5 + expected[:, ::-1] * 0.5 if n % 8 == 7 else expected * 0.5 + expected * 0.5
    close(run_group([x], [y], [a])[0], expected, 1e-4)


def _average(y: Any, n: int) -> Any:
    if n % 8 == 7:
        return te.compute((3, 40), lambda i, j: y[i, j] * 0.5 + y[i, 39 - j] * 0.5, name=f"y{n}")
    return te.compute((3, 40), lambda i, j: y[i, j] * 0.5 + y[i, j] * 0.5, name=f"y{n}")


def test_two_uses_of_one_sum_over_all(run_group: Run) -> None:
    """Softmax over everything: scalars that all tasks need."""
    for n in (50, 100_000):
        a = floats(n)
        x = tensor(a)
        top = reduced(x, 0, te.max)
        e = te.compute((n,), lambda i: te.exp(x[i] - top()), name="e")  # noqa: B023
        total = reduced(e, 0)
        y = te.compute((n,), lambda i: e[i] / total(), name="y")  # noqa: B023
        expected = np.exp(a - a.max())
        close(run_group([x], [y], [a])[0] * n, expected / expected.sum() * n, 1e-4)


def test_int64_shapes_and_initial_values(run_group: Run) -> None:
    a = floats(5, 33)
    x = te.placeholder([tirx.const(5, "int64"), tirx.const(33, "int64")])
    k = te.reduce_axis((0, tirx.const(33, "int64")), "k")
    y = te.compute([tirx.const(5, "int64")], lambda i: te.sum(x[i, k], axis=k, where=x[i, k] > 0, init=2.0), name="y")
    close(run_group([x], [y], [a])[0], np.maximum(a, 0).sum(1) + 2, 1e-4)


def test_missing_input_is_named() -> None:
    x, y = te.placeholder((4,), name="x"), te.placeholder((4,), name="stranger")
    z = te.compute((4,), lambda i: x[i] + y[i], name="z")
    with pytest.raises(ValueError, match="stranger"):
        build_all("k", [x], [z], host())


def test_the_plan_in_words() -> None:
    def note(output: Any, source: Any, level: str = "x86-64-v4") -> str:
        return build("words", [source], [output], get(level)).note

    x, rows = te.placeholder((64, 100), name="x"), te.placeholder((4420, 3), name="rows")
    twice = te.compute((64, 100), lambda i, j: x[i, j] * 2, name="twice")
    turned = te.compute((100, 64), lambda i, j: x[j, i], name="turned")
    assert note(twice, x) == "loop nest, vectors of 16 along the last axis"
    assert note(twice, x, "x86-64-v3") == "loop nest, vectors of 8 along the last axis"
    assert note(reduced(x, 0), x) == "loop nest, vectors of 16 along the last axis"
    assert note(reduced(x, 1), x) == "loop nest, vectors of 16 along the reduced axis"
    assert note(turned, x) == "loop nest, vectors of 16, squares of 16 x 16 turned in registers"
    total = reduced(rows, 1)
    shares = te.compute((4420, 3), lambda i, j: rows[i, j] / total[i], name="shares")
    assert note(shares, rows) == "loop nest, vectors of 16 across short rows"
