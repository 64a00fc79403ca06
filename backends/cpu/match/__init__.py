"""Which template computes a group on a CPU: the group's anchor decides, what follows becomes the epilogue.

For each anchor the table lists its templates, best first; one that does not suit a group answers None.
"""

from __future__ import annotations

from collections.abc import Callable

from onyxc.backends import places
from onyxc.backends.cpu.match.attention import fused_attention
from onyxc.backends.cpu.match.bf16 import narrow_product
from onyxc.backends.cpu.match.chain import convolutions
from onyxc.backends.cpu.match.convolution import constant_product, conv
from onyxc.backends.cpu.match.group import AnchoredGroup, is_expression
from onyxc.backends.cpu.match.lrn import lrn
from onyxc.backends.cpu.match.pooling import global_pool, pool
from onyxc.backends.cpu.match.product import batched_product
from onyxc.backends.cpu.match.strassen import strassen_conv, strassen_product
from onyxc.backends.cpu.match.strips import behind_arithmetic
from onyxc.backends.cpu.match.varying import varying_conv
from onyxc.backends.recipe import Recipe
from onyxc.backends.target import Target
from onyxc.compiler.ir import facts
from onyxc.compiler.ir.graph import Graph

Template = Callable[[str, AnchoredGroup, Target], Recipe | None]

TEMPLATES: dict[str, tuple[Template, ...]] = {
    "onyxc.Conv": (strassen_conv, conv, varying_conv),
    "MatMul": (narrow_product, strassen_product, constant_product, batched_product),
    "MatMulInteger": (constant_product, batched_product),
    "onyxc.Pool": (pool,),
    "onyxc.LRN": (lrn,),
    "ReduceMean": (global_pool,),
    "ReduceMax": (global_pool,),
}

# their kernels go by the strides that operands and result have in memory
STRIDED = (conv, pool, lrn, strassen_conv, varying_conv)


def recipe(name: str, body: Graph, constant: tuple[bool, ...], target: Target) -> Recipe | None:
    """The recipe by the first template that suits, or None: the generic group takes over then.

    ``constant``: for each input of ``body``, whether its value is known at compile time.
    """
    nodes = body.nodes
    if any(n.is_op("Softmax") for n in nodes) and (attention := fused_attention(name, body, constant, target)):
        return attention
    for several in (convolutions, behind_arithmetic):
        if (made := several(name, body, constant, target)) is not None:
            return made
    first = next((i for i, n in enumerate(nodes) if not n.is_op("Transpose")), 0)
    before, (anchor, *rest) = nodes[:first], nodes[first:]
    after = rest.pop() if rest and rest[-1].is_op("Transpose") else None
    templates = TEMPLATES.get(facts.key(anchor), ())
    if not templates or not all(is_expression(n) for n in rest) or len(body.outputs) != 1:
        return None
    if (before or after) and batched_product not in templates:
        return None
    if any(places.strided(body)):
        templates = tuple(t for t in templates if t in STRIDED)
    group = AnchoredGroup(body, anchor, rest, constant, before, after)
    return next((made for t in templates if (made := t(name, group, target)) is not None), None)
