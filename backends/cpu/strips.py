"""A pointwise convolution behind arithmetic, as BatchNormalization and Relu are in front of DenseNet's layers.

    for strip of pixels:
        scratch = front(x)                 once for all output channels, in memory of the thread's own
        for panel of output channels, for tile of the strip:    as in `convolution`, from the scratch

The image itself stays as it is, for other layers apply other arithmetic to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from tvm.tirx.script import builder as T

from onyxc.backends.cpu import convolution
from onyxc.backends.cpu.blocking import Tiles
from onyxc.backends.cpu.epilogue import Epilogue
from onyxc.backends.cpu.loops import turns
from onyxc.backends.cpu.strips_plan import StripPlan, plan
from onyxc.backends.cpu.vectors import Expr, dense, function, span, strided
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target

__all__ = ["StripPlan", "emit", "plan"]


@dataclass
class _Strip:
    """The scratch, read as if it were the image."""

    buffer: Expr
    first: Expr  # its first pixel

    def __getitem__(self, index: tuple[Expr, ...]) -> Expr:
        image, row, pixel, channel = index
        return self.buffer[image, row, pixel - self.first, channel]


def emit(name: str, plan: StripPlan, front: Epilogue, epilogue: Epilogue, target: Target) -> Kernel:
    """The kernel ``name(x, packed weights, operands of front..., operands..., y, scratch, begin, end)``.

    ``front`` is applied to vectors of channels; its operands are constant or one value a channel.
    """
    inner = plan.inner
    shape = inner.shape
    pixels, channels = shape.out_size[1], shape.in_channels
    sizes = (1, 1, pixels, shape.out_channels)
    fronts = [(f"front{i}", operand.dtype) for i, operand in enumerate(front.operands)]
    parameters = [("x", "float32"), ("w", "float32"), *fronts, *epilogue.parameters(), ("y", epilogue.y_dtype)]
    with function(name, [*parameters, ("scratch", "float32")]) as made:
        x, w, *operands, y, scratch = made.pointers
        image = strided(x, "float32", (1, 1, pixels, channels), (0, 0, plan.x_step, 1))
        strip = strided(scratch, "float32", (1, 1, plan.scratch // plan.row, plan.row), (0, 0, plan.row, 1))
        views = front.views(operands[: len(fronts)], (1, 1, pixels, channels))
        state = convolution.State(
            inner, epilogue, target, strip, dense(w, "float32", (inner.packed_size,)),
            strided(y, epilogue.y_dtype, sizes, (*shape.y_strides, 1)),
            epilogue.views(operands[len(fronts) :], sizes, inner.operands),
        )  # fmt: skip
        with T.serial(made.begin, made.end) as number:
            start = T.bind(number * plan.strip)
            stop = T.bind(T.min(start + plan.strip, plan.tiles))
            first, last = (T.bind(_pixel(inner.tiles, tile)) for tile in (start, stop))
            _fill(strip, image, front, views, first, last, target)
            state.x = _Strip(strip, first)
            convolution.emit_tiles(state, start, stop)
    note = f"arithmetic in front, {plan.tasks} strips of {plan.strip} tiles"
    return made.kernel(plan.tasks, shape.work, target, note)


def _pixel(runs: Sequence[Tiles], tile: Expr) -> Expr:
    """The first pixel of tile number ``tile``, or the number of pixels behind the last one."""
    total, before = 0, 0
    for run in runs:
        total = total + T.max(T.min(tile - before, run.count), 0) * run.width
        before += run.count
    return total


def _fill(
    strip: Expr, image: Expr, front: Epilogue, views: list[Expr], first: Expr, last: Expr, target: Target
) -> None:  # fmt: skip
    """Write the front's results for pixels ``first`` to ``last``.

    Whole vectors: behind the last channel there is room in the strip, and something harmless to read elsewhere.
    """
    lanes = target.lanes()
    vectors = ceil(int(image.shape[3]) / lanes)
    with T.serial(first, last) as pixel:
        for number in turns(0, vectors):
            channel = number * lanes
            value = T.bind(image[0, 0, pixel, span(channel, lanes)])
            front.write(strip, value, (0, 0, pixel - first, channel), lanes, views)
