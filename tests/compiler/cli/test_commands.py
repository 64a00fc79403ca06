"""Every command of `onyxc`, with its options and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import onnx.parser
import pytest

from onyxc.backends import runtime, target
from onyxc.compiler import bench, demo, driver, verification, worker
from onyxc.compiler.cli import main
from onyxc.compiler.cli.app import app

MODEL = Path(demo.__file__).parent / "digits.onnx"
COMMANDS = ("compile", "optimize", "run", "verify", "bench", "profile", "inspect", "show", "passes", "targets", "demo")


class Result:
    """What a command printed, its exit code being the expected one."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> None:
        capsys.readouterr()
        found = main([str(a) for a in arguments])
        self.out, self.err = capsys.readouterr()
        assert found == code, self.err


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "digits"
    assert main(["compile", str(MODEL), "-o", str(folder), "--input-dim", "batch=2"]) == 0
    return folder


@pytest.fixture
def plus(tmp_path: Path) -> Path:
    """y = x + z * sr, with names and shapes as exporters make them."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[n,3] "input_1:0", float[n,3] z, float sr) => (float[n,3] file) {
            a = Mul (z, sr)
            file = Add ("input_1:0", a)
        }""".replace('"input_1:0"', "input_1__0")
    model = onnx.parser.parse_model(text)
    model.graph.input[0].name = model.graph.node[1].input[0] = "input_1:0"
    onnx.save(model, tmp_path / "plus.onnx")
    return tmp_path / "plus.onnx"


# ---- usage


