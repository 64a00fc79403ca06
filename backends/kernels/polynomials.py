"""Elementary functions of float32 as straight-line arithmetic that vectorises, the same bits at any width.

Every function takes and returns a float32 expression of any number of lanes. Errors are in units in the last
place, at worst over the whole range (tests sample them), on a processor with fused multiply-add; without, up to 0.3
more. NaN, infinities, zeros and subnormals come out right.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx import expr as nodes

from onyxc.backends.kernels.expression import Expr
from onyxc.backends.kernels.lets import SHIFT, Lets

LN2_HIGH, LN2_LOW = 0.693145751953125, 1.42860682e-6  # high part: few bits, so that n * high is exact
LOG2_E, LN2 = 1.4426950408889634, 0.6931471805599453
EXP = (0.001394112, 0.00836318123, 0.0416663752, 0.16666577, 0.5)  # exp(r) = 1 + r + r^2 P(r), highest power first
EXP2 = tuple(c * LN2 ** (6 - k) for k, c in enumerate((*EXP, 1.0)))  # 2^r = 1 + r P(r)


def exp_parts(m: Lets, x: Expr, factor: float = 1.0) -> tuple[Expr, Expr]:
    """``exp(factor * x) = (1 + q) * 2^n`` as (q, n), both float32, |q| < 0.42; factor * x within -104 .. 89.

    ``factor``: a power of two or its negative, which costs nothing: the constants take it, exactly.
    """
    whole = m.let(m.nearest(x * m.const(LOG2_E * factor)))
    r = m.let(x - whole * m.const(LN2_HIGH / factor) - whole * m.const(LN2_LOW / factor))
    return m.horner(r, [c * factor ** (6 - k) for k, c in enumerate((*EXP, 1.0))]) * r, whole


def exp(x: Expr) -> Expr:
    """0.9 ulp."""
    m = Lets(x)
    q, whole = exp_parts(m, m.let(m.minimum(89.0, m.maximum(-104.0, x))))
    return m.close(m.scaled(q + m.const(1.0), whole))


def exp2_of(m: Lets, whole: Expr, rest: Expr) -> Expr:
    """2^(whole + rest), |rest| <= 0.5; ``whole`` an integer within -152 .. 129 in float32."""
    rest = m.let(rest)
    return m.scaled(m.horner(rest, EXP2) * rest + m.const(1.0), whole)


def exp2(x: Expr, normal: Expr | None = None) -> Expr:
    """1 ulp. ``normal``: given, if the caller knows that x is NaN or within -126 .. 127."""
    m = Lets(x)
    if normal is not None:
        return m.close(_normal_exp2(m, m.let(x)))
    x = m.let(m.minimum(129.0, m.maximum(-151.0, x)))
    whole = m.let(m.nearest(x))
    return m.close(exp2_of(m, whole, x - whole))


def _normal_exp2(m: Lets, x: Expr) -> Expr:
    """2^x of a NaN or -126 <= x <= 127: no limits, and 2^n is added to the exponent's bits."""
    shifted = m.let(x + m.const(SHIFT))
    rest = m.let(x - (shifted - m.const(SHIFT)))
    value = m.horner(rest, EXP2) * rest + m.const(1.0)
    return m.bits(m.bits(value) + (m.bits(shifted) << m.const(23, "int32")), "float32")


def sigmoid(x: Expr) -> Expr:
    """1.6 ulp."""
    m = Lets(x)
    x = m.let(x)
    q, whole = exp_parts(m, m.let(m.minimum(104.0, tirx.abs(x))), -1.0)
    z = m.let(m.scaled(q + m.const(1.0), whole))
    w = z / (m.const(1.0) + z)
    low = nodes.Select(x < m.const(0.0), z, m.const(1.0))
    # z / (1 + z) on the left of zero, 1 - z / (1 + z) on the right, without cancellation
    return m.close(low - low * w)


def tanh(x: Expr) -> Expr:
    """2.5 ulp."""
    m = Lets(x)
    x = m.let(x)
    q, whole = exp_parts(m, m.let(m.minimum(20.0, tirx.abs(x))), -2.0)
    scale = m.let(m.power_of_two(whole))
    e = m.let(scale * q + (scale - m.const(1.0)))  # expm1(-2|x|)
    value = m.let(e / (m.const(-2.0) - e))
    sign = m.bits(x) & m.const(-(2**31), "int32")
    return m.close(m.bits(m.bits(value) | sign, "float32"))


def erf(x: Expr) -> Expr:
    """1 ulp: an odd polynomial around zero, 1 - exp(polynomial) outside."""
    m = Lets(x)
    x = m.let(x)
    t = m.let(m.minimum(4.0, tirx.abs(x)))
    s = m.let(t * t)
    outer = m.const(-1.72853470e-5) * t + m.const(3.83197126e-4)
    outer = outer * s + (m.const(-3.88396438e-3) * t + m.const(2.42546219e-2))
    for c in (-1.06777877e-1, -6.34846687e-1, -1.28717512e-1):
        outer = outer * t + m.const(c)
    q, whole = exp_parts(m, m.let(outer * t - t))
    far = m.const(1.0) - m.power_of_two(whole) * (q + m.const(1.0))
    inner = (-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1)
    near = m.horner(s, inner) * t + t
    value = m.let(nodes.Select(t > m.const(0.927734375), far, near))
    sign = m.bits(x) & m.const(-(2**31), "int32")
    return m.close(m.bits(m.bits(value) | sign, "float32"))


