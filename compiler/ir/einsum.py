"""The equation of an Einsum, as labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onyxc.compiler.errors import UnsupportedError
from onyxc.compiler.ir.graph import Node


@dataclass(frozen=True)
class Equation:
    """The subscripts of the operands and of the result; axes of an ellipsis are called "0", "1", ... from the right."""

    operands: tuple[tuple[str, ...], ...]
    result: tuple[str, ...]


def parse(node: Node, ranks: Sequence[int]) -> Equation:
    """The ``equation`` of an Einsum over operands of ``ranks``."""
    left, arrow, right = str(node.attrs["equation"]).replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise UnsupportedError(f"{node.label()}: {len(terms)} terms for {len(ranks)} operands")

    def labels(term: str, rank: int) -> tuple[str, ...]:
        before, dots, after = term.partition("...")
        free = [str(i) for i in reversed(range(rank - len(before) - len(after)))] if dots else []
        found = (*before, *free, *after)
        if len(found) != rank:
            raise UnsupportedError(f"{node.label()}: {term!r} does not fit an operand of rank {rank}")
        return found

    operands = tuple(labels(t, r) for t, r in zip(terms, ranks, strict=True))
    every = [label for operand in operands for label in operand]
    widest = sorted({label for label in every if label.isdigit()}, reverse=True)
    if arrow:
        before, dots, after = right.partition("...")
        return Equation(operands, (*before, *(widest if dots else ()), *after))
    once = sorted({label for label in every if every.count(label) == 1 and not label.isdigit()})
    return Equation(operands, (*widest, *once))
