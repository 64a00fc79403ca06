"""Narrow floats (8 and 4 bits), kept as their bits in uint8: to float32 and back, by integer arithmetic alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from onyxc.backends.lowering.scalar import bits, cast, like, select

Expr = Any


@dataclass(frozen=True)
class Format:
    """A narrow float. ``largest``, ``infinity``, ``nan``: codes without sign (infinity None: there is none).

    ``overflow``: the code of what is too large when it is not saturated; ``unsigned_zero``: -0 is written as 0,
    because its code means NaN; ``finite``: no code is read as NaN, which is written as -0.
    """

    mantissa: int
    bias: int
    largest: int
    nan: int
    overflow: int
    infinity: int | None = None
    width: int = 8
    unsigned_zero: bool = False
    finite: bool = False


FORMATS = {
    "float8_e4m3fn": Format(3, 7, 0x7E, nan=0x7F, overflow=0x7F),
    "float8_e4m3fnuz": Format(3, 8, 0x7F, nan=0x80, overflow=0x80, unsigned_zero=True),
    "float8_e5m2": Format(2, 15, 0x7B, nan=0x7E, overflow=0x7C, infinity=0x7C),
    "float8_e5m2fnuz": Format(2, 16, 0x7F, nan=0x80, overflow=0x80, unsigned_zero=True),
    "float4_e2m1fn": Format(1, 1, 0x7, nan=0x8, overflow=0x7, width=4, finite=True),
}


def is_narrow(dtype: str) -> bool:
    """Whether ``dtype`` is a float kept as bits."""
    return dtype in FORMATS or dtype == "float8_e8m0fnu"


def _float_bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def decode(code: Expr, dtype: str) -> Expr:
    """The float32 that a code (uint8) of ``dtype`` stands for."""
    code = cast(code, "uint32")
    if dtype == "float8_e8m0fnu":
        power = select(tirx.EQ(code, like(code, 0)), like(code, 1 << 22), tirx.shift_left(code, like(code, 23)))
        value = bits(power, "float32")
        return select(tirx.EQ(code, like(code, 255)), like(value, float("nan")), value)
    form = FORMATS[dtype]
    sign = tirx.shift_left(tirx.shift_right(code, like(code, form.width - 1)), like(code, 31))
    size = tirx.bitwise_and(code, like(code, (1 << (form.width - 1)) - 1))
    normal = tirx.shift_left(size, like(size, 23 - form.mantissa)) + like(size, (127 - form.bias) << 23)
    step = like(size, 2.0 ** (1 - form.bias - form.mantissa), "float32")
    small = bits(cast(cast(size, "int32"), "float32") * step, "uint32")
    value = bits(tirx.bitwise_or(select(size < like(size, 1 << form.mantissa), small, normal), sign), "float32")
    if form.infinity is not None:
        endless = select(tirx.EQ(sign, like(sign, 0)), like(value, float("inf")), like(value, float("-inf")))
        value = select(tirx.EQ(size, like(size, form.infinity)), endless, value)
        return select(size > like(size, form.infinity), like(value, float("nan")), value)
    if form.finite:
        return value
    whole = code if form.unsigned_zero else size
    return select(tirx.EQ(whole, like(code, form.nan)), like(value, float("nan")), value)


def encode(x: Expr, dtype: str, saturate: bool = True, rounding: str = "up") -> Expr:
    """The code (uint8) of ``dtype`` nearest to a float32, ties to even."""
    if dtype == "float8_e8m0fnu":
        return _encode_power(x, saturate, rounding)
    form = FORMATS[dtype]
    raw = bits(x, "uint32")
    sign = tirx.shift_left(tirx.shift_right(raw, like(raw, 31)), like(raw, form.width - 1))
    size = tirx.bitwise_and(raw, like(raw, 0x7FFFFFFF))
    shift = 23 - form.mantissa
    odd = tirx.bitwise_and(tirx.shift_right(size, like(raw, shift)), like(raw, 1))
    rounded = tirx.shift_right(size + like(raw, (1 << (shift - 1)) - 1) + odd, like(raw, shift))
    normal = rounded - like(raw, (127 - form.bias) << form.mantissa)
    # adding a power of two whose last place is one step of the subnormals rounds them as the processor rounds
    step = 2.0 ** (24 - form.bias - form.mantissa)
    small = bits(bits(size, "float32") + like(x, step), "uint32") - like(raw, _float_bits(step))
    code = select(size < like(raw, _float_bits(2.0 ** (1 - form.bias))), small, normal)
    code = select(code > like(raw, form.largest), like(raw, form.largest if saturate else form.overflow), code)
    code = select(size > like(raw, 0x7F800000), like(raw, form.nan), code)
    if form.unsigned_zero:
        sign = select(tirx.EQ(code, like(raw, 0)), like(raw, 0), sign)
    return cast(tirx.bitwise_or(code, sign), "uint8")


def _encode_power(x: Expr, saturate: bool, rounding: str) -> Expr:
    raw = bits(x, "uint32")
    exponent = tirx.bitwise_and(tirx.shift_right(raw, like(raw, 23)), like(raw, 0xFF))
    fraction = tirx.bitwise_and(raw, like(raw, 0x7FFFFF))
    more: Expr = {
        "up": fraction > like(raw, 0),
        # ties round up, below the normal numbers to even
        "nearest": select(tirx.EQ(exponent, like(raw, 0)), fraction > like(raw, 0x400000), fraction >= like(raw, 0x400000)),
    }.get(rounding, fraction > like(raw, 0x7FFFFF))
    code = select(more, exponent + like(raw, 1), exponent)
    finite = exponent < like(raw, 255)
    if saturate:
        endless = tirx.EQ(tirx.bitwise_and(raw, like(raw, 0x7FFFFFFF)), like(raw, 0x7F800000))
        code = select(tirx.Or(endless, tirx.And(finite, code > like(raw, 254))), like(raw, 254), code)
        finite = tirx.Or(finite, endless)
    return cast(select(finite, code, like(raw, 255)), "uint8")
