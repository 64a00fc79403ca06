"""Elementary functions of float32 as straight-line arithmetic that vectorises, the same bits at any width.

Every function takes and returns a float32 expression of any number of lanes. Errors are in units in the last
place, at worst over the whole range (tests sample them); NaN, infinities, zeros and subnormals come out right.
Rounding adds a large constant, which pushes the fraction out, and subtracts it again: the rules are applied after
TVM's simplifier, LLVM keeps to the order, and it needs no instruction that some processor lacks. In
``maximum(c, x)`` the constant stands first: that keeps NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from tvm import tirx
from tvm.tirx import expr as nodes

from onyxc.backends.kernels.expression import Expr, dtype_of

LN2_HIGH, LN2_LOW = 0.693145751953125, 1.42860682e-6  # high part: few bits, so that n * high is exact
LOG2_E = 1.4426950408889634
SHIFT = 12582912.0  # 1.5 * 2^23: added, it leaves the nearest integer in the low bits
EXP = (0.001394112, 0.00836318123, 0.0416663752, 0.16666577, 0.5)  # exp(r) = 1 + r + r^2 P(r), highest power first

_scalef: ContextVar[bool] = ContextVar("scalef", default=False)


@contextmanager
def instructions(features: Sequence[str]) -> Iterator[None]:
    """Expressions made in here may use what a processor with these features can do: AVX-512 scales by 2^n."""
    token = _scalef.set("avx512" in features)
    try:
        yield
    finally:
        _scalef.reset(token)


class Lets:
    """Intermediate values that are computed once: ``let`` names one, ``close`` wraps the result."""

    def __init__(self, like: Expr) -> None:
        kind = dtype_of(like)
        self.lanes = int(kind.partition("x")[2] or 1)
        self.bindings: list[tuple[Expr, Expr]] = []

    def let(self, value: Expr) -> Expr:
        """``value`` by name.

        Behind a call that does nothing: TVM bounds what a variable holds, which takes exponential time.
        """
        kind = dtype_of(value)
        var = tirx.Var("t", kind)
        self.bindings.append((var, tirx.call_intrin(kind, "tirx.reinterpret", value)))
        return var

    def close(self, result: Expr) -> Expr:
        """``result`` inside all bindings."""
        for var, value in reversed(self.bindings):
            result = nodes.Let(var, value, result)
        return result

    def kind(self, base: str) -> str:
        """``base`` with this many lanes."""
        return base if self.lanes == 1 else f"{base}x{self.lanes}"

    def const(self, value: float, base: str = "float32") -> Expr:
        """A constant in every lane."""
        return tirx.const(value, self.kind(base))

    def cast(self, value: Expr, base: str) -> Expr:
        """Conversion by value."""
        return nodes.Cast(self.kind(base), value)

    def bits(self, value: Expr, base: str = "int32") -> Expr:
        """The same bits as another type."""
        return tirx.reinterpret(self.kind(base), value)

    def maximum(self, constant: float, value: Expr) -> Expr:
        """The larger one, or NaN."""
        return nodes.Max(self.const(constant), value)

    def minimum(self, constant: float, value: Expr) -> Expr:
        """The smaller one, or NaN."""
        return nodes.Min(self.const(constant), value)

    def horner(self, x: Expr, coefficients: Sequence[float], base: str = "float32") -> Expr:
        """A polynomial, highest power first."""
        total = self.const(coefficients[0], base)
        for c in coefficients[1:]:
            total = total * x + self.const(c, base)
        return total

    def nearest(self, value: Expr) -> Expr:
        """The nearest integer, even at ties, as float32; |value| below 2^22."""
        return self.let(value + self.const(SHIFT)) - self.const(SHIFT)

    def exponent(self, n: Expr) -> Expr:
        """2^n as float32 for an int32 -126 <= n <= 127."""
        return self.bits((n + self.const(127, "int32")) << self.const(23, "int32"), "float32")

    def power_of_two(self, whole: Expr) -> Expr:
        """2^whole as float32 for an integer -126 <= whole <= 127 in float32."""
        if self._scales():
            return self._scale(self.const(1.0), whole)
        return self.exponent(self.cast(whole, "int32"))

    def scaled(self, value: Expr, whole: Expr) -> Expr:
        """value * 2^whole, rounded once where the result is subnormal, infinite where it is too large.

        ``value`` within [0.5, 2), ``whole`` an integer within -160 .. 160 in float32.
        """
        if self._scales():
            return self._scale(value, whole)
        n = self.let(self.cast(whole, "int32"))
        half = self.let(n >> self.const(1, "int32"))
        return value * self.exponent(half) * self.exponent(n - half)

    def _scales(self) -> bool:
        return _scalef.get() and (self.lanes in (4, 8) or self.lanes % 16 == 0)

    def _scale(self, value: Expr, whole: Expr) -> Expr:
        """The instruction of AVX-512, which gives the same bits; longer vectors in parts."""
        width = min(self.lanes, 16)
        kind, bits = f"float32x{width}", 32 * width
        full = tirx.const(-1, "int16" if width == 16 else "int8")
        rounding = [tirx.const(4, "int32")] if width == 16 else []  # the current mode

        def scale(a: Expr, n: Expr) -> Expr:
            name = f"llvm.x86.avx512.mask.scalef.ps.{bits}"
            return tirx.call_llvm_pure_intrin(kind, name, a, n, a, full, *rounding)

        if self.lanes == width:
            return scale(self.let(value), whole)
        value, parts = self.let(value), []
        for start in range(0, self.lanes, width):
            picks = [tirx.const(i, "int32") for i in range(start, start + width)]
            parts.append(self.let(scale(*(self.let(nodes.Shuffle([v], picks)) for v in (value, whole)))))
        return nodes.Shuffle(parts, [tirx.const(i, "int32") for i in range(self.lanes)])


def exp_parts(m: Lets, x: Expr) -> tuple[Expr, Expr]:
    """``exp(x) = (1 + q) * 2^n`` as (q, n), both float32, |q| < 0.42; x within -104 .. 89."""
    whole = m.let(m.nearest(x * m.const(LOG2_E)))
    r = m.let(x - whole * m.const(LN2_HIGH) - whole * m.const(LN2_LOW))
    return m.horner(r, (*EXP, 1.0)) * r, whole


def exp(x: Expr) -> Expr:
    """0.9 ulp."""
    m = Lets(x)
    q, whole = exp_parts(m, m.let(m.minimum(89.0, m.maximum(-104.0, x))))
    return m.close(m.scaled(q + m.const(1.0), whole))


def exp2_of(m: Lets, whole: Expr, rest: Expr) -> Expr:
    """2^(whole + rest), |rest| <= 0.5; ``whole`` an integer within -152 .. 129 in float32."""
    r = m.let(rest * m.const(0.6931471805599453))
    return m.scaled(m.horner(r, (*EXP, 1.0)) * r + m.const(1.0), whole)


def exp2(x: Expr) -> Expr:
    """1 ulp."""
    m = Lets(x)
    x = m.let(m.minimum(129.0, m.maximum(-151.0, x)))
    whole = m.let(m.nearest(x))
    return m.close(exp2_of(m, whole, x - whole))


def sigmoid(x: Expr) -> Expr:
    """1.6 ulp."""
    m = Lets(x)
    x = m.let(x)
    magnitude = m.let(nodes.Max(m.const(-104.0), m.const(0.0) - tirx.abs(x)))
    q, whole = exp_parts(m, magnitude)
    z = m.let(m.scaled(q + m.const(1.0), whole))
    w = z / (m.const(1.0) + z)
    low = nodes.Select(x < m.const(0.0), z, m.const(1.0))
    # z / (1 + z) on the left of zero, 1 - z / (1 + z) on the right, without cancellation
    return m.close(low - low * w)


def tanh(x: Expr) -> Expr:
    """2.5 ulp."""
    m = Lets(x)
    x = m.let(x)
    magnitude = m.let(nodes.Max(m.const(-40.0), m.const(-2.0) * tirx.abs(x)))
    q, whole = exp_parts(m, magnitude)
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
