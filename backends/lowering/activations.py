"""Functions of one number: elementary mathematics and activations. 16-bit floats are computed in float32.

Those of TVM's operators that they use are the ones that `backends.kernels.mathematics` has vector code for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from math import pi, sqrt
from typing import Any

from tvm import tirx

from onyxc.backends.kernels.mathematics import normal_exp2
from onyxc.backends.lowering.registry import elementwise
from onyxc.backends.lowering.scalar import at_least, at_most, attr, cast, element, is_floating, like, select, widened
from onyxc.compiler.ir.graph import Node

Expr = Any


def cosh(x: Expr) -> Expr:
    """Half the sum of e^x and e^-x."""
    grown = tirx.exp(tirx.abs(x))
    return (grown + like(x, 1) / grown) * like(x, 0.5)


def sinh(x: Expr) -> Expr:
    """Half the difference of e^x and e^-x; near 0 its series, since the difference cancels."""
    grown = tirx.exp(x)
    square, series = x * x, like(x, 1)
    for n in range(20 if element(x) == "float64" else 10, 1, -2):
        series = series * square * like(x, 1 / (n * (n + 1))) + like(x, 1)
    far = (grown - like(x, 1) / grown) * like(x, 0.5)
    return select(tirx.abs(x) < like(x, 1), series * x, far)


ELEMENTARY: dict[str, Callable[[Expr], Expr]] = {
    "Acos": tirx.acos,
    "Acosh": tirx.acosh,
    "Asin": tirx.asin,
    "Asinh": tirx.asinh,
    "Atan": tirx.atan,
    "Atanh": tirx.atanh,
    "Ceil": tirx.ceil,
    "Cos": tirx.cos,
    "Cosh": cosh,
    "Erf": tirx.erf,
    "Exp": tirx.exp,
    "Floor": tirx.floor,
    "Log": tirx.log,
    "Round": tirx.round,  # half to even
    "Sigmoid": tirx.sigmoid,
    "Sin": tirx.sin,
    "Sinh": sinh,
    "Sqrt": tirx.sqrt,
    "Tan": tirx.tan,
    "Tanh": tirx.tanh,
}


def _register(op: str, function: Callable[[Expr], Expr]) -> None:
    elementwise(op)(widened(lambda node, x: function(x)))


for _op, _function in ELEMENTARY.items():
    _register(_op, _function)


@elementwise("Relu")
@widened
def relu(node: Node, x: Expr) -> Expr:
    """max(0, x)."""
    return at_least(x, like(x, 0))


@elementwise("LeakyRelu")
@widened
def leaky_relu(node: Node, x: Expr) -> Expr:
    """X, or alpha*x below 0."""
    return select(x < like(x, 0), x * like(x, attr(node, "alpha")), x)


@elementwise("PRelu")
@widened
def prelu(node: Node, x: Expr, slope: Expr) -> Expr:
    """X, or slope*x below 0."""
    return x if element(x).startswith("uint") else select(x < like(x, 0), x * slope, x)


@elementwise("ThresholdedRelu")
@widened
def thresholded_relu(node: Node, x: Expr) -> Expr:
    """X above alpha, else 0."""
    return select(x > like(x, attr(node, "alpha")), x, like(x, 0))


@elementwise("Elu")
@widened
def elu(node: Node, x: Expr) -> Expr:
    """X, or alpha*(e^x - 1) below 0."""
    return select(x < like(x, 0), like(x, attr(node, "alpha")) * (tirx.exp(x) - like(x, 1)), x)


@elementwise("Celu")
@widened
def celu(node: Node, x: Expr) -> Expr:
    """X, or alpha*(e^(x/alpha) - 1) below 0."""
    alpha = attr(node, "alpha")
    return select(x < like(x, 0), like(x, alpha) * (tirx.exp(x * like(x, 1 / alpha)) - like(x, 1)), x)


@elementwise("Selu")
@widened
def selu(node: Node, x: Expr) -> Expr:
    """gamma*x, or gamma*alpha*(e^x - 1) below 0."""
    alpha, gamma = attr(node, "alpha"), attr(node, "gamma")
    return select(x < like(x, 0), like(x, gamma * alpha) * (tirx.exp(x) - like(x, 1)), like(x, gamma) * x)


def unit(x: Expr) -> Expr:
    """X limited to [0, 1]."""
    return at_most(at_least(x, like(x, 0)), like(x, 1))


@elementwise("HardSigmoid")
@widened
def hard_sigmoid(node: Node, x: Expr) -> Expr:
    """alpha*x + beta within [0, 1]."""
    return unit(x * like(x, attr(node, "alpha")) + like(x, attr(node, "beta")))


@elementwise("HardSwish")
@widened
def hard_swish(node: Node, x: Expr) -> Expr:
    """X * hard sigmoid of x with slope 1/6 and offset 1/2."""
    return x * unit(x * like(x, 1 / 6) + like(x, 0.5))


@elementwise("Swish")
@widened
def swish(node: Node, x: Expr) -> Expr:
    """x * sigmoid(alpha*x) as x / (1 + exp(-alpha*x)): 2.6 ulp where the exponential is finite, else 0."""
    alpha = attr(node, "alpha")
    return x / (like(x, 1) + tirx.exp(x * like(x, -alpha)))


@elementwise("SwiGLU")
@widened
def swiglu(node: Node, a: Expr, b: Expr) -> Expr:
    """Swish of a, times b."""
    return swish(node, a) * b


# log2 of the normal distribution's tail, log2(erfc(a / sqrt 2) / 2) for 0 <= a <= 12, highest power first: a minimax fit
# in the sense that |gelu(x)| is within 1e-7 |x|, on the left with more relative precision than 1 + erf has
_TAIL = (
    *(-1.1682363947329577e-06, 2.203122858190909e-05, -0.00011577629629755393, -0.0002792924060486257),
    *(0.007215464953333139, -0.052580058574676514, -0.4591865539550781, -1.1511073112487793, -0.9999999403953552),
)


@elementwise("Gelu")
@widened
def gelu(node: Node, x: Expr) -> Expr:
    """X times the normal distribution function, exactly or by tanh: (1 + tanh u) / 2 = 1 / (1 + exp(-2u))."""
    if attr(node, "approximate") == "tanh":
        slope = 2 * sqrt(2 / pi)
        return x / (like(x, 1) + tirx.exp(x * (x * x * like(x, -0.044715 * slope) + like(x, -slope))))
    if element(x) == "float64":
        return x * like(x, 0.5) * (like(x, 1) + tirx.erf(x * like(x, sqrt(0.5))))
    size = at_most(tirx.abs(x), like(x, 11))  # where the fit is 2^-105; at 12 it would no longer be normal
    square, (*slopes, start) = size * size, (like(x, c) for c in _TAIL)
    odd, even = (reduce(lambda total, c: total * square + c, slopes[n::2]) for n in (0, 1))  # two short chains
    return at_least(x, like(x, 0)) - size * normal_exp2((odd * size + even) * size + start)


@elementwise("Softplus")
@widened
def softplus(node: Node, x: Expr) -> Expr:
    """log(1 + e^x), without overflow."""
    return at_least(x, like(x, 0)) + tirx.log1p(tirx.exp(like(x, 0) - tirx.abs(x)))


@elementwise("Softsign")
@widened
def softsign(node: Node, x: Expr) -> Expr:
    """X / (1 + |x|)."""
    return x / (like(x, 1) + tirx.abs(x))


@elementwise("Mish")
@widened
def mish(node: Node, x: Expr) -> Expr:
    """X * tanh(softplus(x)); with e = e^x that is x * e(e + 2) / (e(e + 2) + 2)."""
    e = tirx.exp(at_most(x, like(x, 20)))
    product = e * (e + like(x, 2))
    return x * (product / (product + like(x, 2)))


@elementwise("Shrink")
@widened
def shrink(node: Node, x: Expr) -> Expr:
    """X moved by bias toward 0, and 0 within [-lambd, lambd]."""
    kind = element(x)
    value = x if is_floating(x) else cast(x, "float32")
    bias, limit = like(value, attr(node, "bias")), attr(node, "lambd")
    above = select(value > like(value, limit), value - bias, like(value, 0))
    return cast(select(value < like(value, -limit), value + bias, above), kind)
