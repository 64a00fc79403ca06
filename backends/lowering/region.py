"""Operators that gather or scatter windows: RoiAlign, DeformConv, Col2Im, MaxUnpool."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tvm import te, tirx
from tvm.tirx.script import builder as T

from onyxc.backends.kernels.imperative import Imperative
from onyxc.backends.lowering.code import Code, kernel
from onyxc.backends.lowering.registry import imperative, lowers, parameter, required, static
from onyxc.backends.lowering.sampling import text
from onyxc.backends.lowering.scalar import cast, like, select
from onyxc.backends.lowering.tensors import at, compute, needed, optional, ravel, unravel
from onyxc.backends.lowering.words import Expr, every, fill, fix, i32, strides, when
from onyxc.backends.lowering.words import ravel as address
from onyxc.compiler.errors import UnsupportedError
from onyxc.compiler.ir.graph import Node


def numbers(node: Node, key: str, default: Sequence[int]) -> tuple[int, ...]:
    """An attribute that is a list of integers."""
    value = node.attrs.get(key)
    return tuple(int(v) for v in value) if isinstance(value, tuple) and value else tuple(default)


def corner(x: Expr, extent: int) -> tuple[Expr, Expr, Expr]:
    """The elements below and above a coordinate within [0, extent), and the weight of the upper one."""
    x = tirx.max(x, like(x, 0))
    low = fix(T.min(i32(x), extent - 1))
    at_end = low >= extent - 1
    rest = fix(select(at_end, like(x, 0), x - cast(low, str(x.ty.dtype))))
    return low, fix(T.min(low + 1, extent - 1)), rest


@imperative("RoiAlign")
def roi_align(node: Node) -> Imperative:
    """A task is a region: for each bin the mean (or maximum) of bilinear samples, channels inside."""
    batch, channels, height, width = static(node, 0).dims
    regions = static(node, 1).dims[0]
    rows, columns = (node.integer(k, 1) for k in ("output_height", "output_width"))
    ratio = node.integer("sampling_ratio")
    scale = node.real("spatial_scale", 1.0)
    half = text(node, "coordinate_transformation_mode", "output_half_pixel") == "half_pixel"
    maximum = text(node, "mode", "avg") == "max"

    def emit(code: Code) -> None:
        x, rois, images = code.ins
        y, roi = code.outs[0], code.task
        kind = str(rois[0].ty.dtype)
        image = fix(T.max(T.min(i32(images[roi]), batch - 1), 0))

        def number(value: float) -> Expr:
            return tirx.const(value, kind)

        left, top, right, bottom = (fix(rois[roi * 4 + i] * number(scale) - number(0.5 if half else 0.0)) for i in range(4))
        sizes = [bottom - top, right - left]
        if not half:
            sizes = [tirx.max(s, number(1)) for s in sizes]
        bins = [fix(s / number(n)) for s, n in zip(sizes, (rows, columns), strict=True)]
        counts = [fix(i32(ratio) if ratio > 0 else i32(tirx.ceil(b))) for b in bins]
        share = fix(number(1) / cast(T.max(counts[0] * counts[1], 1), kind))
        with T.serial(0, rows) as p, T.serial(0, columns) as q:
            target = fix(roi * (channels * rows * columns) + p * columns + q)
            with T.serial(0, channels) as c:
                y[target + c * (rows * columns)] = 0
            with T.serial(0, T.max(counts[0], 0)) as i, T.serial(0, T.max(counts[1], 0)) as j:
                places = []
                for start, size, step, sample, count in zip((top, left), bins, (p, q), (i, j), counts, strict=True):
                    fraction = (cast(sample, kind) + number(0.5)) * size / cast(count, kind)
                    places.append(fix(start + cast(step, kind) * size + fraction))
                inside = [every(v >= number(-1), v <= number(n)) for v, n in zip(places, (height, width), strict=True)]
                known = fix(every(*inside))
                (y0, y1, dy), (x0, x1, dx) = (corner(v, n) for v, n in zip(places, (height, width), strict=True))
                first = fix(tirx.EQ(i + j, 0))
                taps = [(y0, x0, (1, 1)), (y0, x1, (1, 0)), (y1, x0, (0, 1)), (y1, x1, (0, 0))]
                weights = [
                    fix(select(known, (number(1) - dy if a else dy) * (number(1) - dx if b else dx), number(0)))
                    for _, _, (a, b) in taps
                ]
                offsets = [fix(a * width + b) for a, b, _ in taps]
                with T.serial(0, channels) as c:
                    plane = fix((image * channels + c) * (height * width))
                    parts = [fix(w * cast(x[plane + o], kind)) for w, o in zip(weights, offsets, strict=True)]
                    place = fix(target + c * (rows * columns))
                    if maximum:
                        best = tirx.max(tirx.max(parts[0], parts[1]), tirx.max(parts[2], parts[3]))
                        y[place] = select(first, best, tirx.max(best, cast(y[place], kind)))
                    else:
                        y[place] = cast(y[place], kind) + (parts[0] + parts[1] + parts[2] + parts[3]) * share

    work = regions * channels * rows * columns * max(1, ratio) ** 2 * 8
    return kernel(node, None, emit, tasks=regions, work=work)


@lowers("DeformConv")
def deform_conv(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """Bilinear samples as a tensor [batch, channel, kernel, position], then an ordinary sum of products."""
    x, w, offset = (needed(node, inputs, i) for i in range(3))
    bias, mask = optional(inputs, 3), optional(inputs, 4)
    batch, channels, *size = static(node, 0).dims
    outputs, inner, *kernel_size = static(node, 1).dims
    if len(size) != 2:
        raise UnsupportedError(f"{node.label()}: only two spatial dimensions")
    out = node.output.dims[2:]
    step, dilation = numbers(node, "strides", (1, 1)), numbers(node, "dilations", (1, 1))
    pads = numbers(node, "pads", (0, 0, 0, 0))
    group, parts = node.integer("group", 1), node.integer("offset_group", 1)
    taps = prod(kernel_size)
    each, outputs_each = channels // parts, outputs // group

    def sample(n: Expr, c: Expr, ky: Expr, kx: Expr, *place: Expr) -> Expr:
        tap = (tirx.floordiv(c, each) * kernel_size[0] + ky) * kernel_size[1] + kx
        axes: list[list[tuple[Expr, Expr]]] = []
        for d, k in enumerate((ky, kx)):
            shift = cast(at(offset, [n, tap * 2 + d, *place]), "float32")
            where = cast(place[d] * step[d] - pads[d] + k * dilation[d], "float32") + shift
            where = tirx.max(like(where, -2), tirx.min(like(where, size[d] + 1), where))
            low = tirx.floor(where)
            rest = where - low
            base = i32(low)
            axes.append([(base, like(rest, 1) - rest), (base + 1, rest)])
        total: Expr = tirx.const(0, "float32")
        for iy, wy in axes[0]:
            for ix, wx in axes[1]:
                exists = every(iy >= 0, iy < size[0], ix >= 0, ix < size[1])
                value = tirx.if_then_else(exists, cast(at(x, [n, c, iy, ix]), "float32"), tirx.const(0, "float32"))
                total = total + wy * wx * value
        return total if mask is None else total * cast(at(mask, [n, tap, *place]), "float32")

    columns = compute((batch, channels, *kernel_size, *out), sample, "samples")
    ic = te.reduce_axis((0, inner), "ic")
    ky, kx = (te.reduce_axis((0, k), "k") for k in kernel_size)

    def element(n: Expr, o: Expr, i: Expr, j: Expr) -> Expr:
        channel = tirx.floordiv(o, outputs_each) * inner + ic.var
        return te.sum(
            at(columns, [n, channel, ky.var, kx.var, i, j]) * cast(at(w, [o, ic.var, ky.var, kx.var]), "float32"),
            axis=[ic, ky, kx],
        )

    assert taps
    summed = compute((batch, outputs, *out), element, "deform_conv")
    kind = node.output.dtype

    def finish(n: Expr, o: Expr, i: Expr, j: Expr) -> Expr:
        value = at(summed, [n, o, i, j])
        return cast(value if bias is None else value + cast(at(bias, [o]), "float32"), kind)

    return [compute((batch, outputs, *out), finish, "bias")]


@lowers("Col2Im")
def col2im(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """Every pixel is the sum of the windows that cover it."""
    x = needed(node, inputs)
    sizes, window = required(node, 1, "image_shape"), required(node, 2, "block_shape")
    image, block = [int(v) for v in sizes], [int(v) for v in window]
    rank = len(image)
    step, dilation = numbers(node, "strides", [1] * rank), numbers(node, "dilations", [1] * rank)
    pads = numbers(node, "pads", [0] * 2 * rank)
    places = [(image[d] + pads[d] + pads[rank + d] - dilation[d] * (block[d] - 1) - 1) // step[d] + 1 for d in range(rank)]
    batch, rows = static(node, 0).dims[:2]
    channels = rows // prod(block)
    taps = te.reduce_axis((0, prod(block)), "tap")

    def element(n: Expr, c: Expr, *pixel: Expr) -> Expr:
        windows, asked = [], []
        for d, k in enumerate(unravel(taps.var, block)):
            distance = pixel[d] + pads[d] - k * dilation[d]
            asked += [distance >= 0, tirx.EQ(tirx.floormod(distance, step[d]), 0), distance < places[d] * step[d]]
            windows.append(tirx.floordiv(distance, step[d]))
        value = at(x, [n, c * prod(block) + taps.var, ravel(windows, places)])
        return te.sum(tirx.if_then_else(every(*asked), value, tirx.const(0, str(x.dtype))), axis=taps)

    return [compute((batch, channels, *image), element, "col2im")]


@imperative("MaxUnpool")
def max_unpool(node: Node) -> Imperative:
    """Zeros, then each maximum back at the place where it was found, counted in the unpooled tensor."""
    dims = static(node, 0).dims
    given = parameter(node, 2, "output_shape")
    shape = node.output.dims if given is None else tuple(int(v) for v in given)
    size = numbers(node, "kernel_shape", ())
    rank = len(size)
    step, pads = numbers(node, "strides", [1] * rank), numbers(node, "pads", [0] * 2 * rank)
    natural = [
        *dims[:2],
        *((dims[d + 2] - 1) * step[d] - pads[d] - pads[rank + d] + size[d] for d in range(rank)),
    ]

    def emit(code: Code) -> None:
        x, indices = code.ins[0], code.ins[1]
        y = code.outs[0]
        fill(y, i32(0), prod(shape), 0)
        with T.serial(0, prod(dims)) as i:
            place = fix(i32(indices[i]))
            with when(every(place >= 0, place < prod(natural))):
                index = unravel(place, natural)
                inside = [c < n for c, n, m in zip(index, shape, natural, strict=True) if n < m]
                with when(every(*inside) if inside else tirx.const(True, "bool")):
                    y[fix(address(index, strides(shape)))] = x[i]

    return kernel(node, [(shape, node.output.dtype)], emit, work=prod(shape))
