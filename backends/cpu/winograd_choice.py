"""Whether a convolution is faster by Winograd's products, and by which: a model of the cycles. Nothing here imports TVM."""

from __future__ import annotations

from itertools import product

from onyxc.backends.cpu import convolution_plan
from onyxc.backends.cpu.blocking import step_cycles
from onyxc.backends.cpu.shapes import ConvShape
from onyxc.backends.cpu.winograd_plan import FLOAT, WinogradPlan, make, product_cycles
from onyxc.backends.cpu.winograd_transforms import Matrix, outputs
from onyxc.backends.target import Target

_MOST_POINTS = 81  # of a tile, all of which are straight code
_GAIN = 0.93  # share of the direct sum's time from which on larger weights are worth it
_TILE = 20  # cycles to find the place of a tile
_RATE = 5  # cycles in which a vector of weights comes from memory
_EXPOSED = 0.15  # share of them that arithmetic never hides


def plan(shape: ConvShape, target: Target) -> WinogradPlan | None:
    """The plan that is expected to be the fastest, or None where the direct sum is, or has to be taken."""
    if not fits(shape, target):
        return None
    tall, wide = map(outputs, shape.kernel, shape.strides)
    tiles = product(tall, wide)
    made = [p for tile in tiles if (p := make(shape, tile, target)).points <= _MOST_POINTS]
    best = min(made, key=lambda p: cycles(p, target))
    return best if cycles(best, target) < _GAIN * direct_cycles(shape, target) else None


def fits(shape: ConvShape, target: Target) -> bool:
    """Whether the algorithm applies, and may be used."""
    floats = {shape.x_dtype, shape.w_dtype, shape.acc_dtype} == {"float32"}
    plain = shape.dilations == (1, 1) and shape.x_strides[3] == 1 and not shape.shuffle
    known = all(map(outputs, shape.kernel, shape.strides)) and shape.kernel != (1, 1)
    return floats and plain and known and not target.exact and target.favor == "speed"


def cycles(plan: WinogradPlan, target: Target) -> float:
    """Model of a convolution's cycles, for two vector products a cycle, weights read from memory.

    The constants are fitted to forty layers on a Zen 4: right within 15 %.
    """
    shape, high, wide = plan.shape, plan.vertical, plan.horizontal
    forward = high.size * _operations(wide.forward) + wide.size * _operations(high.forward) + 3 * plan.points
    inverse = wide.size * _operations(high.inverse) + high.outputs * _operations(wide.inverse) + 2 * plan.points
    vectors = shape.group * sum(len(p.lanes) * p.count for p in plan.panels)
    transforms = plan.tiles * (forward * (plan.row // plan.lanes) + inverse * vectors) / 2 + plan.tiles * 2 * _TILE
    return _with_weights(product_cycles(plan, target), plan.packed_size / plan.lanes) + transforms


def direct_cycles(shape: ConvShape, target: Target) -> float:
    """The same model of the direct sum."""
    made = convolution_plan.plan(shape, target)
    shape = made.shape  # collapsed
    height = shape.in_size[0]
    lines = shape.batch * sum(
        0 <= row * shape.strides[0] - shape.pads[0] + ky * shape.dilations[0] < height
        for row, ky in product(range(shape.out_size[0]), range(shape.kernel[0]))
    )
    total = 0.0
    for panel, tile in product(made.panels, made.tiles):
        for taps in tile.taps:
            step = step_cycles(len(panel.lanes), len(taps.pixels), 0, made.depth, target)
            total += panel.count * tile.count * (taps.end - taps.begin) * step
    total *= shape.group * lines * shape.group_in
    return _with_weights(total, made.packed_size / target.lanes(FLOAT))


def _with_weights(cycles: float, vectors: float) -> float:
    """``cycles`` of arithmetic while ``vectors`` of weights come from memory."""
    return max(cycles, _RATE * vectors) + _EXPOSED * _RATE * vectors


def _operations(stages: tuple[Matrix, ...]) -> int:
    """Additions, each with a multiplication or without, of a transform along one axis."""
    return sum(sum(value != 0 for value in row) - 1 for stage in stages for row in stage)
