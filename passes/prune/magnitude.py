"""Unstructured pruning: the weights of least magnitude become zero.

    w[i] = 0  for the round(sparsity * n) smallest |w[i]|

of each tensor (``scope`` = layer) or of all tensors together (global); ties go in memory order, so the count is exact.
Han et al., Learning both Weights and Connections (2015). Refused: NaN, and clustered weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from onyxc.compiler.ir.graph import Graph
from onyxc.compiler.transform import Pass, PassResult
from onyxc.passes import weights
from onyxc.passes.prune.masks import check_sparsity, magnitudes, masks, prune


@dataclass(frozen=True)
class MagnitudePruning(Pass):
    """Zeroes the share ``sparsity`` of the weights."""

    sparsity: float = 0.5
    scope: Literal["layer", "global"] = "layer"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    operators: tuple[str, ...] = weights.DEFAULT

    name: ClassVar[str] = "magnitude-pruning"

    def run(self, graph: Graph) -> PassResult:
        """Prune in place; counts name each weight."""
        check_sparsity(self.sparsity)
        found = weights.find(graph, self.operators, self.include, self.exclude)
        return prune(found, masks([magnitudes(w) for w in found], self.sparsity, self.scope))
