"""Networks of one to three spatial axes from [N, C, H, W] to channels-last, [N, H, W, C].

    y = Conv(x, w); z = Relu(y)   ->   y' = onyxc.Conv(x', w); z' = Relu(y'); z = Transpose(z')

One forward walk: every value may have a channels-last twin. Convolutions and poolings make twins, operators
that do not care about the order of axes pass them on, everything else reads the value transposed back, which
costs nothing where nobody does (dead-code removes it). A model's own Transposes to and from channels-last
(TensorFlow exports) become twins and vanish.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from onyxc.compiler.ir import facts
from onyxc.compiler.ir.graph import Graph, Node
from onyxc.compiler.transform import GraphPass
from onyxc.passes.layout import dilated, elements, shapes, volumes, windows
from onyxc.passes.layout.twins import Twins

Rule = Callable[[Node, Twins], bool]


def _either(*rules: Rule) -> Rule:
    """The first rule that applies."""
    return lambda node, twins: any(rule(node, twins) for rule in rules)


_POOL = _either(windows.pool, volumes.pool)
_RULES: dict[str, Rule] = {
    "Conv": _either(dilated.convolution, windows.convolution, volumes.convolution), "ConvInteger": windows.convolution,
    "ConvTranspose": _either(windows.transposed_convolution, volumes.transposed_convolution),
    "MaxPool": _POOL, "AveragePool": _POOL, "GlobalAveragePool": windows.global_pool,
    "GlobalMaxPool": windows.global_pool, "onyxc.QAveragePool": windows.quantized_pool, "LRN": windows.lrn,
    "Concat": elements.along_axis, "Split": elements.along_axis, "Softmax": elements.along_axis,
    "LogSoftmax": elements.along_axis, "onyxc.QSoftmax": elements.along_axis, "ArgMax": elements.along_axis,
    "ArgMin": elements.along_axis,
    "QuantizeLinear": elements.with_parameters, "DequantizeLinear": elements.with_parameters,
    "onyxc.Lookup": elements.with_parameters, "Pad": elements.pad, "Resize": elements.resize,
    "InstanceNormalization": elements.normalization, "GroupNormalization": elements.normalization,
    **dict.fromkeys(facts.REDUCTIONS, elements.reduce),
    "Gather": shapes.gather, "Slice": shapes.slice_, "Transpose": shapes.transpose, "Reshape": shapes.reshape,
    "Squeeze": shapes.reshape, "Unsqueeze": shapes.reshape, "Flatten": shapes.reshape,
    "MatMul": shapes.product, "MatMulInteger": shapes.product,
    "DepthToSpace": shapes.depth_to_space, "SpaceToDepth": shapes.depth_to_space,
}  # fmt: skip


@dataclass(frozen=True)
class ChannelsLast(GraphPass):
    """Convolutions with constant float32 or 8-bit weights, and what surrounds them, to channels-last."""

    name: ClassVar[str] = "channels-last"

    def rewrite(self, graph: Graph) -> Counter[str]:
        """One forward walk; captured values are read as they are."""
        counts: Counter[str] = Counter()
        twins = Twins(graph)
        for node in graph.nodes:
            key = facts.key(node)
            rule = _RULES.get(key) or (elements.elementwise if facts.is_elementwise(node) else None)
            if rule is not None and rule(node, twins):
                counts[key] += 1
        return counts
