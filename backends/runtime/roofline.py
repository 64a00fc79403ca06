"""The roofline: how fast a step could be at best on a machine whose limits were measured.

A step is bound by arithmetic or by memory. Its operands come from the smallest level of the memory hierarchy that holds
all of them; the weights, which a run reads once, from the smallest that holds all weights. No names of caches are
needed for that: the bandwidth was measured for blocks of many sizes, and a set of operands counts as the next larger
block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onyxc.backends.artifact.steps import Step

BYTES = ("int8", "uint8")


def size_text(size: int) -> str:
    """A block's size, of some KiB at least, in words."""
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


@dataclass(frozen=True)
class Machine:
    """Measured limits for ``threads`` threads. ``peak``: operations a second in registers, by dtype, as far as it is
    known; ``bandwidth``: size of a block in bytes -> bytes a second at which it is read, again and again."""

    threads: int
    peak: Mapping[str, float]
    bandwidth: Mapping[int, float]

    def rate(self, block: int) -> float:
        """Bytes a second that come from a block of so many bytes."""
        fitting = [size for size in self.bandwidth if size >= block]
        return self.bandwidth[min(fitting, default=max(self.bandwidth))]

    def peak_of(self, step: Step) -> float:
        """Operations a second in the arithmetic of ``step``; infinite where that was not measured."""
        return self.peak.get("int8" if step.dtype in BYTES else "float32") or float("inf")

    def seconds(self, step: Step, weights: int) -> float:
        """The least time of one call of ``step`` in a model that reads ``weights`` bytes of constants in a run."""
        operands = step.read_bytes + step.written_bytes
        memory = operands / self.rate(step.bytes) + step.constant_bytes / self.rate(max(weights, step.bytes))
        return max(memory, step.flops / self.peak_of(step))

    def bound(self, step: Step, weights: int) -> str:
        """What bounds ``step``: "compute" or "memory"."""
        return "compute" if self.seconds(step, weights) == step.flops / self.peak_of(step) else "memory"
