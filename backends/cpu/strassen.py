"""A product with constant weights by fewer multiplications of blocks (`strassen_plan` has the formula).

for part of a block's rows:
    for row:   the left factors of x, sums of its blocks
    for panel of a block's columns, for slice of the depth:
        for product:
            first tile of rows:    for k: the right factor, a sum of blocks of the weights, is made, used and kept
            for other tile:        for k: accumulators += right factor[k] * broadcast(left factor[product, row, k])
        for row, for vector:   the sums of the products for all blocks, epilogues, stores

The additions of a right factor hide behind the multiplications of its first tile, so that no weights but the model's own
are stored or read; a premade one is a block of its own. Threads divide panels as well as parts; each makes the factors
that it needs, for what another core has written comes at a price.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from math import ceil, prod

from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.cpu.blocking import Panel, Tiles
from onyxc.backends.cpu.epilogue import Epilogue
from onyxc.backends.cpu.loops import each_tile, turns
from onyxc.backends.cpu.strassen_plan import LINE, StrassenPlan, choose, pack, plan
from onyxc.backends.cpu.sums import evaluate, share, signed_sum
from onyxc.backends.cpu.tile import Tile
from onyxc.backends.cpu.vectors import (
    Expr,
    Signature,
    constant,
    dense,
    function,
    hold,
    lanes_of,
    prefetch,
    span,
    strided,
)
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target

_AHEAD = 16  # steps: several blocks are read at once, which a processor does not foresee

__all__ = ["StrassenPlan", "choose", "emit", "pack", "plan"]


@dataclass
class _Kernel:
    """The buffers of the kernel that is being written."""

    plan: StrassenPlan
    epilogue: Epilogue
    x: Expr
    weights: Expr  # flat
    terms: Expr  # `Method.terms`
    factors: Expr  # left ones, flat: product, row, k
    products: Expr  # flat: row, vector, product
    right: Expr  # flat: the right factor of the moment
    y: Expr
    operands: list[Expr]


@dataclass
class _Rows:
    """A part of the rows: its tiles, from ``first`` to ``last``, and the rows that they start at."""

    first: Expr
    last: Expr
    start: Expr
    stop: Expr


@dataclass
class _Place:
    """Where a sum is: a ``slice`` of the depth in a ``panel``, and where its weights start."""

    panel: Panel
    slice: Expr
    weight: Expr


def emit(name: str, plan: StrassenPlan, epilogue: Epilogue, target: Target) -> Kernel:
    """The kernel ``name(x, packed weights, terms, operands..., y, scratch, begin, end)`` of ``plan``."""
    shape = plan.shape
    sizes = (1, 1, shape.out_size[1], shape.out_channels)
    parameters = [("x", "float32"), ("w", "float32"), ("terms", "int32"), *epilogue.parameters()]
    parameters += [("y", epilogue.y_dtype), ("scratch", "float32")]
    with function(name, parameters) as made:
        x, weights, terms, *operands, y, scratch = made.pointers
        factors = prod(plan.factors)
        state = _Kernel(
            plan,
            epilogue,
            strided(x, "float32", (shape.out_size[1], shape.in_channels), shape.x_strides[2:]),
            dense(weights, "float32", (plan.packed_size,)),
            dense(terms, "int32", plan.method.terms.shape),
            dense(scratch, "float32", (factors,)),
            strided(scratch, "float32", (plan.products_size,), (1,), factors),
            strided(scratch, "float32", (plan.right_size,), (1,), factors + plan.products_size),
            strided(y, epilogue.y_dtype, sizes, (*shape.y_strides, 1)),
            epilogue.views(operands, sizes, plan.operands),
        )
        _emit_parts(state, made, target.lanes(4))
    tile = f"{len(plan.panels[0].lanes)} x {plan.tiles[0].width}"
    size = f"{shape.out_size[1]} x {shape.in_channels} x {shape.out_channels}"
    return made.kernel(plan.tasks, shape.work, target, f"product {size}, {plan.method.name}: tile {tile}")


def _emit_parts(state: _Kernel, made: Signature, lanes: int) -> None:
    """All tasks: each part of the rows with the panels that this call has to do."""
    plan = state.plan
    with T.serial(T.truncdiv(made.begin, plan.units), T.truncdiv(made.end + (plan.units - 1), plan.units)) as part:
        first, last = (T.bind(T.truncdiv((part + i) * plan.count, plan.parts)) for i in (0, 1))
        rows = _Rows(first, last, *(T.bind(_first_row(plan, tile)) for tile in (first, last)))
        low = T.bind(T.max(made.begin - part * plan.units, 0))
        high = T.bind(T.min(made.end - part * plan.units, plan.units))
        _emit_factors(state, rows, lanes, low)
        _emit_panels(state, rows, low, high)


def _emit_factors(state: _Kernel, rows: _Rows, lanes: int, panel: Expr) -> None:
    """The left factors of a part of the rows; meanwhile the weights of the first ``panel`` come near."""
    plan, algorithm = state.plan, state.plan.algorithm
    size, turns = plan.blocks * plan.slice * plan.panels[0].width, plan.depth // lanes
    per_turn = ceil(size / LINE / plan.most_rows / turns)
    sums = share(algorithm.left)
    for row, blocks in _each_row(plan, rows):
        with T.serial(0, plan.depth // lanes) as number:
            terms = [
                T.bind(state.x[row * algorithm.m + i, span(number * lanes + j * plan.depth, lanes)])
                if i < blocks
                else constant(0, "float32", lanes)
                for i, j in product(range(algorithm.m), range(algorithm.k))
            ]
            start = T.bind((row - rows.start) * plan.pitch + number * lanes)
            turn = T.bind((row - rows.start) * turns + number)
            for i in range(per_turn):
                prefetch(state.weights, (panel * (size * plan.slices) + (turn * per_turn + i) * LINE,))
            for index, value in enumerate(evaluate(sums, terms, T.bind)):
                T.buffer_store(state.factors, value, [span(start + (index * plan.most_rows * plan.pitch), lanes)])


def _emit_panels(state: _Kernel, rows: _Rows, low: Expr, high: Expr) -> None:
    """The panels number ``low`` to ``high`` of a part of the rows, class by class as they are packed."""
    plan, before, base = state.plan, 0, 0
    for panel in plan.panels:
        each = plan.blocks * plan.slice * panel.width
        with T.serial(T.max(low, before), T.min(high, before + panel.count)) as number:
            inside = T.bind(number - before)
            for part in turns(0, plan.slices):
                place = _Place(panel, part, T.bind(base + (inside * plan.slices + part) * each))
                with T.serial(0, plan.algorithm.products) as index:
                    _emit_product(state, place, rows, index)
            _emit_result(state, panel, rows, T.bind(panel.start + inside * panel.channels))
        before, base = before + panel.count, base + panel.count * plan.slices * each


def _each_row(plan: StrassenPlan, rows: _Rows) -> Iterator[tuple[Expr, int]]:
    """Loops over the rows of a part: (row, blocks of A that have it), inside the loop of each number of blocks."""
    for first, stop, blocks in (
        (0, plan.full, plan.algorithm.m),
        (plan.full, plan.rows, plan.shape.out_size[1] % plan.algorithm.m),
    ):
        if first < stop:
            with T.serial(T.max(rows.start, first), T.min(rows.stop, stop)) as row:
                yield row, blocks


def _first_row(plan: StrassenPlan, tile: Expr) -> Expr:
    """The first row of tile number ``tile``: wider tiles come first."""
    wide, narrow = plan.tiles[0], plan.tiles[-1]
    return tile * wide.width - T.max(tile - wide.count, 0) * (wide.width - narrow.width)


def _emit_product(state: _Kernel, place: _Place, rows: _Rows, index: Expr) -> None:
    """Product number ``index``: a right factor of several terms is made with the first tile of rows."""
    plan, block = state.plan, state.plan.slice * place.panel.width
    form = T.bind(state.terms[index, 0])
    known = plan.method.forms
    most = max(map(len, known))
    starts = [T.bind(_wide(place.weight + state.terms[index, 1 + i] * block)) for i in range(most)]

    def tiles(runs: Sequence[Tiles], first: Expr, last: Expr, buffer: Expr, start: Expr, signs: Sequence[int] = ()) -> None:
        for run, row in each_tile(runs, first, last):
            at = (index, T.bind(row - rows.start))
            _emit_tile(state, place, run.width, at, (buffer, start), list(zip(starts, signs, strict=False)))

    for number, signs in enumerate(known):
        with T.If(form == number), T.Then():
            if signs == (1,):
                tiles(plan.tiles, rows.first, rows.last, state.weights, starts[0])
            else:
                tiles(
                    plan.tiles[: 1 if plan.parts == 1 else None], rows.first, rows.first + 1, state.right, _wide(0), signs
                )
    if len(known) > 1:
        with T.If(form != known.index((1,))), T.Then():
            tiles(plan.tiles, rows.first + 1, rows.last, state.right, _wide(0))


def _emit_tile(
    state: _Kernel,
    place: _Place,
    width: int,
    at: tuple[Expr, Expr],
    source: tuple[Expr, Expr],
    terms: Sequence[tuple[Expr, int]] = (),
) -> None:
    """A tile of ``width`` rows from ``at``, (product, row in the part), on.

    With ``terms``, (first weight of a block, sign), it makes the right factor, and keeps it for the tiles that follow.
    """
    plan, panel, (index, row) = state.plan, place.panel, at
    tile, vectors = Tile(panel.lanes, width, "float32"), _vectors(panel)
    # beside a store LLVM would load the inputs of all steps before the first is computed
    unroll = 1 if terms else plan.unroll
    start = T.bind(_wide((index * plan.most_rows + row) * plan.pitch + place.slice * plan.slice))
    with T.serial(_wide(0), _wide(plan.slice // unroll)) as number:
        _emit_prefetch(state, place, width, at, start, number, unroll)
        for u in range(unroll):
            k = T.bind(number * unroll + u)
            places = [span(k * panel.width + offset, lanes) for offset, lanes in vectors]
            right = [source[0][source[1] + where] for where in places]
            if terms:
                for (block, _), line in product(terms, range(0, panel.width, LINE)):
                    prefetch(state.weights, (block + ((k + _AHEAD) * panel.width + line),))
                right = [
                    hold(signed_sum([(state.weights[block + where], sign) for block, sign in terms])) for where in places
                ]
            tile.step(right, range(width), lambda m: state.factors[start + m * plan.pitch + k])  # noqa: B023
            for where, vector in zip(places, right if terms else (), strict=False):
                T.buffer_store(state.right, vector, [where])
    for m, offset, value in tile.vectors():
        lanes = lanes_of(value)
        where = span(((row + m) * panel.width + offset) * plan.algorithm.products + index * lanes, lanes)
        if plan.slices > 1:
            value = value + T.if_then_else(place.slice > 0, state.products[where], constant(0, "float32", lanes))
        T.buffer_store(state.products, value, [where])


def _wide(index: Expr) -> Expr:
    """``index`` in 64 bits, to which LLVM can add constants in an address."""
    return tirx.const(index, "int64") if isinstance(index, int) else tirx.Cast("int64", index)


def _vectors(panel: Panel) -> list[tuple[int, int]]:
    """(first column, lanes) of a panel's vectors."""
    return list(zip(accumulate(panel.lanes, initial=0), panel.lanes, strict=False))


