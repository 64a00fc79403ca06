"""Where Resize reads: for each axis, the source coordinate of every output element, in exact integer arithmetic.

The coordinate is x(i) = (a*i + b) / c. Where such a fraction reproduces the numbers that ONNX's floating-point formulas
give, indices are floor divisions, which the compiler understands; otherwise the same formulas in float64 are code.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import gcd
from typing import Any

import numpy as np
from tvm import tirx

from onyxc.backends.lowering.scalar import cast
from onyxc.compiler.ir.graph import Array

Expr = Any
DENOMINATOR = 4096  # of the fractions that are tried
LARGE = 1 << 30  # numbers that would not fit int32


@dataclass(frozen=True)
class Axis:
    """One axis of a Resize: ``alpha * i + beta`` is the coordinate."""

    size: int
    out: int
    scale: float
    alpha: Fraction
    beta: Fraction
    exact: bool  # whether alpha and beta may stand for the floats below
    step: float
    start: float
    extrapolates: bool = False  # coordinates outside are filled with a value

    @property
    def numbers(self) -> tuple[int, int, int]:
        """a, b, c."""
        c = self.alpha.denominator * self.beta.denominator // gcd(self.alpha.denominator, self.beta.denominator)
        return int(self.alpha * c), int(self.beta * c), c

    @property
    def coordinates(self) -> Array:
        """The coordinates as ONNX computes them."""
        return np.arange(self.out, dtype=np.float64) * self.step + self.start


def quotient(i: Expr, a: int, b: int, c: int) -> Expr:
    """floor((a*i + b) / c), reduced."""
    common = gcd(a, c)
    a, b, c = a // common, b // common, c // common
    value = i * a if a != 1 else i
    value = value + b if b else value
    return value if c == 1 else tirx.floordiv(value, c)


def _fraction(value: float) -> Fraction:
    return Fraction(value).limit_denominator(DENOMINATOR)


def axis(mode: str, size: int, out: int, scale: float, roi: tuple[float, float], sized: bool) -> Axis:
    """The coordinates of one axis by a coordinate_transformation_mode; ``sized``: the scale is out / size exactly."""
    ratio = Fraction(out, size) if sized else _fraction(scale) or Fraction(scale)
    width = scale * size
    if ratio * size == 1:
        width = 1.0
    zero = Fraction(0)
    if mode == "align_corners":
        alpha = zero if width == 1 else Fraction(size - 1) / (ratio * size - 1)
        step, start, beta = (0.0 if width == 1 else (size - 1) / (width - 1)), 0.0, zero
    elif mode == "asymmetric":
        alpha, beta, step, start = 1 / ratio, zero, 1 / scale, 0.0
    elif mode == "tf_crop_and_resize":
        low, high = roi
        last = size - 1
        span = (high - low) * last
        step = 0.0 if width == 1 else span / (width - 1)
        start = low * last + (span / 2 if width == 1 else 0.0)
        exact_span = (_fraction(high) - _fraction(low)) * last
        alpha = zero if width == 1 else exact_span / (ratio * size - 1)
        beta = _fraction(low) * last + (exact_span / 2 if width == 1 else zero)
    elif mode == "pytorch_half_pixel" and width == 1:
        alpha, beta, step, start = zero, Fraction(-1, 2), 0.0, -0.5
    else:  # half_pixel, pytorch_half_pixel, half_pixel_symmetric
        shift, exact_shift = 0.0, zero
        if mode == "half_pixel_symmetric":
            shift = size / 2 * (1 - out / width)
            exact_shift = Fraction(size, 2) * (1 - Fraction(out) / (ratio * size))
        alpha, beta = 1 / ratio, exact_shift + Fraction(1, 2) / ratio - Fraction(1, 2)
        step, start = 1 / scale, shift + 0.5 / scale - 0.5
    return _checked(Axis(size, out, scale, alpha, beta, True, step, start, mode == "tf_crop_and_resize"))


def _checked(made: Axis) -> Axis:
    a, b, c = made.numbers
    fits = max(abs(a) * made.out * 2, abs(b) * 2, c * (made.size + 2) * 2) < LARGE
    near = fits and np.allclose((np.arange(made.out) * float(a) + b) / c, made.coordinates, rtol=0, atol=1e-4)
    return made if near else _inexact(made)


def _inexact(made: Axis) -> Axis:
    return Axis(made.size, made.out, made.scale, made.alpha, made.beta, False, made.step, made.start, made.extrapolates)


NEAREST = {
    # x as (a*i + b) / c  ->  numerator and denominator of what is floored
    "floor": lambda a, b, c: (a, b, c),
    "ceil": lambda a, b, c: (a, b + c - 1, c),
    "round_prefer_floor": lambda a, b, c: (2 * a, 2 * b + c - 1, 2 * c),
    "round_prefer_ceil": lambda a, b, c: (2 * a, 2 * b + c, 2 * c),
}


def _nearest(x: Array, mode: str) -> Array:
    whole = np.floor(x)
    part = x - whole
    up = {
        "floor": np.zeros_like(x, bool),
        "ceil": part > 0,
        "round_prefer_floor": part > 0.5,
        "round_prefer_ceil": part >= 0.5,
    }[mode]
    return np.asarray(whole + up).astype(np.int64)


def limited(index: Expr, size: int, low: int, high: int) -> Expr:
    """An index that runs over [low, high], limited to what exists."""
    if high > size - 1:
        index = tirx.min(index, size - 1)
    return tirx.max(index, 0) if low < 0 else index


def nearest(where: Axis, i: Expr, mode: str) -> Expr:
    """The index of the nearest source element."""
    table = _nearest(where.coordinates, mode)
    numbers = NEAREST[mode](*where.numbers)
    rational = (np.arange(where.out, dtype=object) * numbers[0] + numbers[1]) // numbers[2]
    low, high = (int(table.min()), int(table.max())) if table.size else (0, 0)
    if where.exact and np.array_equal(np.clip(table, 0, where.size - 1), np.clip(rational, 0, where.size - 1)):
        return limited(quotient(i, *numbers), where.size, low, high)
    x = position(where, i)
    moved = {
        "floor": lambda: tirx.floor(x),
        "ceil": lambda: tirx.ceil(x),
        "round_prefer_floor": lambda: tirx.ceil(x - 0.5),
        "round_prefer_ceil": lambda: tirx.floor(x + 0.5),
    }[mode]()
    return limited(cast(moved, "int32"), where.size, low, high)


def position(where: Axis, i: Expr) -> Expr:
    """The coordinate in float64."""
    return cast(i, "float64") * where.step + where.start


def split(where: Axis, i: Expr) -> tuple[Expr, Expr]:
    """The coordinate's whole part (int32) and the rest (float32)."""
    if not where.exact:
        x = position(where, i)
        whole = tirx.floor(x)
        return cast(whole, "int32"), cast(x - whole, "float32")
    a, b, c = where.numbers
    whole = quotient(i, a, b, c)
    return whole, cast(i * a + b - whole * c, "float32") * tirx.const(1 / c, "float32")


def outside(where: Axis, i: Expr) -> Expr:
    """Whether the coordinate lies outside of the source."""
    if not where.exact:
        x = position(where, i)
        return tirx.Or(x < 0.0, x > float(where.size - 1))
    a, b, c = where.numbers
    return tirx.Or(i * a + b < 0, i * a + b > (where.size - 1) * c)
