"""A template that takes more accumulators than fit: its kernel is planned again, and the artifact says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from onyxc.backends import replan
from onyxc.backends.artifact import manifest
from onyxc.backends.cpu import convolution_plan
from onyxc.backends.cpu.convolution_plan import ConvPlan
from onyxc.backends.target import Target, get
from onyxc.compiler import driver
from onyxc.compiler.engines import OnnxRuntime

TARGET = replace(get("x86-64-v3"), exact=True)
TEXT = """
<ir_version: 10, opset_import: ["" : 20]> g (float[1,24,9,14] x) => (float[1,32,9,14] y)
{ a = Conv<pads=[1,1,1,1]>(x, w, b) y = Relu(a) }
"""


@pytest.fixture
def model() -> onnx.ModelProto:
    made = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for name, shape in (("w", (32, 24, 3, 3)), ("b", (32,))):
        made.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(shape).astype("f4"), name))
    return made


@pytest.fixture
def greedy(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """``greedy(n)``: convolutions take n times 2 accumulators more than the registers hold."""
    honest = convolution_plan.choose_blocks

    def choose(extra: int) -> Callable[..., tuple[int, int]]:
        def blocks(*arguments: Any, **named: Any) -> tuple[int, int]:
            (target,) = (a for a in arguments if isinstance(a, Target))
            if target.registers > 12:
                return 2, 6 + extra
            return honest(*arguments, **named)

        return blocks

    return lambda extra: monkeypatch.setattr(convolution_plan, "choose_blocks", choose(extra))


def run(model: onnx.ModelProto, artifact: driver.Artifact) -> None:
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 24, 9, 14)).astype("f4")}
    if get("host").name.startswith(("x86-64-v3", "x86-64-v4")):
        np.testing.assert_allclose(artifact.run(feeds)[0], OnnxRuntime(model)(feeds)[0], rtol=1e-4, atol=1e-4)


def test_nothing_is_planned_again_without_need(model: onnx.ModelProto) -> None:
    artifact = driver.compile(model, target=TARGET, exact=True)
    assert manifest.read(artifact.folder).levels[0].notes == ()


def test_a_spilled_tile_is_planned_again(model: onnx.ModelProto, greedy: Callable[[int], None], tmp_path: Path) -> None:
    greedy(8)
    artifacts = [driver.compile(model, target=TARGET, exact=True, out=tmp_path / name) for name in "ab"]
    (note,) = manifest.read(artifacts[0].folder).levels[0].notes
    assert "planned for 12 of 16 registers" in note
    assert "in sums" not in note
    run(model, artifacts[0])
    for path in artifacts[0].folder.iterdir():
        assert path.read_bytes() == (artifacts[1].folder / path.name).read_bytes(), path.name


def test_if_no_plan_fits_the_first_stays(
    model: onnx.ModelProto, greedy: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    greedy(8)
    monkeypatch.setattr(replan, "EIGHTHS", (7,))  # 14 registers: the greedy plan does not change
    artifact = driver.compile(model, target=TARGET, exact=True)
    (note,) = manifest.read(artifact.folder).levels[0].notes
    assert note.startswith("conv_add_relu: ")
    assert "moves to or from the stack in sums" in note
    assert "planned" not in note
    run(model, artifact)


def test_plans_differ_by_registers() -> None:
    """What `replan` relies on: fewer registers, smaller tiles."""

    def accumulators(plan: ConvPlan) -> int:
        return max(len(p.lanes) for p in plan.panels) * max(t.width for t in plan.tiles)

    from onyxc.backends.cpu.shapes import ConvShape, dense_strides

    shape = ConvShape(
        1, 64, 64, 1, (28, 28), (28, 28), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), dense_strides(28, 28, 64),
        dense_strides(28, 28, 64)[:3],
    )  # fmt: skip
    for level in ("x86-64-v3", "x86-64-v4", "aarch64"):
        target = get(level)
        sizes = [
            accumulators(convolution_plan.plan(shape, replace(target, registers=target.registers * e // 8)))
            for e in (8, *replan.EIGHTHS)
        ]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[-1] < sizes[0]
