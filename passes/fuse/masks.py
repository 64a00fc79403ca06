"""Scores that a constant chooses to hide are hidden by addition, as attention's kernel reads masks.

    Softmax(Where(c, s, low))   ->   Softmax(s + (0 where c, else low))      low = -inf, or as good as that

Hidden scores become exactly ``low`` either way, or round to it: the softmax of them is 0. Refused: numbers that scores
could come near to.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from onyxc.compiler.ir.graph import Node, Value
from onyxc.compiler.rewrite import Builder, Refuse, Rule, RulePass, rule
from onyxc.passes.fuse.forms import number

LOW = -1e30


@rule("Where")
def additive_mask(op: Builder, node: Node) -> Value | None:
    """Where(c, s, low) or Where(c, low, s) in front of a softmax."""
    chosen, user = node.const(0), node.output.only_user
    if chosen is None or user is None or not user.is_op("Softmax") or node.output.dtype != "float32":
        return None
    for scores, other, kept in ((node.inputs[1], node.inputs[2], chosen), (node.inputs[2], node.inputs[1], ~chosen)):
        low = number(other)
        if scores is None or low is None or scores.const is not None:
            continue
        if low > LOW:
            raise Refuse("the number is not low enough")
        if scores.tensor.shape != node.output.tensor.shape:
            return None
        mask = np.where(kept, np.float32(0), np.float32(low))
        return op.Add(scores, op.constant(mask, "mask"))
    return None


class AdditiveMasks(RulePass):
    """Masks by addition in front of a softmax."""

    name: ClassVar[str] = "additive-masks"
    rules: ClassVar[tuple[Rule, ...]] = (additive_mask,)
