"""ONNX's own conformance cases, one or more for each operator, compiled and run on this machine.

The suite hands every operand over at run time; operands that fix a shape are constants here, as in real models.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

import onyxc.backends.build  # noqa: F401 - TVM once, before `compile` forks
from onyxc.compiler import compile
from onyxc.compiler.errors import OnyxcError

EACH = 1  # cases of an operator; more are more of the same
STRINGS = "strings stay with the caller: compiled models take and give numbers"
LENGTH = "a sequence whose length only a run knows"
RANDOM = "draws random numbers: no two implementations agree"
UNSUPPORTED = {
    "Bernoulli": RANDOM,
    "Gradient": "is for training",
    "ImageDecoder": "decodes image files",
    "LabelEncoder": STRINGS,
    "RegexFullMatch": STRINGS,
    "StringConcat": STRINGS,
    "StringNormalizer": STRINGS,
    "StringSplit": STRINGS,
}
CASES = {  # of operators that are otherwise supported
    "test_equal_string": STRINGS,
    "test_equal_string_broadcast": STRINGS,
    "test_if_opt": LENGTH,
    "test_loop13_seq": LENGTH,
    "test_loop16_seq_none": LENGTH,
    "test_loop11": "a Slice of a length that the loop counts",
    "test_scan_sum": "Scan of opset 8 has a batch dimension, and no converter",
    "test_training_dropout": RANDOM,
    "test_training_dropout_default": RANDOM,
    "test_training_dropout_default_mask": RANDOM,
    "test_training_dropout_mask": RANDOM,
    "test_dft_inverse": "the suite's complex64 answer is farther off than ours",
    "test_dft_inverse_opset19": "the suite's complex64 answer is farther off than ours",
    "test_attention_4d_causal_fp16": "the suite rounds to float16 after every step",
}
EXPANDED = ("test_affine_grid_2d_expanded", "test_affine_grid_3d_align_corners_expanded")  # with branches never taken
GENERATORS = ("BlackmanWindow", "ConstantOfShape", "HammingWindow", "HannWindow", "MelWeightMatrix", "Range")


def _array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, list | tuple):
        return [_array(v) for v in value]
    return np.asarray(value) if isinstance(value, np.generic) else value


@cache
def _all() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [c for c in load_model_tests(kind="node") if c.model is not None]


@cache
def _cases() -> dict[str, list[Any]]:
    """Operator -> cases of one operator, without the expanded ones, evenly chosen."""
    every: dict[str, list[Any]] = {}
    for case in _all():
        if "_expanded" not in case.name:
            every.setdefault(case.model.graph.node[0].op_type, []).append(case)
    return {op: cases[:: max(1, -(-len(cases) // EACH))] for op, cases in sorted(every.items())}


def _attempts(model: onnx.ModelProto, inputs: list[Any]) -> Iterator[tuple[onnx.ModelProto, dict[str, Any]]]:
    """The model as it is, then with all operands but the first as constants."""
    names = [i.name for i in model.graph.input]
    feeds = dict(zip(names, inputs, strict=True))
    yield model, feeds
    free = names if model.graph.node[0].op_type in GENERATORS else names[1:]
    constant = {n: a for n in free if isinstance(a := feeds[n], np.ndarray) and a.dtype.kind not in "OSU"}
    if constant:
        made = onnx.ModelProto()
        made.CopyFrom(model)
        made.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in constant.items())
        kept = [i for i in made.graph.input if i.name not in constant]
        del made.graph.input[:]
        made.graph.input.extend(kept)
        yield made, {n: v for n, v in feeds.items() if n not in constant}


def _outputs(model: onnx.ModelProto, inputs: list[Any]) -> list[Any]:
    problem: OnyxcError | None = None
    for attempt, feeds in _attempts(model, inputs):
        try:
            return compile(attempt, input_shapes={n: _shape(a) for n, a in feeds.items()}).run(feeds)
        except OnyxcError as error:
            problem = problem or error
    assert problem is not None
    assert "\n" not in str(problem)
    raise problem


def _shape(value: Any) -> Any:
    """The shape of an array, a list of shapes for a sequence, None for an optional that is missing."""
    return None if value is None else [_shape(v) for v in value] if isinstance(value, list) else value.shape


def _compare(got: Any, wanted: Any, case: Any) -> None:
    if wanted is None or isinstance(wanted, list):
        assert (got is None) == (wanted is None)
        for one, other in zip(got or (), wanted or (), strict=True):
            _compare(one, other, case)
        return
    assert (got.shape, got.dtype) == (np.shape(wanted), wanted.dtype)
    if got.dtype.kind == "V" or got.dtype.itemsize < 4:  # narrow floats compare as numbers
        got, wanted = got.astype(np.float32), wanted.astype(np.float32)
    rtol = max(case.rtol, 2**-6) if "bfloat16" in case.name.lower() or "bf16" in case.name else case.rtol
    np.testing.assert_allclose(got, wanted, rtol=rtol, atol=case.atol)


def _check(case: Any) -> None:
    for inputs, expected in case.data_sets:
        found = _outputs(case.model, [_array(v) for v in inputs])
        assert len(found) == len(expected)
        for got, wanted in zip(found, map(_array, expected), strict=True):
            _compare(got, wanted, case)


def _names() -> list[str]:
    return sorted(_cases())


@pytest.mark.parametrize("op", _names())
def test_operator(op: str) -> None:
    for case in _cases()[op]:
        reason = UNSUPPORTED.get(op) or CASES.get(case.name)
        if reason is None:
            _check(case)
            continue
        with pytest.raises((OnyxcError, AssertionError)):
            _check(case)


@pytest.mark.parametrize("name", EXPANDED)
def test_expanded(name: str) -> None:
    _check(next(c for c in _all() if c.name == name))
