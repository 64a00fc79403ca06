"""Weights that only a run knows, in the layout of panels: what `convolution_plan.pack_panels` does with constants.

for panel of output channels, for kernel row and column:   a vector of output channels for each input channel
"""

from __future__ import annotations

from itertools import accumulate
from math import prod

from tvm.tirx.script import builder as T

from onyxc.backends.cpu.blocking import Panel
from onyxc.backends.cpu.loops import each_panel
from onyxc.backends.cpu.shapes import ConvShape
from onyxc.backends.cpu.transpose import Block, copy_elements, copy_turned
from onyxc.backends.cpu.vectors import Expr, dense, function, lanes_of, span, strided
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target


def emit(name: str, shape: ConvShape, panels: tuple[Panel, ...], turned: bool, target: Target) -> Kernel:
    """The kernel ``name(weights, packed, begin, end)``; a task is a panel.

    ``weights`` [O, I / group, kh, kw] of ``shape.w_dtype``, ``turned``: kh and kw are those of ``shape`` the other way
    round. ``panels`` divide the output channels of a group, or all of them where each group has one.
    """
    groups, inputs, outputs, kernel = shape.group, shape.group_in, shape.group_out, shape.kernel
    if inputs == outputs == 1:
        groups, outputs = 1, groups
    depth, taps = inputs * prod(kernel), prod(kernel)
    counts = [groups * panel.count for panel in panels]
    starts = list(accumulate((n * p.width * depth for n, p in zip(counts, panels, strict=True)), initial=0))
    outer, steps = (groups, *kernel), (outputs * depth, *((1, kernel[0]) if turned else (kernel[1], 1)))
    with function(name, [("w", shape.w_dtype), ("packed", shape.w_dtype)]) as made:
        packed = dense(made.pointers[1], shape.w_dtype, (starts[-1],))
        if taps == 1:
            copy, sizes, strides = copy_turned, (*outer, outputs, inputs), (*steps, depth, taps)
        else:
            copy, sizes, strides = copy_elements, (*outer, inputs, outputs), (*steps, taps, depth)
        w = strided(made.pointers[0], shape.w_dtype, sizes, strides)
        for kind, number, _, _ in each_panel(made, counts, 1):
            panel = panels[kind]
            group = T.bind(T.truncdiv(number, panel.count))
            column = T.bind(panel.start + (number - group * panel.count) * panel.channels)
            with T.serial(0, kernel[0]) as ky, T.serial(0, kernel[1]) as kx:
                tap = T.bind(starts[kind] + (number * depth + (ky * kernel[1] + kx) * inputs) * panel.width)
                offset = 0
                for lanes in panel.lanes:

                    def keep(row: Expr, vector: Expr, first: Expr = tap + offset, width: int = panel.width) -> None:
                        T.buffer_store(packed, vector, [span(first + row * width, lanes_of(vector))])

                    valid = min(lanes, panel.channels - offset)
                    copy(w, Block((group, ky, kx), column + offset, inputs, lanes, valid), keep)
                    offset += lanes
    return made.kernel(sum(counts), starts[-1], target, "packs the weights of a run")
