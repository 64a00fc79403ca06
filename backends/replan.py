"""Kernels whose accumulators did not fit the registers are planned again for a processor with fewer of them.

Every template chooses its tile by `Target.registers`, so an eighth less makes the next smaller tile; nothing else is
asked of a template. A smaller tile needs more instructions for each product: it is taken only if the moves to and from
the stack that it saves were more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from onyxc.backends.compile import Compiler, Source
from onyxc.backends.cpu import spills
from onyxc.backends.cpu.spills import Sums
from onyxc.backends.kernels.codegen import compile_objects
from onyxc.backends.program import Kernel
from onyxc.backends.recipe import Recipe
from onyxc.backends.target import Target
from onyxc.compiler import worker

EIGHTHS = (7, 6)  # of the registers, in the order in which they are tried


def replan(compiler: Compiler, found: Mapping[str, Sums], jobs: int) -> tuple[list[str], set[str]]:
    """Replace the recipes of the kernels ``found`` (their sums by name) by better ones.

    What was done comes back, a line for each recipe (their kernels' notes say it too), and the kernels that are new.
    """
    sums = {
        key: spills.add(found[piece.kernel.name] for piece in recipe if piece.kernel.name in found)
        for key, recipe in compiler.recipes.items()
    }
    keys, target = [key for key in compiler.recipes if sums[key].moves], compiler.target

    def choose(key: str) -> tuple[int, Sums]:
        return _choose(compiler.sources[key], compiler.recipes[key], sums[key], target)

    lines, changed = [], set[str]()
    for key, (registers, left) in zip(keys, worker.map_forked(choose, keys, jobs), strict=True):
        if registers < target.registers:
            compiler.recipes[key] = compiler.sources[key].recipe(replace(target, registers=registers))
            changed |= {piece.kernel.name for piece in compiler.recipes[key]}
        text = _words(registers, sums[key], left, target)
        for piece in compiler.recipes[key]:
            piece.kernel.note = "; ".join(filter(None, (piece.kernel.note, text)))
        lines.append(f"{compiler.sources[key].name}: {text}")
    return lines, changed


def _choose(source: Source, recipe: Recipe, sums: Sums, target: Target) -> tuple[int, Sums]:
    """The best number of registers, and the sums of the kernels that are planned for it."""
    registers, best = target.registers, sums
    tried = [[piece.kernel for piece in recipe]]
    for eighths in EIGHTHS:
        less = replace(target, registers=target.registers * eighths // 8)
        kernels = [piece.kernel for piece in source.recipe(less)]
        if any(_same(kernels, others) for others in tried):
            continue
        tried.append(kernels)
        found = spills.add(spills.measure(kernels, compile_objects(kernels, target), target).values())
        if found.moves < best.moves and found.cost < best.cost:
            registers, best = less.registers, found
        if not found.moves:
            break
    return registers, best


def _same(left: list[Kernel], right: list[Kernel]) -> bool:
    import tvm_ffi

    return len(left) == len(right) and all(
        tvm_ffi.structural_equal(a.func, b.func) for a, b in zip(left, right, strict=True)
    )


def _words(registers: int, before: Sums, after: Sums, target: Target) -> str:
    moves = f"{after.moves} moves to or from the stack in sums" if after.moves else ""
    if registers == target.registers:
        return moves
    fewer = f"planned for {registers} of {target.registers} registers ({before.moves} moves to or from the stack else)"
    return "; ".join(filter(None, (fewer, moves)))
