"""N:M pruning: of every m weights in a row along the inputs, the n largest stay.

    w[o, g*m : (g+1)*m, tap]  keeps its n largest magnitudes

for each output and each tap of a kernel; a last group of fewer than m keeps at most n. 2:4 is what sparse tensor cores
read (Mishra et al., Accelerating Sparse Deep Neural Networks, 2021). Refused: NaN, and clustered weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onyxc.compiler.errors import PassError
from onyxc.compiler.ir.graph import Array, Graph
from onyxc.compiler.transform import Pass, PassResult
from onyxc.passes import weights
from onyxc.passes.prune.masks import magnitudes, prune


@dataclass(frozen=True)
class NMPruning(Pass):
    """Keeps ``n`` of every ``m`` weights along the input channels."""

    n: int = 2
    m: int = 4
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    operators: tuple[str, ...] = weights.DEFAULT

    name: ClassVar[str] = "nm-pruning"

    def run(self, graph: Graph) -> PassResult:
        """Prune in place; counts name each weight."""
        if not 0 < self.n <= self.m:
            raise PassError(f"n={self.n} m={self.m}: 0 < n <= m is wanted")
        found = weights.find(graph, self.operators, self.include, self.exclude)
        return prune(found, [w.restore(self._mask(w.matrix(magnitudes(w)))) for w in found])

    def _mask(self, scores: Array) -> Array:
        """The mask of [outputs, inputs, taps]."""
        outputs, inputs, taps = scores.shape
        padded = np.pad(scores, ((0, 0), (0, -inputs % self.m), (0, 0)), constant_values=-1)
        groups = padded.reshape(outputs, -1, self.m, taps)
        order = np.argsort(np.argsort(-groups, axis=2, kind="stable"), axis=2, kind="stable")  # rank in its group
        return (order < self.n).reshape(padded.shape)[:, :inputs]
