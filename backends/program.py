"""The compiled form between graph and artifact: buffers, kernels and an ordered tree of steps.

A program is what `backends.compile` makes of a graph and what `backends.artifact` writes as C source:

    Buffer   a run-time tensor: a model input or output, a constant, or a place in the arena
    Kernel   native code: for a CPU a plain C symbol, for CUDA a launch
    Step     Call | Copy | If | Loop, run in order by the entry function
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import numpy as np

from onyxc.backends.interface import Group
from onyxc.compiler.ir.types import itemsize

ALIGNMENT = 64  # bytes: every buffer starts on a cache line, as vector moves of the kernels expect
SLACK = 64  # bytes behind every buffer: masked tails may read (never write) this far


@dataclass(eq=False)
class Buffer:
    """A run-time tensor: row-major, static shape, ``dtype`` as numpy spells it (bool is one byte).

    ``base`` and ``offset`` (bytes) make it a view of another buffer (Reshape, or a part of a Concat); ``strides``: then
    so many elements lie between neighbours along each axis (None: it is dense).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    kind: Literal["input", "output", "constant", "arena", "scratch"] = "arena"  # scratch: of each thread, for one call
    data: np.ndarray[Any, Any] | None = None  # the constant's value
    base: Buffer | None = None
    offset: int = 0
    strides: tuple[int, ...] | None = None

    @property
    def itemsize(self) -> int:
        """Bytes of an element; sub-byte types are kept one element a byte at run time."""
        return itemsize(self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, without slack."""
        return prod(self.shape) * self.itemsize

    def root(self) -> tuple[Buffer, int]:
        """The buffer that owns the memory, and the byte offset inside it."""
        if self.base is None:
            return self, 0
        root, offset = self.base.root()
        return root, offset + self.offset


@dataclass(eq=False)
class Kernel:
    """Native code of one fused group.

    CPU: ``func`` is a tirx.PrimFunc whose parameters are plain pointers, then int32 ``begin`` and ``end``:
    ``void name(T *arg0, ..., int32_t begin, int32_t end)``; it does tasks begin..end of ``tasks``.
    CUDA: ``source`` holds ``extern "C" __global__ void name(T *arg0, ...)``, launched on ``grid`` x ``block``;
    ``func`` is None. Arguments are in the order of `Call.args` in both cases.
    """

    name: str
    tasks: int = 1
    func: Any = None
    source: str = ""
    grid: tuple[int, int, int] = (1, 1, 1)
    block: tuple[int, int, int] = (1, 1, 1)
    shared_bytes: int = 0
    work: int = 0  # floating-point or integer operations, about; small kernels stay serial
    note: str = ""  # the template and its plan, in words
    planned: bool = False  # by a template, from the number of the target's registers


@dataclass(frozen=True)
class Origin:
    """What a call computes of the model. ``nodes``: operator and name of each; ``shape``: of operands and result, in
    words; ``flops``: operations of these nodes, as the operators define them (a multiply-add is two); ``reads``: bytes
    that are read of each operand."""

    nodes: tuple[str, ...]
    shape: str
    flops: int
    reads: tuple[int, ...]


@dataclass(eq=False)
class Call:
    """Run ``kernel`` on ``args``; the first ``reads`` of them are inputs, the rest are written.

    ``in_place``: arguments whose memory may also be the result's: the kernel reads an element of theirs only where,
    and before, it writes that element of the result.
    """

    kernel: Kernel
    args: tuple[Buffer, ...]
    reads: int
    in_place: tuple[int, ...] = ()
    origin: Origin | None = None


@dataclass(eq=False)
class Copy:
    """Copy all bytes of ``source`` into ``target`` (same size)."""

    source: Buffer
    target: Buffer


@dataclass(eq=False)
class If:
    """Run ``then`` or ``otherwise`` by the bool scalar ``condition``."""

    condition: Buffer
    then: list[Step]
    otherwise: list[Step]


@dataclass(eq=False)
class Loop:
    """``for (iteration = 0; iteration < trip && condition; iteration++) body``.

    ``trip``: int64 scalar or None (no limit); ``condition``: bool scalar or None (always), read before
    each turn; ``iteration``: int64 scalar that the loop itself writes before each turn.
    ``count``: int64 scalar, the number of turns done, written at the end.
    """

    trip: Buffer | None
    condition: Buffer | None
    iteration: Buffer
    body: list[Step]
    count: Buffer | None = None


Step = Call | Copy | If | Loop


@dataclass(eq=False)
class Program:
    """Everything that an artifact is made of, before memory is planned.

    ``counts``: for an output whose first dimensions depend on data, its name -> the int64 buffer
    (rank elements) that holds the real shape at run time; ``shape`` of that output is then the bound.
    """

    name: str
    inputs: list[Buffer]
    outputs: list[Buffer]
    steps: list[Step]
    counts: dict[str, Buffer] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)  # facts for the manifest: passes, digest, versions
    gives: list[Group] = field(default_factory=list)  # what the outputs are to the caller, if not single tensors

    def walk(self) -> Iterator[Step]:
        """All steps, depth first, in order."""
        stack = list(reversed(self.steps))
        while stack:
            step = stack.pop()
            yield step
            if isinstance(step, If):
                stack += [*reversed(step.otherwise), *reversed(step.then)]
            elif isinstance(step, Loop):
                stack += reversed(step.body)

    def kernels(self) -> list[Kernel]:
        """The distinct kernels, in order of first use."""
        return list({id(s.kernel): s.kernel for s in self.walk() if isinstance(s, Call)}.values())
