"""The constants of programs as one block of bytes: 64-byte aligned, in order of first use, equal ones kept once.

The block lies in the library ("embedded") or in a file of the artifact that the library maps ("beside").
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from onyxc.backends.artifact.memory import operands
from onyxc.backends.program import ALIGNMENT, SLACK, Buffer, Call, Copy, If, Loop, Program
from onyxc.compiler.errors import BuildError

FILE = "weights.bin"
EMBED_LIMIT = 1 << 30  # bytes; code reaches embedded data by 32-bit offsets, so larger weights lie beside


@dataclass(frozen=True)
class Weights:
    """Offset of every constant (by its root), the distinct contents in order, and the size of the block."""

    offsets: dict[Buffer, int]
    contents: tuple[tuple[int, Buffer], ...]
    nbytes: int

    def offset(self, buffer: Buffer) -> int:
        """Where ``buffer`` (a constant, or a view of one) starts in the block."""
        root, inside = buffer.root()
        return self.offsets[root] + inside

    def write(self, file: BinaryIO) -> None:
        """Write the block to ``file``."""
        position = 0
        for offset, buffer in self.contents:
            file.write(bytes(offset - position))
            file.write(_data(buffer).reshape(-1).view(np.uint8).data)
            position = offset + buffer.nbytes
        file.write(bytes(self.nbytes - position))


def collect(*programs: Program) -> Weights:
    """Lay out the constants that ``programs`` use, those of the first at the start."""
    offsets: dict[Buffer, int] = {}
    contents: list[tuple[int, Buffer]] = []
    known: dict[tuple[int, bytes], int] = {}
    end = 0
    for root in (root for program in programs for root in _constants(program)):
        data = _data(root)
        if data.nbytes != root.nbytes:
            raise BuildError(f"constant {root.name!r} has {data.nbytes} bytes of data instead of {root.nbytes}")
        key = (root.nbytes, hashlib.sha256(data.reshape(-1).view(np.uint8).data).digest())
        if key not in known:
            known[key] = end
            contents.append((end, root))
            end += -(-(root.nbytes + SLACK) // ALIGNMENT) * ALIGNMENT
        offsets[root] = known[key]
    return Weights(offsets, tuple(contents), end)


def _constants(program: Program) -> list[Buffer]:
    """Constant roots in order of first use."""
    roots = (b.root()[0] for b in _buffers(program))
    return list(dict.fromkeys(r for r in roots if r.kind == "constant"))


def _buffers(program: Program) -> Iterator[Buffer]:
    for step in program.walk():
        if isinstance(step, Call | Copy):
            for group in operands(step):
                yield from group
        elif isinstance(step, If):
            yield step.condition
        elif isinstance(step, Loop):
            yield from (b for b in (step.trip, step.condition) if b is not None)
    yield from program.outputs
    yield from program.counts.values()


def _data(buffer: Buffer) -> np.ndarray[Any, Any]:
    if buffer.data is None:
        raise BuildError(f"constant {buffer.name!r} has no data")
    return np.ascontiguousarray(buffer.data)
