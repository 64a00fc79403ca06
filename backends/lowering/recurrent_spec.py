"""LSTM, GRU and RNN: the static facts of a node, and where its scratch lies.

Scratch rows are padded to whole vectors of hidden units, so that the element-wise part needs no tails:

    pre     [steps of a chunk, batch, gates, H']   x W^T
    again   [batch, gates, H']                     h R^T of this step
    h, c    [batch, H']                            state
    bias    [bias rows, H']                        added once a call;  peephole [3, H']
"""

from __future__ import annotations

from dataclasses import dataclass, field

from onyxc.backends.lowering.gates import Gate, gates
from onyxc.backends.lowering.panels import Panels, panels
from onyxc.compiler.errors import UnsupportedError
from onyxc.compiler.ir.graph import Node

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
WIDEST = 16  # lanes of any target
CHUNK_BYTES = 256 << 10  # of products kept between the two phases


@dataclass(frozen=True)
class Spec:
    """The static facts of one node."""

    kind: str
    steps: int
    batch: int
    inputs: int
    hidden: int
    directions: int
    batch_first: bool
    reverse: tuple[bool, ...]  # of each direction
    functions: list[list[Gate]]
    clip: float
    linear_before_reset: bool
    coupled: bool  # forget gate = 1 - input gate
    dtype: str  # of the computation

    @property
    def gates(self) -> int:
        """Rows of weights, in units of ``hidden``."""
        return GATES[self.kind]

    @property
    def bias_rows(self) -> int:
        """Sums of input and recurrent biases that stay apart."""
        return self.gates + self.linear_before_reset


def spec(node: Node) -> Spec:
    """The facts of ``node``."""
    x, w = node.operand(0), node.operand(1)
    first = bool(node.attrs.get("layout", 0))
    steps, batch = (x.dims[1], x.dims[0]) if first else (x.dims[0], x.dims[1])
    direction = node.attrs.get("direction", "forward")
    direction = direction.decode() if isinstance(direction, bytes) else str(direction)
    if direction not in ("forward", "reverse", "bidirectional"):
        raise UnsupportedError(f"{node.label()}: unknown direction {direction!r}")
    reverse = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]
    clip = node.attrs.get("clip")
    return Spec(
        node.op,
        steps,
        batch,
        x.dims[2],
        w.dims[1] // GATES[node.op],
        len(reverse),
        first,
        reverse,
        gates(node, len(reverse)),
        float(clip) if isinstance(clip, int | float) else 0.0,
        node.op == "GRU" and bool(node.attrs.get("linear_before_reset", 0)),
        node.op == "LSTM" and bool(node.attrs.get("input_forget", 0)),
        "float64" if x.dtype == "float64" else "float32",
    )


def weights(spec: Spec, lanes: int, registers: int) -> tuple[Panels, Panels]:
    """The panels of constant input and recurrent weights, of all directions."""
    groups = spec.directions * spec.gates
    rows = spec.batch * min(spec.steps, 4)  # at once, at least
    return (
        panels(groups, spec.hidden, spec.inputs, rows, lanes, registers),
        panels(groups, spec.hidden, spec.hidden, spec.batch, lanes, registers),
    )


@dataclass
class Layout:
    """Vector width and the scratch of one direction."""

    spec: Spec
    lanes: int
    registers: int
    chunk: int = field(init=False)  # steps a chunk
    padded: int = field(init=False)  # H'

    def __post_init__(self) -> None:
        spec = self.spec
        self.padded = -(-spec.hidden // self.lanes) * self.lanes
        widest = -(-spec.hidden // WIDEST) * WIDEST  # the same chunk on every target
        step = spec.batch * spec.gates * widest * (8 if spec.dtype == "float64" else 4)
        self.chunk = max(1, min(spec.steps, CHUNK_BYTES // max(1, step)))

    def sizes(self) -> dict[str, int]:
        """Elements of each scratch buffer, for one direction."""
        s, p = self.spec, self.padded
        return {
            "pre": max(1, self.chunk * s.batch * s.gates * p),
            "again": max(1, s.batch * s.gates * p),
            "h": max(1, s.batch * p),
            "c": max(1, s.batch * p),
            "bias": s.bias_rows * p,
            "peephole": 3 * p,
        }
