"""Narrow floats: stored as integers, computed in float32, rounded to nearest even when stored.

TVM 0.27 cannot legalise vectors of them for a CPU, so kernels decode and encode themselves. Overflow becomes
infinity, or NaN in a format that has none, as ml_dtypes does; a saturating Cast clamps before it stores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx import expr as nodes

from onyxc.backends.kernels.expression import Expr, dtype_of


@dataclass(frozen=True)
class Format:
    """Bits of exponent and mantissa, the exponent's bias; ``finite``: no infinity; ``unsigned_zero``: FNUZ."""

    exponent: int
    mantissa: int
    bias: int
    finite: bool = False
    unsigned_zero: bool = False

    @property
    def bits(self) -> int:
        """All bits, with the sign."""
        return 1 + self.exponent + self.mantissa

    @property
    def nan(self) -> int:
        """The code of NaN."""
        if self.unsigned_zero:
            return 1 << (self.bits - 1)
        top = (1 << (self.exponent + self.mantissa)) - 1
        return top if self.finite else top - (1 << (self.mantissa - 1)) + 1

    @property
    def overflow(self) -> int:
        """The code of the smallest magnitude that is too large: infinity where there is one."""
        top = (1 << (self.exponent + self.mantissa)) - 1
        if self.unsigned_zero:
            return top + 1
        return top if self.finite else top - (1 << self.mantissa) + 1


FORMATS = {
    "float8_e4m3fn": Format(4, 3, 7, finite=True),
    "float8_e4m3fnuz": Format(4, 3, 8, finite=True, unsigned_zero=True),
    "float8_e5m2": Format(5, 2, 15),
    "float8_e5m2fnuz": Format(5, 2, 16, finite=True, unsigned_zero=True),
}
NARROW = ("float16", "bfloat16", *FORMATS)


def memory_dtype(dtype: str) -> str:
    """How a dtype lies in a kernel's buffers: bool and float8 as bytes, bfloat16 as uint16."""
    return "uint16" if dtype == "bfloat16" else "uint8" if dtype == "bool" or dtype in FORMATS else dtype


def computed_dtype(dtype: str) -> str:
    """The dtype in which values of ``dtype`` are computed."""
    return "float32" if dtype in NARROW else dtype


def _word(value: int) -> Expr:
    return tirx.const(value, "uint32")


def _bits(value: Expr) -> Expr:
    return tirx.reinterpret("uint32", value)


def let(value: Expr, use: Callable[[Expr], Expr]) -> Expr:
    """``use`` of a value that is computed once: expressions are trees, and TVM's passes walk every branch."""
    var = tirx.Var("v", dtype_of(value))
    return nodes.Let(var, value, use(var))


def decode(stored: Expr, dtype: str) -> Expr:
    """A value in memory as it is computed with."""
    if dtype == "bool":
        return nodes.NE(stored, tirx.const(0, "uint8"))
    if dtype == "float16":
        return nodes.Cast("float32", stored)
    if dtype == "bfloat16":
        return tirx.reinterpret("float32", nodes.Cast("uint32", stored) << _word(16))
    return _decode8(stored, FORMATS[dtype]) if dtype in FORMATS else stored


def _decode8(stored: Expr, form: Format) -> Expr:
    """``stored`` should be a plain load: it is used several times."""
    code = nodes.Cast("uint32", stored)
    top = _word((1 << (form.bits - 1)) - 1)
    sign = (code >> _word(form.bits - 1)) << _word(31)
    # the code read as a float32 is off by a power of two; multiplying by it is exact, subnormals included
    scale = tirx.const(2.0 ** (127 - form.bias), "float32")
    bits = _bits(tirx.reinterpret("float32", (code & top) << _word(23 - form.mantissa)) * scale)
    if form.unsigned_zero:
        bits = nodes.Select(nodes.EQ(code, _word(form.nan)), _word(0x7FC00000), bits | sign)
    elif form.finite:
        bits = nodes.Select(nodes.EQ(code & top, _word(form.nan)), _word(0x7FC00000), bits) | sign
    else:
        special = _word(0x7F800000) | ((code & top) << _word(23 - form.mantissa))
        bits = nodes.Select((code & top) >= _word(form.overflow), special, bits) | sign
    return tirx.reinterpret("float32", bits)


def encode(value: Expr, dtype: str) -> Expr:
    """A computed value as memory keeps it; float8 takes `encode8`, which needs statements."""
    if dtype == "bool":
        return nodes.Cast("uint8", value)
    if dtype == "float16":
        return nodes.Cast("float16", value)
    return nodes.Cast("uint16", let(_bits(value), _encode16)) if dtype == "bfloat16" else value


def _encode16(bits: Expr) -> Expr:
    nan = (bits & _word(0x7FFFFFFF)) > _word(0x7F800000)
    rounded = (bits + (_word(0x7FFF) + ((bits >> _word(16)) & _word(1)))) >> _word(16)
    return nodes.Select(nan, (bits >> _word(16)) | _word(0x40), rounded)


def encode8(value: Expr, dtype: str, keep: Callable[[Expr], Expr]) -> Expr:
    """A float32 as a code of ``dtype``.

    ``keep`` stores a uint32 in scratch memory and returns the load: every intermediate is used several times,
    and TVM substitutes variables back into trees that grow exponentially.
    """
    form = FORMATS[dtype]
    bits = keep(_bits(value))
    magnitude = bits & _word(0x7FFFFFFF)
    drop = 23 - form.mantissa
    odd = (magnitude >> _word(drop)) & _word(1)
    normal = (magnitude + (odd + _word((1 << (drop - 1)) - 1))) >> _word(drop)
    # below the smallest normal number: adding a constant whose last bit is the format's last bit rounds there
    magic = tirx.const(2.0 ** (1 - form.bias - form.mantissa + 23), "float32")
    subnormal = _bits(tirx.reinterpret("float32", magnitude) + magic) - _bits(magic)
    smallest = _word((127 + 1 - form.bias) << 23)
    rebiased = normal - _word((127 - form.bias) << form.mantissa)
    code = keep(nodes.Select(magnitude < smallest, subnormal, rebiased))
    over = _word(form.nan if form.finite else form.overflow)
    code = keep(nodes.Select(code >= _word(form.overflow), over, code))
    code = keep(nodes.Select(magnitude > _word(0x7F800000), _word(form.nan), code))
    signed = code | ((bits >> _word(31)) << _word(form.bits - 1))
    return nodes.Cast("uint8", nodes.Select(nodes.EQ(code, _word(0)), code, signed) if form.unsigned_zero else signed)


def rounded(value: Expr, dtype: str) -> Expr:
    """``value``, computed in float32, after a trip through float16 or bfloat16."""
    return decode(encode(value, dtype), dtype)