def _emit_prefetch(
    state: _Kernel, place: _Place, width: int, at: tuple[Expr, Expr], start: Expr, number: Expr, unroll: int
) -> None:
    """What is needed later comes near, a line in each turn ``number``: the next slice's weights, the next tile's rows."""
    plan, (index, row) = state.plan, at
    size = plan.blocks * plan.slice * place.panel.width
    per_row = ceil(size / (plan.algorithm.products * plan.most_rows))
    done = (index * plan.most_rows + row) * per_row + number * ceil(width * per_row / (plan.slice // unroll))
    ahead = size // plan.blocks if plan.method.premade else size  # premade ones are read one after the other
    prefetch(state.weights, (place.weight + ahead + done,))
    prefetch(state.factors, (start + width * plan.pitch + number * (width * unroll),))


def _emit_result(state: _Kernel, panel: Panel, rows: _Rows, column: Expr) -> None:
    """All blocks of the result in one panel and a part of the rows, from the products."""
    plan, algorithm = state.plan, state.plan.algorithm
    sums = share(algorithm.result)

    def write(row: Expr, offset: Expr, lanes: int, valid: int, blocks: int) -> None:
        start = T.bind(((row - rows.start) * panel.width + offset) * algorithm.products)
        products = [T.bind(state.products[span(start + p * lanes, lanes)]) for p in range(algorithm.products)]
        for place, value in enumerate(evaluate(sums, products, T.bind)):  # in place of products, which are all read
            T.buffer_store(state.products, value, [span(start + place * lanes, lanes)])
        with T.serial(0, blocks) as i, T.serial(0, algorithm.n) as j:
            value = T.bind(state.products[span(start + (i * algorithm.n + j) * lanes, lanes)])
            at = (0, 0, row * algorithm.m + i, column + offset + j * plan.columns)
            state.epilogue.write(state.y, value, at, valid, state.operands)

    lanes = panel.lanes[0]
    whole = panel.channels // lanes
    for row, blocks in _each_row(plan, rows):
        with T.serial(0, whole) as number:
            write(row, T.bind(number * lanes), lanes, lanes, blocks)
        for offset, tail in _vectors(panel)[whole:]:
            write(row, offset, tail, panel.channels - offset, blocks)
