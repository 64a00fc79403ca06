"""Imperative operators with a thread a task."""

from __future__ import annotations

from typing import Any

import numpy as np

from onyxc.backends import target
from onyxc.backends.cuda import imperative
from onyxc.backends.cuda.emulator.device import Device
from onyxc.backends.kernels.imperative import Imperative

TARGET = target.get("cuda:sm_80")


def running_total(row: Any, inputs: Any, outputs: Any, e: Any) -> None:
    (x,), (y,) = inputs, outputs
    total = e.var("float32", 0)
    with e.for_(x.shape[1]) as i:
        total.value = total.value + x[row, i]
        y[row, i] = total.value


def positive(task: Any, inputs: Any, outputs: Any, e: Any) -> None:
    """Indices of the positive elements, and how many there are."""
    (x,), (y, count) = inputs, outputs
    found = e.var("int32", 0)
    with e.for_(x.shape[0]) as i, e.if_(x[i] > 0):
        y[found.value] = i
        found.value = found.value + 1
    count[0] = found.value


def test_tasks_are_threads() -> None:
    imp = Imperative([((100, 50), "float32")], 100, running_total)
    kernel = imperative.build("total", [((100, 50), "float32")], imp, TARGET)
    assert kernel.grid[0] * kernel.block[0] >= 100
    x, device = np.random.default_rng(0).random((100, 50), np.float32), Device([kernel])
    places = [device.upload(x), device.upload(np.zeros_like(x))]
    device.launch(kernel, places)
    np.testing.assert_allclose(device.download(places[1], np.empty_like(x)), x.cumsum(1), rtol=1e-6)


def test_one_task() -> None:
    imp = Imperative([((40,), "int64"), ((1,), "int64")], 1, positive)
    kernel = imperative.build("positive", [((40,), "float32")], imp, TARGET)
    x, device = np.random.default_rng(0).normal(size=40).astype(np.float32), Device([kernel])
    places = [device.upload(a) for a in (x, np.zeros(40, np.int64), np.zeros(1, np.int64))]
    device.launch(kernel, places)
    expected = np.flatnonzero(x > 0)
    np.testing.assert_array_equal(device.download(places[2], np.zeros(1, np.int64)), [len(expected)])
    np.testing.assert_array_equal(device.download(places[1], np.zeros(40, np.int64))[: len(expected)], expected)
