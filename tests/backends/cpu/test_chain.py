"""Chains of convolutions and pools by rows: the plan, and results against numpy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from convolution_reference import make_shape, reference

from onyxc.backends.cpu import chain, chain_plan, convolution_plan, depthwise_plan
from onyxc.backends.cpu.convolution_plan import ConvPlan
from onyxc.backends.cpu.depthwise_plan import DepthwisePlan
from onyxc.backends.cpu.epilogue import Epilogue, Operand, bias
from onyxc.backends.cpu.inspect import spills
from onyxc.backends.cpu.pooling_plan import PoolShape
from onyxc.backends.cpu.shapes import ConvShape, dense_strides
from onyxc.backends.target import get

Array = np.ndarray[Any, Any]
LEVELS = ["x86-64-v4", "x86-64-v3", "x86-64-v2"]
Size = tuple[int, int, int, int]


def pointwise(image: Size, out: int) -> ConvShape:
    """1x1 on a dense image [n, h, w, c]."""
    return make_shape(image, out, (1, 1))


def depthwise(image: Size, kernel: int = 3, stride: int = 1, dilation: int = 1) -> ConvShape:
    """Depthwise with the same size (over the stride)."""
    pad = (kernel - 1) * dilation // 2
    channels = image[3]
    return make_shape(image, channels, (kernel, kernel), (stride, stride), (pad,) * 4, (dilation, dilation), group=channels)


def pool(image: Size, kind: Literal["max", "average"], kernel: int, stride: int) -> PoolShape:
    """Padded by half of the kernel."""
    n, h, w, c = image
    pad = kernel // 2
    out = (h + 2 * pad - kernel) // stride + 1, (w + 2 * pad - kernel) // stride + 1
    return PoolShape(
        kind, n, c, (h, w), out, (kernel, kernel), (stride, stride), (1, 1), (pad,) * 4, dense_strides(h, w, c),
        dense_strides(*out, c)[:3],
    )  # fmt: skip


def pooled(x: Array, shape: PoolShape) -> Array:
    """What a pool gives, window by window."""
    y = np.zeros((x.shape[0], *shape.out_size, x.shape[3]))
    (top, left, _, _), (kh, kw) = shape.pads, shape.kernel
    for row, column in np.ndindex(*shape.out_size):
        first, start = row * shape.strides[0] - top, column * shape.strides[1] - left
        window = x[:, max(first, 0) : first + kh, max(start, 0) : start + kw]
        y[:, row, column] = window.max((1, 2)) if shape.kind == "max" else window.mean((1, 2))
    return y


CHAINS: dict[str, list[chain_plan.Shape]] = {
    "inverted residual": [
        pointwise((1, 9, 11, 16), 40), depthwise((1, 9, 11, 40)), pointwise((1, 9, 11, 40), 24),
    ],
    "stride 2, two images": [
        pointwise((2, 9, 10, 8), 24), depthwise((2, 9, 10, 24), stride=2), pointwise((2, 5, 5, 24), 16),
    ],
    "depthwise last": [pointwise((1, 12, 7, 5), 33), depthwise((1, 12, 7, 33), 5)],
    "dilation": [depthwise((2, 11, 9, 17), dilation=2), pointwise((2, 11, 9, 17), 20)],
    "begin of a network": [
        make_shape((1, 17, 21, 3), 16, (3, 3), (2, 2), (1, 1, 1, 1), planar=True), depthwise((1, 9, 11, 16)),
        pointwise((1, 9, 11, 16), 24), depthwise((1, 9, 11, 24), 5, 2), pointwise((1, 5, 6, 24), 9),
    ],
    "pools": [
        make_shape((2, 18, 20, 1), 12, (3, 3), (1, 1), (1, 1, 1, 1)), pool((2, 18, 20, 12), "max", 3, 2),
        pointwise((2, 9, 10, 12), 20), pool((2, 9, 10, 20), "average", 3, 1),
    ],
    "one row": [pointwise((1, 1, 30, 8), 16), depthwise((1, 1, 30, 16))],
}  # fmt: skip


def packed(link: chain_plan.Link, weights: Array) -> Array:
    """``weights`` [O, I/g, KH, KW] as the link reads them."""
    if isinstance(link.plan, DepthwisePlan):
        return depthwise_plan.pack(weights, link.plan)
    assert isinstance(link.plan, ConvPlan)
    return convolution_plan.pack(weights, link.plan)


def add(acc: Any, operands: list[Any]) -> Any:
    """acc + all operands"""
    return sum(operands, acc)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("case", CHAINS)
def test_results(case: str, level: str, call: Any) -> None:
    shapes, target, rng = CHAINS[case], get(level), np.random.default_rng(3)
    first, last = shapes[0], shapes[-1]
    out = (last.batch, *last.out_size, chain_plan.channels(last))
    x = rng.standard_normal((first.batch, *first.in_size, chain_plan.plan(shapes, target).channels), np.float32)
    convolutions = [s for s in shapes if isinstance(s, ConvShape)]
    weights = [rng.standard_normal((s.out_channels, s.group_in, *s.kernel), np.float32) / 4 for s in convolutions]
    biases = [rng.standard_normal(chain_plan.channels(s), np.float32) for s in shapes]
    residual, y = rng.standard_normal(out, np.float32), np.zeros(out, np.float32)
    plan = chain_plan.plan(shapes, target)
    joint = Epilogue((bias(), Operand("float32", dense_strides(*out[1:]))), add)
    kernel = chain.emit("kernel", plan, [*[Epilogue((bias(),), add)] * (len(shapes) - 1), joint], target)
    scratch = np.full(plan.scratch, np.nan, np.float32)
    given = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if first.x_strides[3] != 1 else x
    with_weights = [link for link in plan.links if isinstance(link.shape, ConvShape)]
    call(kernel, target, [given, *map(packed, with_weights, weights), *biases, residual, y, scratch])
    wanted, rest = x.astype(np.float64), iter(weights)
    for shape, b in zip(shapes, biases, strict=True):
        wanted = (reference(wanted, next(rest), shape) if isinstance(shape, ConvShape) else pooled(wanted, shape)) + b
    np.testing.assert_allclose(y, wanted + residual, rtol=1e-4, atol=1e-4)


def test_row_loops_do_not_grow_with_depth() -> None:
    """The first row of a loop waits in memory: as an expression of all rows outside, it kept TVM's passes for minutes."""
    target, shapes = get("x86-64-v3"), [pointwise((1, 40, 9, 8), 8), *[depthwise((1, 40, 9, 8))] * 6]
    kernel = chain.emit("kernel", chain_plan.plan(shapes, target), [Epilogue()] * len(shapes), target)
    bounds = [line.strip() for line in str(kernel.func).splitlines() if line.lstrip().startswith("for ")]
    assert len(bounds) >= len(shapes)
    assert not any("Select" in bound for bound in bounds)
    assert max(map(len, bounds)) < 200


