"""A recipe: the kernels of one fused group, independent of which values and weights they will run on.

Groups that differ in weights and names only share a recipe, hence their machine code. A recipe's kernels name
their arguments by role; `backends.compile` puts buffers in their places for each group that uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onyxc.backends.program import Kernel
from onyxc.compiler.ir.graph import Array


@dataclass(frozen=True)
class Input:
    """The group's input ``index``."""

    index: int


@dataclass(frozen=True)
class Output:
    """The group's output ``index``."""

    index: int


@dataclass(eq=False)
class Temporary:
    """Arena memory between kernels of the recipe (each object is one buffer)."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Scratch:
    """Memory of the calling thread's own during one call of a kernel (one at most); not zeroed."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(eq=False)
class Constant:
    """An array of the recipe's own."""

    array: Array


@dataclass(eq=False)
class Packed:
    """The constant at input ``index`` in the form that ``pack`` makes of it at compile time."""

    index: int
    pack: Callable[[Array], Array]


@dataclass(eq=False)
class Count:
    """The int64 buffer with the real shape of output ``index``, whose size depends on data."""

    index: int
    rank: int


Argument = Input | Output | Temporary | Scratch | Constant | Packed | Count


@dataclass(eq=False)
class Piece:
    """One kernel; the first ``reads`` arguments are read, the others written; ``in_place`` as in `program.Call`."""

    kernel: Kernel
    args: tuple[Argument, ...]
    reads: int
    in_place: tuple[int, ...] = ()


Recipe = list[Piece]
