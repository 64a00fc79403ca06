"""The words in which the mathematical functions are written: values with names, constants, bits, rounding, scaling.

Everything keeps the lanes. Rounding adds a large constant, which pushes the fraction out, and subtracts it again: the
rules are applied after TVM's simplifier, LLVM keeps to the order, and it needs no instruction that some processor
lacks. In ``maximum(c, x)`` the constant stands first: that keeps NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from tvm import tirx
from tvm.tirx import expr as nodes

from onyxc.backends.kernels.expression import Expr, dtype_of

SHIFT = 12582912.0  # 1.5 * 2^23: added, it leaves the nearest integer in the low bits

_scalef: ContextVar[bool] = ContextVar("scalef", default=False)
_fuses: ContextVar[bool] = ContextVar("fuses", default=True)


@contextmanager
def instructions(arch: str, features: Sequence[str]) -> Iterator[None]:
    """Expressions made in here may use what a processor with these features can do.

    AVX-512 scales by 2^n; a multiply-add that rounds once is a feature of x86, and ARM has it always.
    """
    scales, fused = _scalef.set("avx512" in features), _fuses.set(arch != "x86_64" or "fma" in features)
    try:
        yield
    finally:
        _scalef.reset(scales)
        _fuses.reset(fused)


def fuses() -> bool:
    """Whether the processor has a multiply-add that rounds once."""
    return _fuses.get()


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
