"""Several convolutions and pools in one group, each reading the one before: chains by rows, others one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise

from onyxc.backends.cpu import chain, chain_plan, convolution_plan, depthwise_plan
from onyxc.backends.cpu.depthwise_plan import DepthwisePlan
from onyxc.backends.cpu.match.convolution import conv, conv_shape
from onyxc.backends.cpu.match.group import AnchoredGroup
from onyxc.backends.cpu.match.pooling import pool, pool_shape
from onyxc.backends.cpu.match.strassen import strassen_conv
from onyxc.backends.cpu.pooling_plan import PoolPlan
from onyxc.backends.places import dense
from onyxc.backends.recipe import Argument, Output, Piece, Recipe, Scratch, Temporary
from onyxc.backends.target import Target
from onyxc.compiler.ir import facts
from onyxc.compiler.ir.graph import Array, Graph, Node, Value

PARTS = ("onyxc.Conv", "onyxc.Pool")


class _Group(AnchoredGroup):
    """A part of the body with its epilogue; ``between``: memory of what other parts compute."""

    def __init__(self, body: Graph, nodes: Sequence[Node], constant: tuple[bool, ...], between: dict[Value, Temporary]):
        super().__init__(body, nodes[0], list(nodes[1:]), constant, [], None)
        self.between = between
        self.result = nodes[-1].output

    def role(self, value: Value) -> Argument:
        return self.between.get(value) or super().role(value)

    @property
    def y_strides(self) -> tuple[int, ...]:
        return dense(self.result.dims) if self.result in self.between else super().y_strides

    @property
    def target_role(self) -> Argument:
        """Where the result goes."""
        return self.between.get(self.result) or Output(0)


def convolutions(name: str, body: Graph, constant: tuple[bool, ...], target: Target) -> Recipe | None:
    """The recipe of a body of at least two convolutions or pools, or None for another body."""
    starts = [i for i, n in enumerate(body.nodes) if facts.key(n) in PARTS]
    if len(starts) < 2 or starts[0] or len(body.outputs) != 1:
        return None
    parts = [body.nodes[a:b] for a, b in pairwise([*starts, len(body.nodes)])]
    between = {p[-1].output: Temporary(p[-1].output.dtype, p[-1].output.dims) for p in parts[:-1]}
    groups = [_Group(body, part, constant, between) for part in parts]
    recipe = list[Piece]()
    counts = _split(groups, target)
    for number, (start, stop) in enumerate(pairwise(accumulate(counts, initial=0))):
        own = name if len(counts) == 1 else f"{name}_{number}"
        made = _chain(own, groups[start:stop], target) if stop - start > 1 else _single(own, groups[start], target)
        if made is None:
            return None
        recipe += made
    return recipe


def _split(groups: Sequence[_Group], target: Target) -> list[int]:
    """How many parts each kernel computes."""
    counts, run = list[int](), list[chain_plan.Shape]()
    for group in groups:
        shape = _shape(group)
        if shape is None:
            return [1] * len(groups)
        run.append(shape)
        if not _is_uniform(group):
            counts += chain_plan.split(run, target)
            run = []
    return counts + list(chain_plan.split(run, target) if run else ())


def _shape(group: AnchoredGroup) -> chain_plan.Shape | None:
    return pool_shape(group) if facts.key(group.anchor) == "onyxc.Pool" else conv_shape(group)


def _strides(group: AnchoredGroup) -> list[tuple[int, ...]]:
    return [group.spread(v) for v in group.operands() or ()]


def _is_uniform(group: AnchoredGroup) -> bool:
    """Whether the epilogue is the same for all rows, so that it can write to a ring."""
    batch = group.shape[0]
    return group.operands() is not None and not any((n and batch > 1) or h for n, h, _, _ in _strides(group))


def _single(name: str, group: _Group, target: Target) -> Recipe | None:
    templates = (pool,) if facts.key(group.anchor) == "onyxc.Pool" else (strassen_conv, conv)
    made = next((made for t in templates if (made := t(name, group, target)) is not None), None)
    if made is None:
        return None
    return [replace(p, args=tuple(group.target_role if isinstance(a, Output) else a for a in p.args)) for p in made]


def _chain(name: str, groups: Sequence[_Group], target: Target) -> Recipe | None:
    shapes = [shape for g in groups if (shape := _shape(g)) is not None]
    plan = chain_plan.plan(shapes, target)
    operands = [g.operands() or [] for g in groups]
    epilogues = [g.epilogue(o, _strides(g)) for g, o in zip(groups, operands, strict=True)]
    kernel = chain.emit(name, plan, epilogues, target)
    weights = [
        g.packed(g.input(1), pack)
        for g, link in zip(groups, plan.links, strict=True)
        if (pack := _packer(link)) is not None
    ]
    others = [g.role(v) for g, values in zip(groups, operands, strict=True) for v in values]
    read = (groups[0].role(groups[0].input(0)), *weights, *others)
    scratch = Scratch("float32", (plan.scratch,))
    return [Piece(kernel, (*read, groups[-1].target_role, scratch), len(read))]


def _packer(link: chain_plan.Link) -> Callable[[Array], Array] | None:
    plan = link.plan
    if isinstance(plan, PoolPlan):
        return None
    if isinstance(plan, DepthwisePlan):
        return partial(depthwise_plan.pack, plan=plan)
    return partial(convolution_plan.pack, plan=plan)
