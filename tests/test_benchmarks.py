"""The benchmark scripts run and print their tables; what they measure is not judged here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import onnx.parser
import pytest

from onyxc.compiler.loader import load

FOLDER = Path(__file__).parent.parent / "benchmarks"
TEXT = """<ir_version: 8, opset_import: ["" : 17]> net (float[1,3,8,8] x) => (float[1,4,4,4] y)
    <float[4,3,3,3] w = {WEIGHTS}> {
        c = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w) y = Relu (c) }"""
MODEL = TEXT.replace("WEIGHTS", ",".join(["0.5"] * 108))


@pytest.fixture
def net(tmp_path: Path) -> Path:
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, str(FOLDER / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_peak() -> None:
    text = run("peak.py", "--target", "x86-64-v2")
    assert "GFLOP/s float32" in text
    assert "GB/s from 256 MiB" in text


def test_convolutions(net: Path) -> None:
    text = run("convolutions.py", net, "--runs", 2)
    assert "1x3x8x8 * 4x3x3x3 -> 1x4x4x4" in text
    assert "all convolutions of net: " in text


def test_padding_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    import convolutions

    found = convolutions.shares_inside(load(onnx.parser.parse_model(MODEL)))
    share = pytest.approx((11 / 12) ** 2)
    assert found == {"1x8x8x3 * 4x3x3x3 -> 1x4x4x4": share, "1x3x8x8 * 4x3x3x3 -> 1x4x4x4": share}


def test_models(net: Path) -> None:
    text = run("models.py", net, "--no-light", "--seconds", 0)
    assert "geometric mean" in text
    assert text.splitlines()[2].split()[0] == "net"
