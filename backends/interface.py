"""What the callers of a model give and get, where that is more than tensors. Needs the standard library alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Group:
    """What a caller gives or gets by one name: a tensor, a sequence of tensors (name.0, name.1 ...), or nothing."""

    name: str
    kind: Literal["tensor", "sequence", "nothing"]
    length: int = 1  # tensors

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of its tensors."""
        if self.kind == "sequence":
            return tuple(f"{self.name}.{index}" for index in range(self.length))
        return (self.name,) if self.kind == "tensor" else ()