def large() -> list[ConvShape]:
    """The second block of MobileNetV2."""
    expand, middle = pointwise((1, 112, 112, 16), 96), depthwise((1, 112, 112, 96), stride=2)
    return [expand, middle, pointwise((1, 56, 56, 96), 24)]


@pytest.mark.parametrize("level", ["x86-64-v4", "x86-64-v3", "aarch64"])
def test_large_images_between_are_not_stored(level: str) -> None:
    target, shapes = get(level), large()
    assert chain_plan.split(shapes, target) == (3,)
    plan = chain_plan.plan(shapes, target)
    assert [(link.rows, link.shape.out_size[0]) for link in plan.links] == [(4, 112), (1, 56), (0, 56)]
    assert plan.scratch * 4 < target.l2 / 2
    assert plan.tasks == 56
    assert spills(chain.emit("kernel", plan, [Epilogue()] * 3, get("x86-64-v4")), get("x86-64-v4")) == 0


def test_small_images_stay_in_cache_by_themselves() -> None:
    shapes = [pointwise((1, 14, 14, 64), 384), depthwise((1, 14, 14, 384)), pointwise((1, 14, 14, 384), 64)]
    assert chain_plan.split(shapes, get("x86-64-v4")) == (1, 1, 1)


def test_large_weights_are_read_once_an_image() -> None:
    shapes = [pointwise((1, 28, 28, 960), 960), depthwise((1, 28, 28, 960))]
    assert chain_plan.split(shapes, get("x86-64-v4")) == (1, 1)


def test_threads_do_not_compute_much_twice() -> None:
    target = get("x86-64-v4")
    low = [pointwise((1, 28, 80, 16), 96), depthwise((1, 28, 80, 96))]
    assert chain_plan.split(low, target) == (1, 1)
    assert chain_plan.split(low, replace(target, cores=2)) == (2,)


def test_narrow_images_have_rows_too_short() -> None:
    shapes = [pointwise((1, 2000, 4, 16), 64), depthwise((1, 2000, 4, 64))]
    assert chain_plan.split(shapes, get("x86-64-v4")) == (1, 1)


def test_only_the_first_may_have_a_wide_kernel() -> None:
    wide = make_shape((1, 224, 224, 3), 32, (3, 3), (2, 2), (1, 1, 1, 1))
    assert chain_plan.is_link(wide, first=True)
    assert not chain_plan.is_link(wide, first=False)
    assert not chain_plan.is_link(make_shape((1, 56, 56, 64), 64, (3, 3), pads=(1, 1, 1, 1)), first=True)
    assert not chain_plan.is_link(make_shape((1, 56, 56, 64), 64, (1, 1), group=2), first=True)


def test_rings_do_not_share_a_set_of_the_cache() -> None:
    plan = chain_plan.plan([pointwise((1, 64, 64, 8), 64), depthwise((1, 64, 64, 64))], get("x86-64-v4"))
    assert plan.links[0].pitch * 4 % 4096 != 0
    assert plan.links[1].plan.shape.x_strides == (0, plan.links[0].pitch, 64, 1)
