"""A chain of convolutions and pools by rows: a row of the result asks for the rows under its kernel, and those for theirs.

for row of the last image:
    for row of the image before it that is new under the kernel:
        for ... new rows of the image before that:   compute into its ring
        compute into its ring
    compute, epilogue, store

Every one has its own epilogue. A thread begins with all rows under its first row's kernel, so that a few rows
are computed twice where threads meet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.cpu import convolution, depthwise, pooling
from onyxc.backends.cpu.buffers import Buffers
from onyxc.backends.cpu.chain_plan import ChainPlan, Link, channels
from onyxc.backends.cpu.depthwise_plan import DepthwisePlan
from onyxc.backends.cpu.epilogue import Epilogue
from onyxc.backends.cpu.loops import turns
from onyxc.backends.cpu.pooling_plan import PoolPlan
from onyxc.backends.cpu.vectors import Expr, Signature, dense, function, hold, strided
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target

_FLOAT = "float32"


@dataclass(frozen=True)
class _Ring:
    """Rows of an image, of which the buffer holds the last few; read as if it held all."""

    buffer: Expr  # [rows, width, channels]
    rows: int

    def place(self, row: Expr) -> Expr:
        """Where a row lies."""
        return T.bitwise_and(row, self.rows - 1) if self.rows > 1 else 0

    def __getitem__(self, index: tuple[Expr, ...]) -> Expr:
        _, row, *inner = index
        return self.buffer[(0, self.place(row), *inner)]


@dataclass
class _Stage:
    """A link with its buffers; ``ring`` takes its result, where it is not the last; ``first``: row of this call."""

    link: Link
    state: convolution.State | depthwise.State | pooling.State
    ring: _Ring | None
    first: Expr = field(default=0)


def emit(name: str, plan: ChainPlan, epilogues: Sequence[Epilogue], target: Target) -> Kernel:
    """The kernel ``name(x, packed weights..., operands of each epilogue..., y, scratch, begin, end)`` of ``plan``.

    Operands of all epilogues but the last are the same for all pixels.
    """
    weights = [(f"w{i}", _FLOAT) for i in range(plan.weights)]
    operands = [(f"e{i}_{n}", dtype) for i, e in enumerate(epilogues) for n, dtype in e.parameters()]
    parameters = [("x", _FLOAT), *weights, *operands, ("y", epilogues[-1].y_dtype), ("scratch", _FLOAT)]
    with function(name, parameters) as made:
        stages = list(_stages(made, plan, epilogues, target))
        shape = plan.links[-1].shape
        height = shape.out_size[0]
        one = shape.batch == 1
        for image in turns(0, 1) if one else _images(made, height):
            low = made.begin if one else T.bind(T.max(made.begin - image * height, 0))
            high = made.end if one else T.bind(T.min(made.end - image * height, height))
            stages[-1].first = low
            for stage, before in zip(stages[:0:-1], stages[-2::-1], strict=True):
                above = stage.first * stage.link.shape.strides[0] - stage.link.shape.pads[0]
                before.first = T.bind(T.max(above, 0))
            with T.serial(low, high) as row:
                _emit_row(stages, image, row)
    return made.kernel(plan.tasks, plan.work, target, plan.note)


def _images(made: Signature, height: int) -> Iterator[Expr]:
    with T.serial(T.truncdiv(made.begin, height), T.truncdiv(made.end + (height - 1), height)) as image:
        yield image


def _stages(made: Signature, plan: ChainPlan, epilogues: Sequence[Epilogue], target: Target) -> Iterator[_Stage]:
    """The buffers of each link."""
    x, *rest, y, scratch = made.pointers
    weights, pointers = iter(rest[: plan.weights]), rest[plan.weights :]
    memory = dense(scratch, _FLOAT, (plan.scratch,))
    source: Expr = None
    for link, epilogue in zip(plan.links, epilogues, strict=True):
        shape, depth = link.shape, channels(link.shape)
        sizes = (shape.batch, *shape.out_size, depth)
        own, pointers = pointers[: len(epilogue.operands)], pointers[len(epilogue.operands) :]
        if source is None:
            source = strided(x, _FLOAT, (shape.batch, *shape.in_size, plan.channels), shape.x_strides)
        ring, into = None, None
        if link.rows:
            pitches = (0, link.pitch, depth, 1)
            held = (1, link.rows, shape.out_size[1], depth)
            into = T.decl_buffer(held, _FLOAT, data=memory.data, strides=list(pitches), elem_offset=link.start)
            ring = _Ring(into, link.rows)
        else:
            into = strided(y, epilogue.y_dtype, sizes, (*shape.y_strides, 1))
        views, plan_ = epilogue.views(own, sizes), link.plan
        if isinstance(plan_, PoolPlan):
            yield _Stage(link, pooling.State(plan_, epilogue, source, into, views), ring)
        elif isinstance(plan_, DepthwisePlan):
            table = dense(next(weights), _FLOAT, (plan_.packed_size,))
            yield _Stage(link, depthwise.State(plan_, epilogue, source, table, into, views), ring)
        else:
            table = dense(next(weights), _FLOAT, (plan_.packed_size,))
            yield _Stage(link, convolution.State(plan_, epilogue, target, source, table, into, views), ring)
        source = ring


def _emit_row(stages: Sequence[_Stage], image: Expr, row: Expr) -> None:
    """Row ``row`` of the last stage, after the rows that it needs."""
    *before, stage = stages
    if before:
        shape, reach = stage.link.shape, stage.link.reach
        height, top = shape.in_size[0], row * shape.strides[0] - shape.pads[0]
        old = T.max(T.min(top - shape.strides[0] + reach, height), 0)
        start = hold(tirx.Select(row == stage.first, before[-1].first, old))
        with T.serial(start, hold(T.max(T.min(top + reach, height), 0))) as needed:
            _emit_row(before, image, needed)
    into = row if stage.ring is None else stage.ring.place(row)
    state = stage.state
    if isinstance(state, pooling.State):
        pooling.emit_row(state, image, row, into)
    elif isinstance(state, Buffers):
        depthwise.emit_row(state, image, row, into)
    else:
        convolution.emit_row(state, image, row, into)
