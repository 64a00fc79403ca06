"""Packing weights at run time against packing constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from onyxc.backends.cpu import convolution_plan, depthwise_plan, packing
from onyxc.backends.cpu.shapes import ConvShape, dense_strides
from onyxc.backends.target import get

TARGETS = ["x86-64-v4", "x86-64-v3", "x86-64-v2"]
SHAPE = ConvShape(
    batch=1, in_channels=20, out_channels=70, group=1, in_size=(9, 9), out_size=(7, 7), kernel=(3, 3), strides=(1, 1),
    dilations=(1, 1), pads=(0, 0, 0, 0), x_strides=dense_strides(9, 9, 20), y_strides=dense_strides(7, 7, 70)[:3],
)  # fmt: skip
CASES = {
    "3x3": SHAPE,
    "1x3": replace(SHAPE, kernel=(1, 3), out_size=(9, 7), y_strides=dense_strides(9, 7, 70)[:3]),
    "pointwise": replace(SHAPE, kernel=(1, 1), out_size=(9, 9), y_strides=dense_strides(9, 9, 70)[:3]),
    "groups": replace(SHAPE, group=5),
    "depthwise": replace(SHAPE, group=20, out_channels=20, y_strides=dense_strides(7, 7, 20)[:3]),
}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_as_constants(case: str, name: str, call: Callable[..., None]) -> None:
    shape, target = CASES[case], get(name)
    weights = np.random.default_rng(0).standard_normal((shape.out_channels, shape.group_in, *shape.kernel))
    weights = weights.astype(np.float32)
    if depthwise_plan.fits(shape):
        of_channels = depthwise_plan.plan(shape, target)
        wanted, panels, turned = depthwise_plan.pack(weights, of_channels), of_channels.panels, False
    else:
        plan = convolution_plan.plan(shape, target)
        wanted, panels, turned, shape = convolution_plan.pack(weights, plan), plan.panels, plan.turned, plan.shape
    packed = np.zeros_like(wanted)
    call(packing.emit("pack", shape, panels, turned, target), target, [weights, packed])
    real = wanted != 0  # behind the last channel of a panel anything may stand
    assert np.array_equal(packed[real], wanted[real])


def test_turned(call: Callable[..., None]) -> None:
    """A kernel whose height and width changed places."""
    tall = replace(
        SHAPE, in_size=(40, 1), out_size=(38, 1), kernel=(3, 1), x_strides=dense_strides(40, 1, 20),
        y_strides=dense_strides(38, 1, 70)[:3],
    )  # fmt: skip
    target = get("x86-64-v3")
    plan = convolution_plan.plan(tall, target)
    assert plan.turned
    weights = np.random.default_rng(0).standard_normal((70, 20, 3, 1)).astype(np.float32)
    wanted = convolution_plan.pack(weights, plan)
    packed = np.zeros_like(wanted)
    call(packing.emit("pack", plan.shape, plan.panels, plan.turned, target), target, [weights, packed])
    assert np.array_equal(packed[wanted != 0], wanted[wanted != 0])
