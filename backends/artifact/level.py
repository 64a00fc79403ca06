"""One processor level of an artifact: the program as lowered for a target, and its machine code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from onyxc.backends.artifact import memory
from onyxc.backends.artifact.names import identifier
from onyxc.backends.program import Program
from onyxc.backends.target import Target


@dataclass(frozen=True)
class Level:
    """``objects``: ELF files that define the kernels of ``program``; none where the body brings its own code.

    ``notes``: what the build has to say about single kernels, for the manifest.
    """

    target: Target
    program: Program
    objects: Sequence[bytes] = ()
    notes: Sequence[str] = field(default=())

    @property
    def identifier(self) -> str:
        """The target's name as part of a C identifier."""
        return identifier(self.target.name)

    @cached_property
    def plan(self) -> memory.Plan:
        """Where everything lies in the arena."""
        return memory.plan(self.program)
