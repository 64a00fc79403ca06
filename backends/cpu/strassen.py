"""A product with constant weights by fewer multiplications of blocks (`strassen_plan` has the formula), two kernels.

factors:   for row: the left factors of x, sums of its blocks
products:  for panel of a block's columns:
               for product, for tile of a block's rows:   accumulators in registers, as in a direct convolution
                   for k: accumulators += weights[panel, product, k] * broadcast(factor[product, row, k])
               for row, for vector:   the sums of the products for all blocks, epilogues, stores
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, product
from math import ceil, prod

from tvm.tirx.script import builder as T

from onyxc.backends.cpu.blocking import Panel
from onyxc.backends.cpu.epilogue import Epilogue
from onyxc.backends.cpu.loops import each_panel, each_tile
from onyxc.backends.cpu.strassen_plan import StrassenPlan, choose, pack, plan
from onyxc.backends.cpu.sums import evaluate, share
from onyxc.backends.cpu.tile import Tile
from onyxc.backends.cpu.vectors import Expr, Signature, constant, dense, function, lanes_of, prefetch, span, strided
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target

__all__ = ["StrassenPlan", "choose", "emit", "pack", "plan"]


@dataclass
class _Kernel:
    """The buffers of the kernel that is being written."""

    plan: StrassenPlan
    epilogue: Epilogue
    x: Expr
    factors: Expr
    weights: Expr  # flat
    products: Expr  # flat
    y: Expr
    operands: list[Expr]


@dataclass
class _Rows:
    """A part of the rows: its tiles, from ``first`` to ``last``, and the rows that they start at."""

    first: Expr
    last: Expr
    start: Expr
    stop: Expr


def emit(name: str, plan: StrassenPlan, epilogue: Epilogue, target: Target) -> Kernel:
    """The kernel ``name(x, packed weights, operands..., y, scratch, begin, end)`` of ``plan``."""
    shape = plan.shape
    sizes = (1, 1, shape.out_size[1], shape.out_channels)
    parameters = [("x", "float32"), ("w", "float32"), *epilogue.parameters()]
    parameters += [("y", epilogue.y_dtype), ("scratch", "float32")]
    with function(name, parameters) as made:
        x, weights, *operands, y, scratch = made.pointers
        state = _Kernel(
            plan,
            epilogue,
            strided(x, "float32", (shape.out_size[1], shape.in_channels), shape.x_strides[2:]),
            dense(scratch, "float32", plan.factors),
            dense(weights, "float32", (plan.packed_size,)),
            strided(scratch, "float32", (plan.products_size,), (1,), prod(plan.factors)),
            strided(y, epilogue.y_dtype, sizes, (*shape.y_strides, 1)),
            epilogue.views(operands, sizes, plan.operands),
        )
        # each thread makes the left factors for itself: what another core has written comes at a price
        with T.If(made.begin < made.end), T.Then():
            _emit_factors(state, target.lanes(4))
        _emit_panels(state, made)
    tile = f"{len(plan.panels[0].lanes)} x {plan.tiles[0].width}"
    size = f"{shape.out_size[1]} x {shape.in_channels} x {shape.out_channels}"
    return made.kernel(plan.tasks, shape.work, target, f"product {size}, {plan.algorithm.name}: tile {tile}")


def _emit_factors(state: _Kernel, lanes: int) -> None:
    """The left factors of all rows."""
    plan, algorithm = state.plan, state.plan.algorithm
    sums = share(algorithm.left)
    for first, stop, blocks in _parts(plan):
        with T.serial(first, stop) as row, T.serial(0, plan.depth // lanes) as number:
            terms = [
                T.bind(state.x[row + i * plan.rows, span(number * lanes + j * plan.depth, lanes)])
                if i < blocks
                else constant(0, "float32", lanes)
                for i, j in product(range(algorithm.m), range(algorithm.k))
            ]
            for index, value in enumerate(evaluate(sums, terms, T.bind)):
                T.buffer_store(state.factors, value, [index, row, span(number * lanes, lanes)])


def _emit_panels(state: _Kernel, made: Signature) -> None:
    """All tasks: panel by panel, parts of the rows inside."""
    plan = state.plan
    counts = [panel.count for panel in plan.panels]
    steps = [plan.algorithm.products * plan.depth * panel.width for panel in plan.panels]
    bases = list(accumulate((c * s for c, s in zip(counts, steps, strict=True)), initial=0))
    for kind, number, start, stop in each_panel(made, counts, plan.parts):
        panel = plan.panels[kind]
        weight = T.bind(bases[kind] + number * steps[kind])
        column = T.bind(panel.start + number * panel.channels)
        with T.serial(start, stop) as part:
            first, last = (T.bind(T.truncdiv((part + i) * plan.count, plan.parts)) for i in (0, 1))
            rows = _Rows(first, last, *(T.bind(_first_row(plan, tile)) for tile in (first, last)))
            with T.serial(0, plan.algorithm.products) as index:
                _emit_product(state, panel, rows, index, T.bind(weight + index * (plan.depth * panel.width)))
            _emit_result(state, panel, rows, column)


def _parts(plan: StrassenPlan) -> list[tuple[int, int, int]]:
    """(first row, last row excluded, blocks of A that have them) of a block."""
    m = plan.algorithm.m
    parts = [(0, plan.last, m), (plan.last, plan.rows, m - 1)]
    return [p for p in parts if p[0] < p[1]]


def _first_row(plan: StrassenPlan, tile: Expr) -> Expr:
    """The first row of tile number ``tile``: wider tiles come first."""
    wide, narrow = plan.tiles[0], plan.tiles[-1]
    return tile * wide.width - T.max(tile - wide.count, 0) * (wide.width - narrow.width)


def _emit_product(state: _Kernel, panel: Panel, rows: _Rows, index: Expr, weight: Expr) -> None:
    """Product number ``index`` in one panel, whose weights start at ``weight``, to scratch."""
    plan = state.plan
    for run, row in each_tile(plan.tiles, rows.first, rows.last):
        tile = Tile(panel.lanes, run.width, "float32")
        inside = T.bind(row - rows.start)
        with T.serial(0, plan.depth // plan.unroll) as number:
            for u in range(plan.unroll):
                _emit_step(state, panel, tile, (index, row, number * plan.unroll + u), weight, inside)
        for m, offset, value in tile.vectors():
            place = (index * plan.most_rows + inside + m) * panel.width + offset
            T.buffer_store(state.products, value, [span(place, lanes_of(value))])


def _emit_step(state: _Kernel, panel: Panel, tile: Tile, at: tuple[Expr, Expr, Expr], weight: Expr, inside: Expr) -> None:
    """Step ``at`` (product, first row, k) of a tile's sum; what is needed next comes near meanwhile, bit by bit.

    ``inside``: the first row, counted from that of the part.
    """
    plan, (index, row, k) = state.plan, at
    starts = accumulate(panel.lanes, initial=0)
    here = weight + k * panel.width
    weights = [state.weights[span(here + s, lanes)] for s, lanes in zip(starts, panel.lanes, strict=False)]
    # the next product's weights during the rows of this one, and the next tile's rows
    width, each = tile.pixels, ceil(panel.width * plan.parts / plan.rows)
    done = (inside * plan.depth + k * width) * each
    prefetch(state.weights, (weight + plan.depth * panel.width + done,))
    prefetch(state.factors, (index, row + width, k * width))
    tile.step(weights, range(width), lambda m: state.factors[index, row + m, k])


def _emit_result(state: _Kernel, panel: Panel, rows: _Rows, column: Expr) -> None:
    """All blocks of the result in one panel and a part of the rows, from the products."""
    plan, algorithm = state.plan, state.plan.algorithm
    sums = share(algorithm.result)

    def write(row: Expr, offset: Expr, lanes: int, valid: int, blocks: int) -> None:
        places = [(p * plan.most_rows + row - rows.start) * panel.width + offset for p in range(algorithm.products)]
        products = [T.bind(state.products[span(place, lanes)]) for place in places]
        values = evaluate(sums, products, T.bind)
        for (i, j), value in zip(product(range(algorithm.m), range(algorithm.n)), values, strict=True):
            if i < blocks:
                at = (0, 0, row + i * plan.rows, column + offset + j * plan.columns)
                state.epilogue.write(state.y, T.bind(value), at, valid, state.operands)

    lanes = panel.lanes[0]
    whole = panel.channels // lanes
    starts = list(accumulate(panel.lanes, initial=0))
    for first, stop, blocks in _parts(plan):
        with T.serial(T.max(rows.start, first), T.min(rows.stop, stop)) as row:
            with T.serial(0, whole) as number:
                write(row, T.bind(number * lanes), lanes, lanes, blocks)
            for tail, offset in list(zip(panel.lanes, starts, strict=False))[whole:]:
                write(row, offset, tail, panel.channels - offset, blocks)
