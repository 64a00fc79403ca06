"""When two results of one model count as equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onyxc.compiler.compare import difference, relative_error

RAMP = np.linspace(-1, 1, 2001, dtype=np.float32)


@pytest.mark.parametrize(
    ("wanted", "got", "ok"),
    [
        (RAMP, RAMP, True),
        (RAMP, RAMP + np.float32(1e-4), True),
        (RAMP, RAMP + np.float32(3e-4), False),
        (RAMP.astype(np.float64), RAMP + 1e-6, False),
        (RAMP.astype(np.float16), RAMP.astype(np.float16) + np.float16(5e-3), True),
        (RAMP, RAMP.astype(np.float64), False),  # another dtype
        (RAMP, RAMP[:, None], False),  # another shape
        (np.zeros((0, 3)), np.zeros((0, 3)), True),
        (np.float32([np.nan, np.inf, 1]), np.float32([np.nan, np.inf, 1]), True),
        (np.float32([np.nan, 1]), np.float32([0, 1]), False),
        (np.float32([np.inf, 1]), np.float32([-np.inf, 1]), False),
        (np.float32([1]), np.float32([1.00005]), True),  # a single number counts by its size
        (np.float32([1]), np.float32([1.01]), False),
        (np.full(9, 100, np.float32), np.full(9, 100.00001, np.float32), True),  # so does a constant
        (np.int64([1, 2]), np.int64([1, 3]), False),
        (np.array([True, False]), np.array([True, True]), False),
        (np.arange(256).astype(np.uint8), np.arange(256).astype(np.uint8) ^ np.uint8(1), True),  # one step of 8 bits
        (np.arange(256).astype(np.uint8), np.arange(256).astype(np.uint8) ^ np.uint8(2), False),
        (np.array(["a", "b"], object), np.array(["a", "b"], object), True),
        (np.array(["a", "b"], object), np.array(["a", "c"], object), False),
        (np.array([1 + 1j]), np.array([1 + 1j]), True),
        (np.array([1 + 1j]), np.array([1 - 1j]), False),
    ],
)
def test_difference(wanted: Any, got: Any, ok: bool) -> None:
    found = difference("x", wanted, got)
    assert found.ok is ok
    assert found.as_dict()["name"] == "x"


def test_quantized_models_may_be_one_step_off() -> None:
    step = np.float32(2 / 256)
    assert difference("x", RAMP, RAMP + step, quantized=True).ok
    assert not difference("x", RAMP, RAMP + 4 * step, quantized=True).ok
    some = RAMP.copy()
    some[:2] += 4 * step  # 0.1 %
    assert difference("x", RAMP, some, quantized=True).ok


def test_outputs_that_are_no_tensors() -> None:
    assert relative_error([RAMP, RAMP], [RAMP, RAMP + np.float32(0.5)]) == pytest.approx(0.25)
    assert relative_error(None, None) == 0
    assert relative_error([RAMP], [RAMP, RAMP]) == np.inf
    assert relative_error(None, RAMP) == np.inf
    assert relative_error(np.float32([np.inf]), np.float32([1])) == np.inf