def test_no_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    text = Result(capsys, code=2)
    assert all(command in text.out + text.err for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert f"onyxc {command}" in Result(capsys, command, "--help").out


def test_the_commands_are_all(capsys: pytest.CaptureFixture[str]) -> None:
    Result(capsys, "--help")
    assert sorted(c.name or c.callback.__name__ for c in app.registered_commands if c.callback) == sorted(COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["compile"],
        ["compile", "m.onnx"],
        ["compile", "m.onnx", "-o", "out", "-O7"],
        ["compile", "m.onnx", "-o", "out", "-Oall"],
        ["compile", "m.onnx", "-o", "out", "--library", "both"],
        ["compile", "m.onnx", "-o", "out", "--no-such-option"],
        ["optimize", "m.onnx", "-o", "out.onnx", "--prune", "1.5"],
        ["run"],
        ["run", "out", "--threads", "0"],
        ["verify", "m.onnx"],
        ["bench", "out", "--against", "onnxruntime"],
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    text = Result(capsys, *arguments, code=2)
    assert "Error: " in text.err
    assert "Traceback" not in text.err


def test_our_fault(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(driver.PassManager, "run", broken)  # in the worker process
    for arguments in (["compile", MODEL, "-o", tmp_path / "out", "--input-dim", "batch=1"], ["show", MODEL]):
        text = Result(capsys, *arguments, code=3)
        assert "RuntimeError: a bug" in text.err
        assert text.err.endswith("our fault; please report it with the model\n")
    assert list(tmp_path.iterdir()) == []


# ---- compile, run


@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2", "-O3"])
def test_levels(capsys: pytest.CaptureFixture[str], tmp_path: Path, plus: Path, level: str) -> None:
    shapes = ("--input-shape", "input_1:0:2,3", "--input-shape", "sr:")
    Result(capsys, "compile", plus, "-o", tmp_path / "out", level, *shapes, "--json", tmp_path / "p.json")
    x = np.ones((2, 3), np.float32)
    (y,) = runtime.load(tmp_path / "out").run({"input_1:0": x, "z": 2 * x, "sr": np.float32(3)})
    np.testing.assert_array_equal(y, 7 * x)
    passes = json.loads((tmp_path / "p.json").read_text())
    assert {"pass", "seconds", "counts", "before", "after"} == set(passes[0])


def test_input_value(capsys: pytest.CaptureFixture[str], tmp_path: Path, plus: Path) -> None:
    options = ("--input-dim", "n=2", "--input-value", "sr=3")
    text = Result(capsys, "compile", plus, "-o", tmp_path / "out", *options)
    assert str(tmp_path / "out") in text.out
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    feeds = [f"--input={n}={tmp_path / 'x.npy'}" for n in ("input_1:0", "z")]
    text = Result(capsys, "run", tmp_path / "out", *feeds, "-o", tmp_path / "y.npz", "--threads", "2")
    assert "float32[2, 3]" in text.out
    np.testing.assert_array_equal(np.load(tmp_path / "y.npz")["file"], np.full((2, 3), 4))
    Result(capsys, "verify", plus, tmp_path / "out", *feeds)
    Result(capsys, "verify", plus, tmp_path / "out", "--every-tensor")
    Result(capsys, "bench", tmp_path / "out", "--model", plus, "--against", "onnxruntime", "--seconds", "0")


def test_static_library_with_weights_beside(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ("--library", "static", "--weights", "beside", "--input-dim", "batch=1", "--target", "x86-64-v2")
    Result(capsys, "compile", MODEL, "-o", tmp_path / "out", *options)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"libdigits.a", "digits.h", "weights.bin", "manifest.json", "steps.json", "run"}
    assert "static archive" in Result(capsys, "run", tmp_path / "out", code=1).err


def test_an_artifact_is_replaced(capsys: pytest.CaptureFixture[str], tmp_path: Path, plus: Path) -> None:
    for shape in ("1", "2"):
        Result(capsys, "compile", plus, "-o", tmp_path / "out", "--input-dim", f"n={shape}")
    assert runtime.load(tmp_path / "out").outputs[0].shape == (2, 3)
    assert {p.name for p in tmp_path.iterdir()} == {"plus.onnx", "out"}


# ---- optimize


def test_optimize(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    options = ("--prune", "0.5", "--cluster", "4bit", "--input-dim", "batch=1")
    text = Result(capsys, "optimize", MODEL, "-o", out, *options, "--check", "10")
    assert "magnitude-pruning" in text.out
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    weights = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer if len(t.dims) > 1]
    assert all(len(np.unique(w)) <= 16 for w in weights)
    assert sum((w == 0).sum() for w in weights) >= sum(w.size for w in weights) // 2
    data = np.load(MODEL.with_name("digits.npz"))
    session = verification.OnnxRuntime(model)
    scores = [session({"image": i[None].astype(np.float32) / 16})[0].argmax() for i in data["x"]]
    assert (np.array(scores) == data["y"]).mean() > 0.9


def test_pipeline(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('[[pass]]\nname = "fold-batch-norm"\n[[pass]]\nname = "nm-pruning"\nn = 1\n')
    arguments = ("optimize", MODEL, "-o", tmp_path / "o.onnx", "--pipeline", tmp_path / "p.toml", "--json", "-")
    records = json.loads(Result(capsys, *arguments).out)
    assert [r["pass"] for r in records] == ["fold-batch-norm", "nm-pruning{n=1}"]
    pipeline = ("--pipeline", tmp_path / "p.toml", "--input-dim", "batch=1")
    Result(capsys, "compile", MODEL, "-o", tmp_path / "out", *pipeline)
    Result(capsys, "verify", tmp_path / "o.onnx", tmp_path / "out")
    text = Result(capsys, "verify", MODEL, tmp_path / "out", code=1)
    assert "the first that differs is 'logits'" in text.out


def test_check_names_the_pass(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ("--prune", "0.9", "--check", "1e-3")
    text = Result(capsys, "optimize", MODEL, "-o", tmp_path / "o.onnx", *options, code=1)
    assert "magnitude-pruning" in text.err
    assert list(tmp_path.iterdir()) == []


# ---- verify, bench


def test_verify(capsys: pytest.CaptureFixture[str], digits: Path) -> None:
    assert "3 of 3 tensors agree" in Result(capsys, "verify", MODEL, digits, "--seeds", "3").out
    rows = json.loads(Result(capsys, "verify", MODEL, digits, "--json", "-").out)
    assert rows[0]["name"] == "logits"
    assert rows[0]["ok"]
    assert rows[0]["cosine"] == pytest.approx(1)


def test_every_tensor(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[2,3] x) => (float[2,3] e) {
        a = Neg (x) b = Exp (a) c = Sin (b) d = Add (c, x) e = Mul (d, d) }"""
    model, folder = tmp_path / "chain.onnx", tmp_path / "chain"
    onnx.save(onnx.parser.parse_model(text), model)
    Result(capsys, "compile", model, "-o", folder)
    arguments = ("verify", model, folder, "--every-tensor")
    assert "5 of 5 tensors agree with onnxruntime\n" in Result(capsys, *arguments).out

    right = runtime.Model.run

    def wrong(self: runtime.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """As if the kernel of c were wrong."""
        e, *inner = right(self, feeds)
        return [e, *inner[:2], *(array + 1 for array in inner[2:])]

    monkeypatch.setattr(runtime.Model, "run", wrong)
    assert "3 of 5 tensors agree with onnxruntime; the first that differs is 'c'" in Result(capsys, *arguments, code=1).out


def test_bench(capsys: pytest.CaptureFixture[str], tmp_path: Path, digits: Path) -> None:
    engines = ("--model", MODEL, "--against", "onnxruntime", "--threads", "2", "--seconds", "0.1")
    assert "onyxc / engine" in Result(capsys, "bench", digits, *engines, "--json", tmp_path / "b.json").out
    ours, theirs = json.loads((tmp_path / "b.json").read_text())
    assert [ours["engine"], theirs["engine"]] == ["onyxc", "onnxruntime"]
    assert theirs["ratio"] == pytest.approx(ours["median_ms"] / theirs["median_ms"])
    assert ours["runs"] >= bench.RUNS


# ---- inspect, show, passes, targets, demo


def test_inspect(capsys: pytest.CaptureFixture[str], digits: Path) -> None:
    text = Result(capsys, "inspect", MODEL).out
    assert "image: f32[batch, 1, 8, 8]" in text
    assert "28,698, of which 0 are zero" in text
    text = Result(capsys, "inspect", digits).out
    assert "logits: float32[2, 10]" in text
    assert "libdigits.so" in text
    assert json.loads(Result(capsys, "inspect", digits, "--json", "-").out)["prefix"] == "digits"
    assert json.loads(Result(capsys, "inspect", MODEL, "--json", "-").out)["parameters"] == 28698


def test_show(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "= BatchNormalization(" in Result(capsys, "show", MODEL).out
    text = Result(capsys, "show", MODEL, "-O2", "--names", "--input-dim", "batch=1").out
    assert "BatchNormalization" not in text
    assert "image" in text
    Result(capsys, "show", MODEL, "--svg", tmp_path / "g.svg")
    assert ElementTree.parse(tmp_path / "g.svg").getroot().tag.endswith("svg")


def test_passes_and_targets(capsys: pytest.CaptureFixture[str]) -> None:
    assert "magnitude-pruning" in Result(capsys, "passes").out
    rows = json.loads(Result(capsys, "passes", "--json", "-").out)
    assert {"name", "options", "does"} == set(rows[0])
    assert all(row["does"] for row in rows)
    text = Result(capsys, "targets").out
    assert all(name in text for name in ("x86-64-v3", "aarch64+dotprod", "armv7", "cuda:sm_90", "host is "))
    assert json.loads(Result(capsys, "targets", "--json", "-").out)["host"]


@pytest.mark.skipif(target.host().arch != "x86_64", reason="the levels are those of x86-64")
def test_an_artifact_of_several_levels(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONYXC_LEVEL", raising=False)
    wanted = f"x86-64-v2,{target.host().name}"
    levels = [t.name for t in target.levels(wanted)]
    for name in "ab":
        out = Result(capsys, "compile", MODEL, "-o", tmp_path / name, "--input-dim", "batch=2", "--target", wanted).out
    assert f"for {','.join(levels)}, " in out
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    text = Result(capsys, "inspect", tmp_path / "a").out
    assert all(f"steps of a run on {level}\n" in text for level in levels)
    assert "agree" in Result(capsys, "verify", MODEL, tmp_path / "a", "--every-tensor").out
    assert "onyxc" in Result(capsys, "bench", tmp_path / "a", "--seconds", "0").out
    monkeypatch.setenv("ONYXC_LEVEL", "x86-64-v2")
    assert "agree" in Result(capsys, "verify", MODEL, tmp_path / "a").out
    assert "logits" in Result(capsys, "run", tmp_path / "a").out
    monkeypatch.setenv("ONYXC_LEVEL", "x86-64-v9")
    assert (
        f"ONYXC_LEVEL is x86-64-v9, but the artifact holds {','.join(levels)}"
        in Result(capsys, "run", tmp_path / "a", code=1).err
    )


def test_levels_of_two_architectures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for wanted in ("x86-64-v3,aarch64", "x86-64-v3,cuda:sm_80"):
        arguments = ["compile", MODEL, "-o", tmp_path / "a", "--input-dim", "batch=2", "--target", wanted]
        assert "one architecture only" in Result(capsys, *arguments, code=1).err
    assert list(tmp_path.iterdir()) == []


def test_demo(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = Result(capsys, "demo").out
    assert "3 of 3 runs agree with onnxruntime" in text
    assert "360 of 360 test images right" in text
    assert "ratio" in text
    assert [p.name for p in tmp_path.iterdir()] == ["digits"]


def test_progress_is_reported() -> None:
    seen: list[str] = []
    driver.compile(MODEL, input_dims={"batch": 1}, report=lambda stage, done, total: seen.append(stage))
    assert {"loading", "passes", "linking"} <= set(seen)
    assert worker.quiet("", 0, 0) is None
