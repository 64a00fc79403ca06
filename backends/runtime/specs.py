"""Tensors at the artifact's border: numpy dtypes, and feeds checked against what the model takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onyxc.backends.artifact.manifest import Tensor
from onyxc.compiler.errors import InputError, ModelError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Spec:
    """An input or output of a model; if ``dynamic``, ``shape`` is a bound."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    dynamic: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]{' at most' * self.dynamic}"


def specs(tensors: Sequence[Tensor]) -> tuple[Spec, ...]:
    """The manifest's tensors with numpy dtypes."""
    return tuple(Spec(t.name, numpy_dtype(t.dtype), t.shape, t.dynamic) for t in tensors)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The dtype called ``name``; ml_dtypes is imported only for the types that numpy lacks."""
    try:
        return np.dtype(name)
    except TypeError:
        try:
            import ml_dtypes
        except ImportError:
            raise ModelError(f"dtype {name} needs the package ml_dtypes: pip install ml_dtypes") from None
        if not hasattr(ml_dtypes, name):
            raise ModelError(f"unknown dtype {name!r}: upgrade onyxc or ml_dtypes") from None
        narrow: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return narrow


def checked(inputs: Sequence[Spec], feeds: Mapping[str, Any]) -> list[Array]:
    """``feeds`` as contiguous arrays in the order of ``inputs``.

    Raises:
        InputError: a name is unknown or missing, or a dtype or shape does not fit.
    """
    names = [s.name for s in inputs]
    wrong = [n for n in feeds if n not in names]
    missing = [n for n in names if n not in feeds]
    if wrong or missing:
        parts = [f"no input is called {wrong[0]!r}"] if wrong else []
        parts += [f"input {missing[0]!r} is missing"] if missing else []
        raise InputError(f"{' and '.join(parts)}; the model takes {', '.join(map(str, inputs)) or 'nothing'}")
    return [_checked(spec, feeds[spec.name]) for spec in inputs]


def _checked(spec: Spec, value: Any) -> Array:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"input {spec.name!r} is not an array: {error}") from None
    if array.dtype != spec.dtype:
        raise InputError(f"input {spec.name!r} has dtype {array.dtype}; the model takes {spec.dtype}")
    if array.shape != spec.shape:
        raise InputError(f"input {spec.name!r} has shape {list(array.shape)}; the model takes {list(spec.shape)}")
    return np.asarray(array, order="C")
