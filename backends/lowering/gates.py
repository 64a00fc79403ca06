"""Activations of the recurrent operators, with the parameters that a node gives them; on scalars or vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from onyxc.backends.lowering.scalar import at_least, at_most, like, select
from onyxc.compiler.errors import UnsupportedError
from onyxc.compiler.ir.graph import Node

Expr = Any
DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


@dataclass(frozen=True)
class Gate:
    """A function with its parameters."""

    name: str
    alpha: float
    beta: float

    def __call__(self, x: Expr) -> Expr:
        """The function of ``x``."""
        return FUNCTIONS[self.name](x, like(x, self.alpha), like(x, self.beta))


def _softplus(x: Expr) -> Expr:
    """log(1 + exp(x)) as max(x, 0) + log(1 + exp(-|x|)), which cannot overflow."""
    return at_least(x, like(x, 0)) + tirx.log1p(tirx.exp(at_most(x, like(x, 0) - x)))


FUNCTIONS: dict[str, Callable[[Expr, Expr, Expr], Expr]] = {
    "sigmoid": lambda x, a, b: tirx.sigmoid(x),
    "tanh": lambda x, a, b: tirx.tanh(x),
    "relu": lambda x, a, b: at_least(x, like(x, 0)),
    "affine": lambda x, a, b: x * a + b,
    "leakyrelu": lambda x, a, b: select(x < like(x, 0), x * a, x),
    "thresholdedrelu": lambda x, a, b: select(x >= a, x, like(x, 0)),
    "scaledtanh": lambda x, a, b: a * tirx.tanh(x * b),
    "hardsigmoid": lambda x, a, b: at_most(at_least(x * a + b, like(x, 0)), like(x, 1)),
    "elu": lambda x, a, b: select(x < like(x, 0), a * (tirx.exp(x) - like(x, 1)), x),
    "softsign": lambda x, a, b: x / (like(x, 1) + at_least(x, like(x, 0) - x)),
    "softplus": lambda x, a, b: _softplus(x),
}
# alpha and beta that hold where the model gives none, for the functions that take one
_ALPHA = {"leakyrelu": 0.01, "thresholdedrelu": 1.0, "hardsigmoid": 0.2, "elu": 1.0, "affine": 1.0, "scaledtanh": 1.0}
_BETA = {"hardsigmoid": 0.5, "affine": 0.0, "scaledtanh": 1.0}


def gates(node: Node, directions: int) -> list[list[Gate]]:
    """The functions of each direction.

    ``activation_alpha`` and ``activation_beta`` list values only for functions that take one, in order.
    """
    names = _names(node) or list(DEFAULTS[node.op]) * directions
    each = len(DEFAULTS[node.op])
    if len(names) < each * directions:  # the schema's default for RNN lists two for any direction
        raise UnsupportedError(f"{node.label()}: {len(names)} activations for {directions} directions")
    alphas, betas = _floats(node, "activation_alpha"), _floats(node, "activation_beta")
    made = []
    for name in names[: each * directions]:
        key = name.lower()
        if key not in FUNCTIONS:
            raise UnsupportedError(f"{node.label()}: unknown activation {name!r}")
        alpha = next(alphas, _ALPHA[key]) if key in _ALPHA else 0.0
        beta = next(betas, _BETA[key]) if key in _BETA else 0.0
        made.append(Gate(key, alpha, beta))
    return [made[d * each : (d + 1) * each] for d in range(directions)]


def _names(node: Node) -> list[str]:
    names = node.attrs.get("activations")
    return [n.decode() if isinstance(n, bytes) else str(n) for n in names] if isinstance(names, tuple) else []


def _floats(node: Node, key: str) -> Iterator[float]:
    values = node.attrs.get(key)
    return iter(values if isinstance(values, tuple) else ())
