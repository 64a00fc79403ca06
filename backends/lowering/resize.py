"""Resize and Upsample: nearest, linear and cubic, one axis after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import floor, isclose
from typing import Any

import numpy as np
from tvm import te, tirx

from onyxc.backends.lowering import coordinates
from onyxc.backends.lowering.coordinates import Axis
from onyxc.backends.lowering.quantization import finished, limits
from onyxc.backends.lowering.registry import axes, lowers, parameter, required
from onyxc.backends.lowering.scalar import attr, cast, like, select, wide
from onyxc.backends.lowering.tensors import Inputs, at, compute, needed, replaced, shape_of
from onyxc.compiler.errors import UnsupportedError
from onyxc.compiler.ir.graph import Node

Expr = Any
UNROLLED = 4  # taps; more are a reduction over a table of weights


@dataclass(frozen=True)
class Filter:
    """The kernel of an interpolation: ``weight(distance)`` for the taps at ``first`` .. ``first + taps - 1``."""

    first: int
    taps: int
    weight: Callable[[Expr], Expr]
    sums_to_one: bool


def linear_weight(distance: Expr) -> Expr:
    """A hat of width 2."""
    return tirx.max(like(distance, 1) - tirx.abs(distance), like(distance, 0))


def cubic_weight(a: float) -> Callable[[Expr], Expr]:
    """The cubic convolution kernel (Keys) with coefficient ``a``."""

    def weight(distance: Expr) -> Expr:
        x = tirx.abs(distance)
        near = ((x * (a + 2)) - (a + 3)) * x * x + like(x, 1)
        far = (((x * a) - 5 * a) * x + 8 * a) * x - like(x, 4 * a)
        return select(x <= like(x, 1), near, select(x < like(x, 2), far, like(x, 0)))

    return weight


def kernel_of(node: Node, scale: float) -> Filter:
    """The filter of one axis; with antialias it widens as the image shrinks."""
    mode = attr(node, "mode", "nearest")
    reach = 2 if mode == "cubic" else 1
    weight = cubic_weight(node.real("cubic_coeff_a", -0.75)) if mode == "cubic" else linear_weight
    if not attr(node, "antialias", 0) or scale >= 1:
        return Filter(1 - reach, 2 * reach, weight, True)
    first = floor(-reach / scale) + 1
    return Filter(first, 2 - 2 * first, lambda d: weight(d * like(d, scale)), False)


def interpolated(x: Any, axis: int, where: Axis, kernel: Filter, exclude: bool, fill: float | None) -> Any:
    """``x`` resized along one axis."""
    shape = replaced(shape_of(x), axis, where.out)
    kind = str(x.dtype)
    normal = kernel.sums_to_one and not exclude

    def weight(whole: Expr, rest: Expr, tap: Expr) -> Expr:
        value = kernel.weight(cast(tap, "float32") - rest)
        if exclude:
            inside = tirx.And(whole + tap >= 0, whole + tap < where.size)
            value = select(inside, value, like(value, 0))
        return cast(value, kind)

    def read(index: tuple[Expr, ...], place: Expr) -> Expr:
        return at(x, replaced(index, axis, tirx.max(tirx.min(place, where.size - 1), 0)))

    def direct(*index: Expr) -> Expr:
        whole, rest = coordinates.split(where, index[axis])
        taps = [tirx.const(kernel.first + k, "int32") for k in range(kernel.taps)]
        weights = [weight(whole, rest, tap) for tap in taps]
        value: Expr = 0
        total: Expr = 0
        for tap, w in zip(taps, weights, strict=True):
            value = value + read(index, whole + tap) * w
            total = total + w
        return finish(index, value if normal else value / total)

    def finish(index: tuple[Expr, ...], value: Expr) -> Expr:
        if fill is None:
            return value
        return select(coordinates.outside(where, index[axis]), like(value, fill), value)

    if kernel.taps <= UNROLLED:
        return compute(shape, direct, "resize")

    def entry(i: Expr, k: Expr) -> Expr:
        whole, rest = coordinates.split(where, i)
        return weight(whole, rest, k + kernel.first)

    table = compute((where.out, kernel.taps), entry, "weights")
    each, tap = te.reduce_axis((0, kernel.taps), "k"), te.reduce_axis((0, kernel.taps), "k")
    total = compute((where.out,), lambda i: te.sum(at(table, (i, each.var)), axis=each), "total")

    def weighted(*index: Expr) -> Expr:
        whole, _ = coordinates.split(where, index[axis])
        value = read(index, whole + tap.var + kernel.first) * at(table, (index[axis], tap.var))
        return te.sum(value, axis=tap)

    summed = compute(shape, weighted, "resize_sum")
    return compute(shape, lambda *i: finish(i, at(summed, i) / at(total, [i[axis]])), "resize")


def plan(node: Node, shape: tuple[int, ...]) -> dict[int, Axis]:
    """The coordinates of every axis that changes."""
    rank, out = len(shape), node.output.dims
    given = attr(node, "axes")
    along = axes(np.array(given), rank) if given else tuple(range(rank))
    roi, scales, sizes = (parameter(node, k, n) for k, n in ((1, "roi"), (2, "scales"), (3, "sizes")))
    mode = attr(node, "coordinate_transformation_mode", "half_pixel")
    if sizes is not None and sizes.size:
        factors = [int(s) / shape[a] for a, s in zip(along, sizes, strict=True)]
        policy = attr(node, "keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            factors = [min(factors) if policy == "not_larger" else max(factors)] * len(along)
        sized = policy == "stretch"
    elif scales is not None and scales.size:
        factors, sized = [float(s) for s in scales], False
    else:
        raise UnsupportedError(f"{node.label()}: neither scales nor sizes are given")
    crops = [(0.0, 1.0)] * len(along)
    if mode == "tf_crop_and_resize":
        assert roi is not None
        crops = [(float(roi[k]), float(roi[k + len(along)])) for k in range(len(along))]
    made = {}
    for a, factor, crop in zip(along, factors, crops, strict=True):
        if isclose(factor, 1.0) and out[a] == shape[a] and crop == (0.0, 1.0):
            continue
        made[a] = coordinates.axis(mode, shape[a], out[a], factor, crop, sized)
    return made


@lowers("Resize")
def resize(node: Node, inputs: Inputs) -> list[Any]:
    """The image at another size."""
    x = needed(node, inputs)
    rule = attr(node, "nearest_mode", "round_prefer_floor")
    return [_resized(node, x, plan(node, shape_of(x)), rule)]


def _resized(node: Node, x: Any, changed: dict[int, Axis], rule: str) -> Any:
    kind = node.output.dtype
    fill = node.real("extrapolation_value")
    if attr(node, "mode", "nearest") == "nearest":
        return _nearest(node, x, changed, fill, rule)
    real = x
    if kind not in ("float32", "float64"):
        real = compute(shape_of(x), lambda *i: cast(wide(at(x, i)), "float32"), "real")
    exclude = bool(attr(node, "exclude_outside", 0))
    for a, where in changed.items():
        value = fill if where.extrapolates else None
        real = interpolated(real, a, where, kernel_of(node, where.scale), exclude, value)

    def element(*index: Expr) -> Expr:
        value = at(real, index)
        if kind.startswith(("int", "uint")):
            return finished(value, None, *limits(kind), kind)
        return cast(value, kind)

    return compute(node.output.dims, element, "resize")


def _nearest(node: Node, x: Any, changed: dict[int, Axis], fill: float, rule: str) -> Any:
    def element(*index: Expr) -> Expr:
        source = [coordinates.nearest(changed[a], i, rule) if a in changed else i for a, i in enumerate(index)]
        value = at(x, source)
        for a, where in changed.items():
            if where.extrapolates:
                value = select(coordinates.outside(where, index[a]), like(value, fill), value)
        return value

    return compute(node.output.dims, element, "resize")


@lowers("Upsample")
def upsample(node: Node, inputs: Inputs) -> list[Any]:
    """The predecessor of Resize: enlarged by scales, asymmetric."""
    x = needed(node, inputs)
    shape, scales = shape_of(x), required(node, 1, "scales")
    changed = {
        a: coordinates.axis("asymmetric", shape[a], node.output.dims[a], float(s), (0.0, 1.0), False)
        for a, s in enumerate(scales)
        if float(s) != 1
    }
    return [_resized(node, x, changed, "floor")]
