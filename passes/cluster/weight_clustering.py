"""Weight clustering: the elements of a weight take at most 2^bits values.

    w[i] -> c[argmin_k |w[i] - c[k]|],  c by k-means (see kmeans.py)

One codebook serves the tensor, each output channel, or each ``group_size`` output channels in a row. Weights that
pruning zeroed stay zero (so do exact zeros that are more than one value's fair share), and zero is then one of the
values. The fact ``palette`` is the codebook: [K] for a tensor, else of the weight's rank plus one, [..., outputs, ...,
K], a codebook for each output channel. Han et al., Deep Compression (2016). Refused: NaN.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from onyxc.compiler.errors import PassError
from onyxc.compiler.ir.graph import Array, Graph
from onyxc.compiler.transform import Pass, PassResult
from onyxc.passes import weights
from onyxc.passes.cluster.kmeans import codebook, nearest


@dataclass(frozen=True)
class WeightClustering(Pass):
    """Replaces weights by the nearest of 2^``bits`` values."""

    bits: int = 4
    granularity: Literal["tensor", "channel", "group"] = "tensor"
    group_size: int = 32
    seed: int = 0
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    operators: tuple[str, ...] = weights.DEFAULT

    name: ClassVar[str] = "weight-clustering"

    def run(self, graph: Graph) -> PassResult:
        """Cluster in place; counts name each weight."""
        if not 1 <= self.bits <= 8 or self.group_size < 1:
            raise PassError(f"bits={self.bits} group-size={self.group_size}: 1 to 8 bits, a positive size are wanted")
        counts: dict[str, int] = {}
        for weight in weights.find(graph, self.operators, self.include, self.exclude):
            matrix = weight.matrix(weight.array)
            step = {"tensor": len(matrix), "channel": 1, "group": self.group_size}[self.granularity]
            rng = np.random.default_rng((self.seed, zlib.crc32(weight.value.name.encode())))
            pruned = "sparsity" in weight.value.facts or self._many_zeros(matrix)
            made = [self._cluster(matrix[at : at + step], pruned, rng) for at in range(0, len(matrix), step)]
            changed = weights.put(weight, weight.restore(np.concatenate([array for array, _ in made])))
            weight.value.facts["palette"] = self._palette(weight, [codes for _, codes in made], step)
            values = len(np.unique(weight.array))
            counts[f"{weight.label}: {values} values in {weight.array.size}"] = changed
        return PassResult(counts)

    def _many_zeros(self, matrix: Array) -> bool:
        return bool((matrix.size - np.count_nonzero(matrix)) << self.bits > matrix.size)

    def _cluster(self, block: Array, zeros: bool, rng: np.random.Generator) -> tuple[Array, Array]:
        """The block's new values, and its codebook in the weight's type."""
        kept = block != 0 if zeros else np.ones(block.shape, bool)
        values = block[kept].astype(np.float64)
        size = (1 << self.bits) - int(zeros)
        centres = np.unique(codebook(values, size, rng).astype(block.dtype))
        made = np.zeros_like(block)
        made[kept] = centres[nearest(values, centres.astype(np.float64))] if values.size else 0
        full: Any = np.append(centres, block.dtype.type(0)) if zeros else centres
        return made, np.unique(full)

    def _palette(self, weight: weights.Weight, codes: list[Array], step: int) -> Array:
        if self.granularity == "tensor":
            return codes[0]
        size = max(map(len, codes))
        rows = np.stack([np.pad(c, (0, size - len(c)), mode="edge") for c in codes])
        shape = [1] * weight.array.ndim + [size]
        shape[weight.outputs] = weight.array.shape[weight.outputs]
        return np.repeat(rows, step, axis=0)[: shape[weight.outputs]].reshape(shape)
