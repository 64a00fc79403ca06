"""`onyxc profile` and `onyxc inspect` of artifacts: the same table of steps, with and without times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import onnx.parser
import pytest

from onyxc.backends.artifact import steps
from onyxc.compiler import demo
from onyxc.compiler.cli import main

MODEL = Path(demo.__file__).parent / "digits.onnx"

LOOP = """<ir_version: 8, opset_import: ["" : 17]> loop (float[4,4] x, int64 trips, bool go) => (float[4,4] y) {
    y = Loop (trips, go, x) <body = turn (int64 i, bool c, float[4,4] a) => (bool d, float[4,4] b) {
        d = Identity (c) s = MatMul (a, a) b = Tanh (s) }> }"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "digits"
    assert main(["compile", str(MODEL), "-o", str(folder), "--input-dim", "batch=2"]) == 0
    return folder


def output(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_every_step_is_timed(capsys: pytest.CaptureFixture[str], digits: Path, tmp_path: Path) -> None:
    files = ("--json", tmp_path / "p.json", "--svg", tmp_path / "p.svg")
    text = output(capsys, "profile", digits, "--runs", "3", "--threads", "2", *files)
    assert ElementTree.parse(tmp_path / "p.svg").getroot().tag.endswith("svg")
    found = json.loads((tmp_path / "p.json").read_text())
    (table,) = steps.read(digits).values()
    assert [(r["kernel"], r["flops"], r["bytes"]) for r in found["steps"]] == [(s.kernel, s.flops, s.bytes) for s in table]
    assert all(r["calls"] == 1 for r in found["steps"])
    assert found["steps_us"] == pytest.approx(sum(r["us"] for r in found["steps"]))
    assert found["flops"] == sum(s.flops for s in table)
    assert (found["runs"], found["threads"]) == (3, 2)
    lines = text.splitlines()
    assert lines[0].split()[:5] == ["step", "operators", "first", "node", "shape"]
    assert [int(line.split()[0]) for line in lines[1 : 1 + len(table)] if line[:4].strip()] == list(range(len(table)))
    assert any(line.startswith("run ") and "median of 3 runs, 2 threads" in line for line in lines)
    assert any(line.startswith("machine ") and "float32" in line for line in lines)


def test_inspect_shows_the_same_steps(capsys: pytest.CaptureFixture[str], digits: Path) -> None:
    inspected = json.loads(output(capsys, "inspect", digits, "--json", "-"))
    profiled = json.loads(output(capsys, "profile", digits, "--runs", "1", "--json", "-"))
    (table,) = inspected["steps"].values()
    assert list(inspected["steps"]) == [profiled["target"]]
    assert [{k: r[k] for k in s} for r, s in zip(profiled["steps"], table, strict=True)] == table
    operations = sum(s["flops"] for s in table)
    model = json.loads(output(capsys, "inspect", MODEL, "--json", "-"))
    assert operations > model["flops"]  # which counts products only, where shapes are known
    text = output(capsys, "inspect", digits)
    assert "steps of a run\n" in text
    assert "Conv+Add+Relu" in text
    assert "fold-batch-norm" in text


def test_a_loop(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(LOOP), tmp_path / "loop.onnx")
    output(capsys, "compile", tmp_path / "loop.onnx", "-o", tmp_path / "loop")
    values: dict[str, Any] = {"trips": np.int64(7), "go": np.array(True)}
    for name, value in values.items():
        np.save(tmp_path / f"{name}.npy", value)
    given = [f"--input={name}={tmp_path / name}.npy" for name in values]
    found = json.loads(output(capsys, "profile", tmp_path / "loop", "--runs", "2", "--json", "-", *given))
    assert {r["calls"] for r in found["steps"] if r["nodes"] and r["nodes"][0].startswith("MatMul")} == {7}
    assert found["flops"] >= 7 * 2 * 4**3
    assert "7 x MatMul" in output(capsys, "profile", tmp_path / "loop", "--runs", "2", *given)


def test_several_levels_have_a_table_each(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    targets = "x86-64-v3,x86-64-v2"
    output(capsys, "compile", MODEL, "-o", tmp_path / "two", "--input-dim", "batch=1", "--target", targets)
    assert list(steps.read(tmp_path / "two")) == sorted(targets.split(","))
    text = output(capsys, "inspect", tmp_path / "two")
    assert "steps of a run on x86-64-v3" in text
    assert "steps of a run on x86-64-v2" in text


def test_cuda_is_refused(capsys: pytest.CaptureFixture[str], digits: Path, tmp_path: Path) -> None:
    text = (digits / "manifest.json").read_text()
    found = json.loads(text)
    (tmp_path / "manifest.json").write_text(json.dumps({**found, "target": "cuda:sm_80"}))
    assert main(["profile", str(tmp_path)]) == 1
    assert "nsys" in capsys.readouterr().err
