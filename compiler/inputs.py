"""Seeded inputs to run models on, where the user gives none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onyxc.compiler.errors import OptionError
from onyxc.compiler.ir.graph import Array, Graph
from onyxc.compiler.ir.types import TensorType, is_float, numpy_dtype

SYMBOLIC = 2  # the size of symbolic dimensions, all alike
NARROW = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15), "int2": (-2, 1), "uint2": (0, 3)}
LARGEST = 7  # of wider integers, which are often indices


def random_inputs(specs: Sequence[Any], seed: int = 0) -> dict[str, Array]:
    """Arrays for the inputs of an artifact: ``specs`` have a name, a dtype and a shape."""
    rng = np.random.default_rng(seed)
    return {s.name: random_array(rng, np.dtype(s.dtype).name, s.shape) for s in specs}


def graph_inputs(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """Arrays for the inputs of a graph.

    Raises:
        OptionError: an input is not a tensor of known rank.
    """
    rng = np.random.default_rng(seed)
    made: dict[str, Array] = {}
    for value in graph.inputs:
        if not isinstance(value.type, TensorType) or value.type.shape is None:
            raise OptionError(f"input {value.name!r} of type {value.type}: random numbers need a tensor of known rank")
        shape = [d if isinstance(d, int) else SYMBOLIC for d in value.type.shape]
        made[value.name] = random_array(rng, value.dtype, shape)
    return made


def random_array(rng: np.random.Generator, dtype: str, shape: Sequence[int]) -> Array:
    """Normal floats, narrow integers over their whole range, wider ones from 0 to 7, bools, letters."""
    if is_float(dtype):
        return rng.standard_normal(shape).astype(numpy_dtype(dtype))
    if dtype == "string":
        return rng.choice(np.array(list("abc"), object), shape)
    if dtype.startswith("complex"):
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    low, high = NARROW.get(dtype, (0, LARGEST))
    return rng.integers(low, high, shape, endpoint=True).astype(numpy_dtype(dtype))
