"""Does a kernel keep its accumulators in registers? Looked for in the machine code, after it is made.

A sum is an inner loop that multiplies and stores nothing, or one that does little else than multiply (where a short
sum was unrolled, the loop around it stores the result). If it moves vectors from or to the stack, it was given more
accumulators than fit, and runs at half of its speed. `backends.replan` has such kernels planned again.
"""

from __future__ import annotations

from collections.abc import Sequence

from onyxc.backends.artifact import elf
from onyxc.backends.cpu import inspect
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target
from onyxc.backends.x86.disassembly import Instruction, UnknownCodeError, instructions


def count(kernels: Sequence[Kernel], objects: Sequence[bytes], target: Target) -> dict[str, int]:
    """Vector moves from or to the stack in the sums of each kernel of a template, by its name.

    Kernels without any are left out. ``objects`` hold the machine code of ``kernels``.
    """
    planned = [k for k in kernels if k.planned]
    if target.arch == "x86_64":
        code = {name: data for part in objects for name, data in elf.functions(part).items()}
        found = {k.name: in_function(code[k.name]) for k in planned}
    else:  # assembly text is slower, but the same for all other processors
        found = {k.name: inspect.spills(k, target) for k in planned}
    return {name: moves for name, moves in found.items() if moves}


def in_function(code: bytes) -> int:
    """Stack moves in the sums of an x86-64 function; 0 where its code cannot be read."""
    try:
        made = list(instructions(code))
    except UnknownCodeError:
        return 0
    return sum(sum(i.stack for i in body) for body in inner_loops(made) if is_sum(body))


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
