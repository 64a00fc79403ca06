"""Kernels whose accumulators did not fit the registers are planned again for a processor with fewer of them.

Every template chooses its tile by `Target.registers`, so an eighth less makes the next smaller tile; nothing else is
asked of a template. The first plan without moves to the stack is taken, or else the one with the fewest, if they are few.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from onyxc.backends.compile import Compiler, Source
from onyxc.backends.cpu import spills
from onyxc.backends.kernels.codegen import compile_objects
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target
from onyxc.compiler import worker

EIGHTHS = (7, 6, 5, 4)  # of the registers, in the order in which they are tried
WORTH = 1 / 2  # of the moves may be left: a smaller tile costs something too


@dataclass(frozen=True)
class _Choice:
    registers: int
    moves: int


def replan(compiler: Compiler, found: Mapping[str, int], jobs: int) -> tuple[list[str], set[str]]:
    """Replace the recipes of the kernels ``found`` (name -> vector moves to and from the stack) by better ones.

    What was done comes back, a line for each recipe (their kernels' notes say it too), and the kernels that are new.
    """
    moves = {key: sum(found.get(piece.kernel.name, 0) for piece in recipe) for key, recipe in compiler.recipes.items()}
    keys = [key for key in compiler.recipes if moves[key]]
    target = compiler.target
    chosen = worker.map_forked(lambda key: _choose(compiler.sources[key], moves[key], target), keys, jobs)
    lines, changed = [], set[str]()
    for key, choice in zip(keys, chosen, strict=True):
        text = _words(choice, moves[key], target)
        if choice.registers < target.registers:
            compiler.recipes[key] = compiler.sources[key].recipe(replace(target, registers=choice.registers))
            changed |= {piece.kernel.name for piece in compiler.recipes[key]}
        for piece in compiler.recipes[key]:
            piece.kernel.note = "; ".join(filter(None, (piece.kernel.note, text)))
        lines.append(f"{compiler.sources[key].name}: {text}")
    return lines, changed


def _choose(source: Source, moves: int, target: Target) -> _Choice:
    best = _Choice(target.registers, moves)
    tried: list[list[Kernel]] = []
    for eighths in EIGHTHS:
        less = replace(target, registers=target.registers * eighths // 8)
        kernels = [piece.kernel for piece in source.recipe(less)]
        if any(_same(kernels, others) for others in tried):
            continue
        tried.append(kernels)
        left = sum(spills.count(kernels, compile_objects(kernels, target), target).values())
        if left < min(best.moves, moves * WORTH):
            best = _Choice(less.registers, left)
        if not left:
            break
    return best


def _same(left: list[Kernel], right: list[Kernel]) -> bool:
    import tvm_ffi

    return len(left) == len(right) and all(
        tvm_ffi.structural_equal(a.func, b.func) for a, b in zip(left, right, strict=True)
    )


def _words(choice: _Choice, moves: int, target: Target) -> str:
    left = f"{choice.moves} vector moves to or from the stack in inner loops" if choice.moves else ""
    if choice.registers == target.registers:
        return left
    fewer = f"planned for {choice.registers} of {target.registers} registers ({moves} moves to or from the stack else)"
    return "; ".join(filter(None, (fewer, left)))