def _split(m: Lets, x: Expr) -> tuple[Expr, Expr]:
    """``x = (1 + f) * 2^e`` with 1 + f in [sqrt 0.5, sqrt 2), f in float32 and e in int32, for normal x > 0 or 0."""
    offset = m.let(m.bits(x) - m.const(0x3F3504F3, "int32"))  # the bits of sqrt 0.5
    e = m.let(offset >> m.const(23, "int32"))
    return m.let(m.bits(m.bits(x) - (e << m.const(23, "int32")), "float32") - m.const(1.0)), e


def log_parts(m: Lets, x: Expr) -> tuple[Expr, Expr]:
    """``x = (1 + f) * 2^e`` with 1 + f in [sqrt 0.5, sqrt 2), as (f, e) in float32, for finite x >= 0; 0 has f = 0."""
    small = m.let(x < m.const(1.1754943508222875e-38))
    f, e = _split(m, m.let(nodes.Select(small, x * m.const(2.0**23), x)))
    return f, m.let(m.cast(e, "float32") - nodes.Select(small, m.const(23.0), m.const(0.0)))


def _log_edges(m: Lets, x: Expr, value: Expr, pole: float = 0.0) -> Expr:
    """``value``, or what a logarithm is at infinity, NaN, its pole and below that."""
    infinite = m.const(float("inf"))
    value = nodes.Select(x < infinite, value, x)  # infinity and NaN
    value = nodes.Select(nodes.EQ(x, m.const(pole)), m.const(float("-inf")), value)
    return nodes.Select(x < m.const(pole), m.const(float("nan")), value)


_LOG = (  # Cephes: log(1 + f) = f - f^2 / 2 + f^3 * P(f)
    *(0.070376836292, -0.1151461031, 0.116769987, -0.12420140846, 0.14249322787, -0.16668057665),
    *(0.20000714765, -0.24999993993, 0.33333331174),
)


def _log(m: Lets, f: Expr, e: Expr) -> Expr:
    """log((1 + f) * 2^e)."""
    s = m.let(f * f)
    rest = f * s * m.horner(f, _LOG) - m.const(2.12194440e-4) * e - m.const(0.5) * s
    return m.let(f + rest + e * m.const(0.693359375))


def log(x: Expr) -> Expr:
    """0.8 ulp."""
    m = Lets(x)
    x = m.let(x)
    return m.close(_log_edges(m, x, _log(m, *log_parts(m, x))))


def log1p(x: Expr) -> Expr:
    """1.4 ulp: the logarithm of 1 + x, with what that addition lost."""
    m = Lets(x)
    x = m.let(x)
    whole = m.let(x + m.const(1.0))
    lost = m.let(x - (whole - m.const(1.0)))
    f, e = _split(m, whole)
    share = m.exponent(nodes.Max(m.const(-126, "int32"), m.const(0, "int32") - e))
    value = _log(m, m.let(f + lost * share), m.let(m.cast(e, "float32")))
    return m.close(_log_edges(m, x, value, pole=-1.0))


def _scaled_log(factor: float) -> Callable[[Expr], Expr]:
    """log(x) * factor, exact at powers of two for the base 2."""

    def function(x: Expr) -> Expr:
        m = Lets(x)
        x = m.let(x)
        f, e = log_parts(m, x)
        wide, s = m.let(m.cast(f, "float64")), m.let(f * f)
        rest = m.let(f * s * m.horner(f, _LOG) - m.const(0.5) * s)
        total = (wide + m.cast(rest, "float64")) * m.const(factor, "float64")
        total = total + m.cast(e, "float64") * m.const(factor * 0.6931471805599453, "float64")
        return m.close(_log_edges(m, x, m.let(m.cast(total, "float32"))))

    return function


log2 = _scaled_log(LOG2_E)
log10 = _scaled_log(0.4342944819032518)


TRIGONOMETRIC_LIMIT = 2.0**26  # above, the quadrant would not be exact
_HALF_PI = (1.57079631090164184570, 1.58932547735281966916e-08)  # 33 bits, and the rest of pi / 2


def _quadrant(m: Lets, x: Expr) -> tuple[Expr, Expr, Expr]:
    """(sin r, cos r, n) with x = r + n * pi / 2 and |r| <= pi / 4, for |x| up to the limit."""
    wide = m.let(m.cast(x, "float64"))
    turns = wide * m.const(0.6366197723675814, "float64") + m.const(2.0**27 + 0.5, "float64")
    n = m.let(m.cast(turns, "int32") - m.const(2**27, "int32"))
    count = m.let(m.cast(n, "float64"))
    r = wide
    for part in _HALF_PI:
        r = r - count * m.const(part, "float64")
    r = m.let(m.cast(r, "float32"))
    s = m.let(r * r)
    sine = m.horner(s, (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)) * s * r + r  # Cephes
    cosine = m.horner(s, (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)) * s * s
    return m.let(sine), m.let(cosine - m.const(0.5) * s + m.const(1.0)), n


def _wave(shift: int) -> Callable[[Expr], Expr]:
    def function(x: Expr) -> Expr:
        m = Lets(x)
        sine, cosine, n = _quadrant(m, m.let(x))
        n = m.let(n + m.const(shift, "int32"))
        odd = nodes.NE(n & m.const(1, "int32"), m.const(0, "int32"))
        value = nodes.Select(odd, cosine, sine)
        sign = (n & m.const(2, "int32")) << m.const(30, "int32")
        return m.close(m.bits(m.bits(value) ^ sign, "float32"))

    return function


sin, cos = _wave(0), _wave(1)


def tan(x: Expr) -> Expr:
    """3 ulp."""
    m = Lets(x)
    sine, cosine, n = _quadrant(m, m.let(x))
    odd = m.let(nodes.NE(n & m.const(1, "int32"), m.const(0, "int32")))
    above = nodes.Select(odd, m.const(0.0) - cosine, sine)
    return m.close(above / nodes.Select(odd, sine, cosine))
