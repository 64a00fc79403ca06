"""Functions of float32 that compute in float64: powers, inverse functions, remainders.

There a short polynomial leaves room for cancellation, so that nearly every result is the rounded one. The same bits
at any width; NaN, infinities and signed zeros as in C.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx import expr as nodes

from onyxc.backends.kernels.expression import Expr
from onyxc.backends.kernels.lets import Lets
from onyxc.backends.kernels.polynomials import LOG2_E, exp2_of, log_parts

DOUBLE = "float64"
HALF_PI, LN2 = 1.5707963267948966, 0.6931471805599453
SHIFT = 1.5 * 2.0**52  # added and subtracted again, it rounds a float64 to an integer
LARGEST = 3.4028234663852886e38
REMAINDER_LIMIT = 2.0**28  # quotients of `fmod` whose products with 24 bits are exact

# minimax fits: 2 artanh(s) = 2 s + s^3 P(s^2) for |s| <= 3 - sqrt 8, 5e-12; arctan(t) = t + t^3 P(t^2) up to 1, 4e-10
_ARTANH = (0.23581506975572455, 0.2853734524803611, 0.4000033455966888, 0.6666666564854434)
_ARCTAN = (
    *(0.0011137733606004546, -0.007317884274472119, 0.022539723524651004, -0.04468978466261919, 0.06741586808305125),
    *(-0.08811087200342421, 0.11058222666618595, -0.14279832912446766, 0.19999671113585005, -0.3333332689933415),
)


def _constant(m: Lets, value: float) -> Expr:
    return m.const(value, DOUBLE)


def _log1p(m: Lets, f: Expr) -> Expr:
    """log(1 + f) of a float64 for 1 + f in [sqrt 0.5, sqrt 2]."""
    s = m.let(f / (f + _constant(m, 2.0)))
    z = m.let(s * s)
    return m.let(s * z * m.horner(z, _ARTANH, DOUBLE) + s * _constant(m, 2.0))


def _log(m: Lets, u: Expr) -> Expr:
    """The logarithm of a float64 from 0.5 up to the largest float32; infinity and NaN stay."""
    short = m.let(m.cast(u, "float32"))
    e = m.let((m.bits(short) - m.const(0x3F3504F3, "int32")) >> m.const(23, "int32"))
    scale = m.cast(m.exponent(m.const(64, "int32") - e), DOUBLE)  # 2^-e may be too small for float32
    f = m.let(u * scale * _constant(m, 2.0**-64) - _constant(m, 1.0))
    value = _log1p(m, f) + m.cast(e, DOUBLE) * _constant(m, LN2)
    return m.let(nodes.Select(short < m.const(float("inf")), value, u))


def power(x: Expr, y: Expr) -> Expr:
    """x to the y: 2^(y log2 |x|), 1 ulp."""
    m = Lets(x)
    x, y = m.let(x), m.let(y)
    zero, one, infinite = m.const(0.0), m.const(1.0), m.const(float("inf"))
    magnitude = m.let(tirx.abs(x))
    f, e = log_parts(m, magnitude)
    e = nodes.Select(nodes.EQ(magnitude, zero), m.const(float("-inf")), e)
    e = m.let(nodes.Select(nodes.EQ(magnitude, infinite), infinite, e))
    log2 = _log1p(m, m.let(m.cast(f, DOUBLE))) * _constant(m, LOG2_E) + m.cast(e, DOUBLE)
    finite = m.minimum(LARGEST, m.maximum(-LARGEST, y))  # 1 to an infinite power is 1
    t = nodes.Max(_constant(m, -151.0), m.cast(finite, DOUBLE) * log2)
    t = m.let(nodes.Min(_constant(m, 129.0), t))
    whole = m.let(m.let(t + _constant(m, SHIFT)) - _constant(m, SHIFT))
    value = m.let(exp2_of(m, m.let(m.cast(whole, "float32")), m.cast(t - whole, "float32")))
    # the sign of a negative number's power: odd integers keep it, other integers lose it, the rest is undefined
    near = m.let(m.minimum(2.0**24, m.maximum(-(2.0**24), y)))
    count = m.let(m.cast(near, "int32"))
    integer = m.let(nodes.EQ(m.cast(count, "float32"), near))
    odd = nodes.Select(integer, count, m.const(0, "int32")) << m.const(31, "int32")
    value = m.bits(m.bits(value) ^ (m.bits(x) & odd), "float32")
    undefined = nodes.And(nodes.And(x < zero, magnitude < infinite), nodes.Not(integer))
    value = nodes.Select(undefined, m.const(float("nan")), value)
    value = nodes.Select(nodes.EQ(x, x), value, x)
    return m.close(nodes.Select(nodes.Or(nodes.EQ(y, zero), nodes.EQ(x, one)), one, value))


def _angle(m: Lets, opposite: Expr, adjacent: Expr, steep: Expr) -> Expr:
    """arctan(opposite / adjacent) in float64, both at least 0; ``steep``: whether the quotient is above 1."""
    above, below = nodes.Select(steep, adjacent, opposite), nodes.Select(steep, opposite, adjacent)
    t = m.let(above / below)
    z = m.let(t * t)
    angle = m.let(t * z * m.horner(z, _ARCTAN, DOUBLE) + t)
    return m.let(nodes.Select(steep, _constant(m, HALF_PI) - angle, angle))


def _signed(m: Lets, value: Expr, x: Expr) -> Expr:
    """``value`` (float64, at least 0) as float32 with the sign of ``x``."""
    short = m.cast(value, "float32")
    return m.bits(m.bits(short) | (m.bits(x) & m.const(-(2**31), "int32")), "float32")


def atan(x: Expr) -> Expr:
    """0.51 ulp."""
    m = Lets(x)
    x = m.let(x)
    size, one = m.let(m.cast(tirx.abs(x), DOUBLE)), _constant(m, 1.0)
    return m.close(_signed(m, _angle(m, size, one, m.let(size > one)), x))


def _arcsine(m: Lets, x: Expr) -> Expr:
    """arcsin |x| in float64."""
    size = m.let(m.cast(tirx.abs(x), DOUBLE))
    rest = m.let(tirx.sqrt(_constant(m, 1.0) - size * size))
    return _angle(m, size, rest, m.let(size > rest))


def asin(x: Expr) -> Expr:
    """0.51 ulp."""
    m = Lets(x)
    x = m.let(x)
    return m.close(_signed(m, _arcsine(m, x), x))


def acos(x: Expr) -> Expr:
    """0.51 ulp."""
    m = Lets(x)
    x = m.let(x)
    angle, right = _arcsine(m, x), _constant(m, HALF_PI)
    return m.close(m.cast(nodes.Select(x < m.const(0.0), right + angle, right - angle), "float32"))


def asinh(x: Expr) -> Expr:
    """0.51 ulp: log(|x| + sqrt(x^2 + 1)), near 0 a series."""
    m = Lets(x)
    x = m.let(x)
    size = m.let(m.cast(tirx.abs(x), DOUBLE))
    square = m.let(size * size)
    half = (size + tirx.sqrt(square + _constant(m, 1.0))) * _constant(m, 0.5)  # stays in the range of float32
    far = _log(m, m.let(half)) + _constant(m, LN2)
    near = size + size * square * (square * _constant(m, 3 / 40) - _constant(m, 1 / 6))
    return m.close(_signed(m, nodes.Select(size < _constant(m, 0.02), near, far), x))


def acosh(x: Expr) -> Expr:
    """0.6 ulp: log(x + sqrt(x^2 - 1))."""
    m = Lets(x)
    size = m.let(m.cast(x, DOUBLE))
    root = m.let(tirx.sqrt(size * size - _constant(m, 1.0)))
    value = _log(m, m.let((size + root) * _constant(m, 0.5))) + _constant(m, LN2)
    undefined = size < _constant(m, 1.0)
    return m.close(m.cast(nodes.Select(undefined, _constant(m, float("nan")), value), "float32"))


def atanh(x: Expr) -> Expr:
    """0.51 ulp: half the logarithm of (1 + |x|) / (1 - |x|)."""
    m = Lets(x)
    x = m.let(x)
    size, one = m.let(m.cast(tirx.abs(x), DOUBLE)), _constant(m, 1.0)
    far = _log(m, m.let((one + size) / (one - size))) * _constant(m, 0.5)
    far = nodes.Select(size > one, _constant(m, float("nan")), far)
    return m.close(_signed(m, nodes.Select(size < _constant(m, 1e-4), size, far), x))


def fmod(x: Expr, y: Expr) -> Expr:
    """The exact remainder with the sign of ``x``, for quotients up to `REMAINDER_LIMIT`."""
    m = Lets(x)
    x, y = m.let(x), m.let(y)
    size, step = m.let(m.cast(tirx.abs(x), DOUBLE)), m.let(m.cast(tirx.abs(y), DOUBLE))
    rest = m.let(size - tirx.trunc(size / step) * step)
    rest = m.let(nodes.Select(rest < _constant(m, 0.0), rest + step, rest))  # the quotient was rounded up
    rest = nodes.Select(nodes.EQ(step, _constant(m, float("inf"))), size, rest)
    finite = size < _constant(m, float("inf"))
    return m.close(_signed(m, nodes.Select(finite, rest, _constant(m, float("nan"))), x))


VECTOR: dict[str, Callable[..., Expr]] = {
    "tirx.pow": power,
    "tirx.atan": atan,
    "tirx.asin": asin,
    "tirx.acos": acos,
    "tirx.asinh": asinh,
    "tirx.acosh": acosh,
    "tirx.atanh": atanh,
    "tirx.fmod": fmod,
}
