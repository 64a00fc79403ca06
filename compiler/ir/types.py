"""Types of values: frozen, hashable, compared by content."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import ml_dtypes
import numpy as np

Dim = int | str  # a str is a symbolic dimension, equal by name

# numpy spelling -> ONNX TensorProto.DataType (ONNX spec, onnx.proto)
ONNX_CODES: dict[str, int] = {
    "float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "string": 8,
    "bool": 9, "float16": 10, "float64": 11, "uint32": 12, "uint64": 13, "complex64": 14, "complex128": 15,
    "bfloat16": 16, "float8_e4m3fn": 17, "float8_e4m3fnuz": 18, "float8_e5m2": 19, "float8_e5m2fnuz": 20,
    "uint4": 21, "int4": 22, "float4_e2m1fn": 23, "float8_e8m0fnu": 24, "uint2": 25, "int2": 26,
}  # fmt: skip
DTYPES: dict[int, str] = {code: name for name, code in ONNX_CODES.items()}

_SHORT = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u"}


def numpy_dtype(dtype: str) -> np.dtype:
    """The numpy dtype of ``dtype``; narrow floats and integers are those of ml_dtypes, strings are objects."""
    if dtype == "string":
        return np.dtype(object)
    return np.dtype(getattr(ml_dtypes, dtype)) if hasattr(ml_dtypes, dtype) else np.dtype(dtype)


def itemsize(dtype: str) -> int:
    """Bytes of one element in memory; sub-byte types take a byte each."""
    return numpy_dtype(dtype).itemsize


def is_float(dtype: str) -> bool:
    """Whether ``dtype`` is a floating-point type of any width."""
    return dtype.startswith(("float", "bfloat"))


def is_integer(dtype: str) -> bool:
    """Whether ``dtype`` is a signed or unsigned integer type."""
    return dtype.startswith(("int", "uint"))


@dataclass(frozen=True, slots=True)
class TensorType:
    """A dense tensor. ``shape`` is None when even the rank is unknown."""

    dtype: str
    shape: tuple[Dim, ...] | None = None

    @property
    def is_static(self) -> bool:
        """Whether every dimension is a number."""
        return self.shape is not None and all(isinstance(d, int) for d in self.shape)

    @property
    def dims(self) -> tuple[int, ...]:
        """The static shape.

        Raises:
            ValueError: a dimension is unknown.
        """
        if not self.is_static:
            raise ValueError(f"shape of {self} is not static")
        return tuple(d for d in self.shape or () if isinstance(d, int))

    @property
    def rank(self) -> int:
        """Number of dimensions.

        Raises:
            ValueError: the rank is unknown.
        """
        if self.shape is None:
            raise ValueError("the rank is unknown")
        return len(self.shape)

    @property
    def elements(self) -> int:
        """Number of elements of a static shape."""
        return prod(self.dims)

    @property
    def nbytes(self) -> int:
        """Bytes of a static tensor in memory."""
        return self.elements * itemsize(self.dtype)

    def __str__(self) -> str:
        short = self.dtype
        for long, letter in sorted(_SHORT.items(), key=lambda p: -len(p[0])):
            if self.dtype.startswith(long) and self.dtype[len(long) :].isdigit():
                short = letter + self.dtype[len(long) :]
                break
        return f"{short}[{'?' if self.shape is None else ', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class SequenceType:
    """A list of values of one type (ONNX Sequence)."""

    element: Type

    def __str__(self) -> str:
        return f"seq({self.element})"


@dataclass(frozen=True, slots=True)
class OptionalType:
    """A value that may be missing (ONNX Optional)."""

    element: Type

    def __str__(self) -> str:
        return f"optional({self.element})"


Type = TensorType | SequenceType | OptionalType
