"""Does a kernel keep its accumulators in registers? Looked for in the machine code, after it is made.

A sum is an inner loop that multiplies and stores nothing, or one that does little else than multiply (where a short
sum was unrolled, the loop around it stores the result). If it moves vectors from or to the stack, it was given more
accumulators than fit, and runs at half of its speed. `backends.replan` has such kernels planned again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onyxc.backends.artifact import elf
from onyxc.backends.cpu import inspect
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target
from onyxc.backends.x86.disassembly import Instruction, UnknownCodeError, instructions


@dataclass(frozen=True)
class Sums:
    """The sums of some kernels: vector moves from or to the stack, products, and all instructions."""

    moves: int = 0
    products: int = 0
    instructions: int = 0

    @property
    def cost(self) -> float:
        """Instructions for each product, moves counted twice: they wait for each other."""
        return (self.instructions + self.moves) / max(self.products, 1)


def add(parts: Iterable[Sums]) -> Sums:
    """All of them together."""
    found = list(parts)
    return Sums(sum(p.moves for p in found), sum(p.products for p in found), sum(p.instructions for p in found))


def measure(kernels: Sequence[Kernel], objects: Sequence[bytes], target: Target) -> dict[str, Sums]:
    """The sums of each kernel of a template, by its name. ``objects`` hold the machine code of ``kernels``."""
    planned = [k for k in kernels if k.planned]
    if target.arch == "x86_64":
        code = {name: data for part in objects for name, data in elf.functions(part).items()}
        return {k.name: in_function(code[k.name]) for k in planned}
    loops = {k.name: inspect.loops(k, target) for k in planned}  # by assembly: slower, but one reader for the others
    return {n: add(Sums(x.spills, x.products, x.instructions) for x in made if x.is_sum) for n, made in loops.items()}


def in_function(code: bytes) -> Sums:
    """The sums of an x86-64 function; none where its code cannot be read."""
    try:
        made = list(instructions(code))
    except UnknownCodeError:
        return Sums()
    return add(
        Sums(sum(i.stack for i in body), sum(i.product for i in body), len(body))
        for body in inner_loops(made)
        if is_sum(body)
    )


def is_sum(loop: Sequence[Instruction]) -> bool:
    """Whether the loop adds products up."""
    products, moves = sum(i.product for i in loop), sum(i.stack for i in loop)
    return products > 0 and (2 * products >= len(loop) - moves or not any(i.stores for i in loop))


def inner_loops(made: Sequence[Instruction]) -> list[Sequence[Instruction]]:
    """The instructions of each loop that holds no other: from the target of a jump back to the jump."""
    number = {instruction.at: i for i, instruction in enumerate(made)}
    inner, last = list[Sequence[Instruction]](), -1
    for stop, jump in enumerate(made):
        start = number.get(jump.target, -1) if 0 <= jump.target <= jump.at else -1
        if start > last:  # it holds none of the loops that end before it
            inner.append(made[start : stop + 1])
            last = stop
    return inner
