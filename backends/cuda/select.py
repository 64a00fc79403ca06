"""The kernels of a fused group on CUDA: the generic group, whose contractions `matmul` tiles."""

from __future__ import annotations

from onyxc.backends import groups
from onyxc.backends.cuda import generic
from onyxc.backends.recipe import Recipe
from onyxc.backends.target import Target
from onyxc.compiler.ir.graph import Graph


def recipe(name: str, body: Graph, constant: tuple[bool, ...], target: Target) -> Recipe:
    """The kernels of ``body``; constant inputs are read as they are."""
    del constant
    return groups.recipe(name, body, target, generic.build_all)
