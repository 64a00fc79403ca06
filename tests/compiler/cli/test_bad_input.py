"""What is wrong with a model or an option is said in one line, with exit code 1, at once, and leaves nothing behind."""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from onyxc.compiler.cli import main

SECONDS = 10  # generous: other tests run beside this one


def text(body: str, signature: str = "float[2,3] x) => (float[2,3] y", opset: str = '"" : 17') -> bytes:
    """A model in ONNX text; the parser checks nothing but the syntax."""
    source = f"<ir_version: 8, opset_import: [{opset}]> g ({signature}) {body}"
    return bytes(onnx.parser.parse_model(source).SerializeToString())


def weights(array: np.ndarray, **changes: object) -> bytes:
    """x @ w with the initializer w; ``changes`` overwrite fields of its TensorProto."""
    model = onnx.load_model_from_string(text("{ y = MatMul (x, w) }", "float[2,3] x) => (float[2,n] y"))
    tensor = numpy_helper.from_array(array, "w")
    for field, value in changes.items():
        tensor.ClearField(field)
        if isinstance(value, list):
            getattr(tensor, field).extend(value)
        else:
            setattr(tensor, field, value)
    model.graph.initializer.append(tensor)
    return bytes(model.SerializeToString())


def external(location: str, **more: str) -> bytes:
    model = onnx.load_model_from_string(weights(np.zeros((3, 4), np.float32)))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)
    return bytes(model.SerializeToString())


def twice() -> bytes:
    model = onnx.load_model_from_string(weights(np.zeros((3, 4), np.float32)))
    model.graph.initializer.append(model.graph.initializer[0])
    return bytes(model.SerializeToString())


def declared(shape: str) -> bytes:
    return text("{ y = Relu (x) }", f"float[{shape}] x) => (float[{shape}] y")


def sequence() -> bytes:
    value = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [2])
    out = helper.make_tensor_value_info("y", TensorProto.INT64, [])
    graph = helper.make_graph([helper.make_node("SequenceLength", ["x"], ["y"])], "g", [value], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


RELU = text("{ y = Relu (x) }")
SHORT = np.zeros((3, 4), np.float32)
CONV = "float[1,3,8,8] x, float[4,3,3,3] w) => (float[1,4,6,6] y"

MODELS: dict[str, tuple[bytes, str]] = {
    # files
    "empty": (b"", "not an ONNX model"),
    "truncated": (weights(np.ones((3, 400), np.float32))[:2000], "not an ONNX model, or it is truncated"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(100), "not an ONNX model"),
    "words": (b"graph { this is text }\n" * 50, "not an ONNX model"),
    "numbers": (bytes(range(256)) * 20, "not an ONNX model"),
    "no-graph": (onnx.ModelProto(ir_version=8).SerializeToString(), "no graph"),
    "new-ir": (RELU.replace(b"\x08\x08", b"\x08\x7f", 1), "ir_version"),
    "new-opset": (text("{ y = Relu (x) }", opset='"" : 999'), "opset"),
    "old-opset": (text("{ y = Upsample <width_scale = 2.0, height_scale = 2.0> (x) }", opset='"" : 1'), "Upsample"),
    # operators
    "unknown-operator": (text("{ y = Frobnicate (x) }"), "Frobnicate"),
    "unknown-domain": (text("{ y = com.me.Relu (x) }", opset='"" : 17, "com.me" : 1'), "com.me"),
    "domain-without-opset": (text("{ y = com.me.Relu (x) }"), "com.me"),
    "too-many-inputs": (text("{ y = Relu (x, x) }"), "Relu"),
    "too-few-inputs": (text("{ y = Add (x) }"), "Add"),
    "later-operator": (text("{ y = Gelu (x) }"), "Gelu"),
    # names
    "cycle": (text("{ a = Relu (b) b = Relu (a) y = Add (a, x) }"), "b"),
    "self-cycle": (text("{ y = Add (x, y) }"), "y"),
    "undefined": (text("{ y = Add (x, nothing) }"), "nothing"),
    "undefined-output": (text("{ z = Relu (x) }"), "y"),
    "undefined-inside": (
        text("{ y = If (c) <then_branch = t () => (float[2,3] a) { a = Relu (no) }, "
             "else_branch = e () => (float[2,3] b) { b = Neg (x) }> }", "bool c, float[2,3] x) => (float[2,3] y"),
        "no",
    ),
    "duplicate-output": (text("{ y = Relu (x) y = Neg (x) }"), "y"),
    "duplicate-of-input": (text("{ x = Neg (x) y = Relu (x) }"), "x"),
    "duplicate-inputs": (text("{ y = Relu (x) }", "float[2,3] x, float[2,3] x) => (float[2,3] y"), "x"),
    "duplicate-initializer": (twice(), "w"),
    # shapes and types
    "shape-clash": (text("{ y = Add (x, z) }", "float[2,3] x, float[4,5] z) => (float[2,3] y"), "Add"),
    "matmul-clash": (weights(np.zeros((4, 4), np.float32)), "MatMul"),
    "conv-clash": (text("{ y = Conv (x, w) }", CONV.replace("4,3,3,3", "4,5,3,3")), "Conv"),
    "concat-clash": (text("{ y = Concat <axis = 0> (x, z) }", "float[2,3] x, float[2,4] z) => (float[4,3] y"), "cat"),
    "reshape-clash": (text("{ s = Constant <value = int64[2] {4, 5}> () y = Reshape (x, s) }"), "Reshape"),
    "type-clash": (text("{ y = Add (x, z) }", "float[2,3] x, int64[2,3] z) => (float[2,3] y"), "Add"),
    "type-of-output": (text("{ y = Shape (x) }"), "y"),
    "type-refused": (text("{ y = Relu (x) }", "string[2,3] x) => (string[2,3] y"), "Relu"),
    "condition-not-bool": (
        text("{ y = If (x) <then_branch = t () => (float[2,3] a) { a = Relu (x) }, "
             "else_branch = e () => (float[2,3] b) { b = Neg (x) }> }"),
        "If",
    ),
    "branches-differ": (
        text("{ y = If (c) <then_branch = t () => (float[2,3] a) { a = Relu (x) }, "
             "else_branch = e () => (int64[2] b) { b = Shape (x) }> }", "bool c, float[2,3] x) => (float[2,3] y"),
        "If",
    ),
    # attributes
    "unknown-attribute": (text("{ y = Relu <colour = 3> (x) }"), "colour"),
    "attribute-type": (text('{ y = Softmax <axis = "one"> (x) }'), "axis"),
    "missing-attribute": (text("{ y = Cast (x) }"), "to"),
    "cast-to-nothing": (text("{ y = Cast <to = 999> (x) }"), "Cast"),
    "axis-range": (text("{ y = Softmax <axis = 7> (x) }"), "Softmax"),
    "gather-axis": (text("{ s = Constant <value = int64[1] {0}> () y = Gather <axis = 5> (x, s) }"), "Gather"),
    "permutation": (text("{ y = Transpose <perm = [0, 0]> (x) }"), "Transpose"),
    "strides-zero": (text("{ y = Conv <strides = [0, 1]> (x, w) }", CONV), "Conv"),
    "strides-length": (text("{ y = Conv <strides = [1, 1, 1]> (x, w) }", CONV), "Conv"),
    "window": (text("{ y = MaxPool <kernel_shape = [10, 10]> (x) }", "float[1,3,8,8] x) => (float[1,3,n,m] y"), "Pool"),
    "group-zero": (text("{ y = Conv <group = 0> (x, w) }", CONV), "Conv"),
    # tensors
    "short-data": (weights(SHORT, raw_data=bytes(7)), "w"),
    "no-data": (weights(SHORT, raw_data=b""), "w"),
    "negative-dim": (weights(SHORT, dims=[-3, 4]), "w"),
    "no-such-dtype": (weights(SHORT, data_type=99), "w"),
    "huge-tensor": (weights(SHORT, dims=[1 << 20, 1 << 20]), "w"),
    "overflowing-tensor": (weights(SHORT, dims=[1 << 33, 1 << 33]), "w"),
    "external-missing": (external("none.bin"), "none.bin"),
    "external-short": (external("short.bin"), "short.bin"),
    "external-offset": (external("long.bin", offset="40"), "long.bin"),
    "external-words": (external("long.bin", offset="ten"), "offset"),
    "external-length": (external("long.bin", length="12"), "long.bin"),
    "external-up": (external("../long.bin"), "inside the model's folder"),
    "external-absolute": (external("/etc/passwd"), "inside the model's folder"),
    "external-link": (external("link.bin"), "out of the model's folder"),
    "external-nameless": (external(""), "inside the model's folder"),
    "external-folder": (external("."), "no file"),
    # memory
    "huge-input": (declared("1000000,1000000"), "at most"),
    "overflowing-input": (declared("4294967296,4294967296,4"), "at most"),
    "huge-constant": (
        text("{ s = Constant <value = int64[2] {1000000, 1000000}> () c = ConstantOfShape (s) y = Add (c, x) }",
             "float[1] x) => (float[1000000,1000000] y"),
        "at most",
    ),
    "huge-expand": (
        text("{ s = Constant <value = int64[2] {1000000, 1000000}> () y = Expand (x, s) }",
             "float[1] x) => (float[1000000,1000000] y"),
        "at most",
    ),
    # what models at a border cannot be
    "strings": (text("{ y = Identity (x) }", "string[2] x) => (string[2] y"), "string"),
    "sequence": (sequence(), "x"),
}  # fmt: skip


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, beside which lies a file that external data must not reach."""
    np.zeros(100, np.float32).tofile(tmp_path / "long.bin")
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def refused(capsys: pytest.CaptureFixture[str], work: Path, *arguments: str, code: int = 1) -> str:
    """The message, after checking that it is one and that nothing was written."""
    capsys.readouterr()
    before = {p: p.stat().st_mtime_ns for p in work.rglob("*")}
    start = time.perf_counter()
    found = main([*arguments])
    took = time.perf_counter() - start
    message = capsys.readouterr().err
    assert found == code, message
    assert took < SECONDS
    assert message.startswith("onyxc: "), message
    assert message.count("\n") == 1, message
    assert {p: p.stat().st_mtime_ns for p in work.rglob("*")} == before
    return message


VALID = ("unknown-domain", "huge-input", "overflowing-input", "huge-constant", "huge-expand", "strings", "sequence")


def write(work: Path, data: bytes) -> None:
    (work / "m.onnx").write_bytes(data)
    (work / "short.bin").write_bytes(bytes(20))
    (work / "long.bin").write_bytes(bytes(80))
    (work / "link.bin").symlink_to(work.parent / "long.bin")


@pytest.mark.parametrize("case", MODELS)
def test_compile(capsys: pytest.CaptureFixture[str], work: Path, case: str) -> None:
    data, word = MODELS[case]
    write(work, data)
    assert word in refused(capsys, work, "compile", "m.onnx", "-o", "out")


@pytest.mark.parametrize("case", [c for c in MODELS if c not in VALID])
def test_optimize(capsys: pytest.CaptureFixture[str], work: Path, case: str) -> None:
    data, word = MODELS[case]
    write(work, data)
    assert word in refused(capsys, work, "optimize", "m.onnx", "-o", "out.onnx")


BROKEN = ["empty", "truncated", "png", "cycle"]


@pytest.mark.parametrize("command", ["inspect", "show"])
@pytest.mark.parametrize("case", BROKEN)
def test_looking(capsys: pytest.CaptureFixture[str], work: Path, case: str, command: str) -> None:
    data, word = MODELS[case]
    write(work, data)
    assert word in refused(capsys, work, command, "m.onnx")


@pytest.mark.parametrize("case", [*BROKEN, "unknown-operator"])
def test_verifying(capsys: pytest.CaptureFixture[str], work: Path, artifact: Path, case: str) -> None:
    write(work, MODELS[case][0])
    assert "onnxruntime cannot load the model" in refused(capsys, work, "verify", "m.onnx", str(artifact))


FREE = text("{ y = Relu (x) }", "float[batch,3,n] x) => (float[batch,3,n] y")
COLON = text("{ y = Add (x, z) }", "float[a] x, float[a] z) => (float[a] y")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ([], "--input-dim batch=1"),
        (["--input-dim", "batch=1"], "--input-dim n=1"),
        (["--input-dim", "batch=1", "--input-dim", "m=2"], "--input-dim m"),
        (["--input-dim", "batch=1", "--input-dim", "batch=2"], "given twice"),
        (["--input-dim", "batch"], "write NAME=N"),
        (["--input-dim", "batch=-1"], "write NAME=N"),
        (["--input-dim", "batch=1.5"], "write NAME=N"),
        (["--input-dim", "batch=1", "--input-shape", "x:2,3,4"], "batch"),
        (["--input-shape", "x:1,3"], "x"),
        (["--input-shape", "x:1,5,4"], "x"),
        (["--input-shape", "z:1,3,4"], "no such input"),
        (["--input-shape", "x"], "write NAME:"),
        (["--input-shape", "x:1,?,4"], "write NAME:"),
        (["--input-shape", "x:1,3,4", "--input-value", "x=[1.0]"], "x"),
        (["--input-value", "x=[[['a']]]"], "x"),
        (["--input-value", "x=1 +"], "neither a number"),
        (["--input-value", "q=1"], "no such input"),
    ],
)
def test_bindings(capsys: pytest.CaptureFixture[str], work: Path, options: list[str], word: str) -> None:
    write(work, FREE)
    assert word in refused(capsys, work, "compile", "m.onnx", "-o", "out", *options)


def test_contradicting_shapes(capsys: pytest.CaptureFixture[str], work: Path) -> None:
    write(work, COLON)
    message = refused(capsys, work, "compile", "m.onnx", "-o", "out", "--input-shape", "x:2", "--input-shape", "z:3")
    assert "a" in message


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("[[pass]\nname", "not TOML"),
        ("\x00\xff", "not TOML"),
        ("[[passes]]\nname = 'no-ops'", "passes"),
        ("pass = 'no-ops'", "[[pass]]"),
        ("[[pass]]\nsparsity = 0.5", "no name"),
        ("[[pass]]\nname = 'no-opps'", "did you mean 'no-ops'"),
        ("[[pass]]\nname = 'magnitude-pruning'\nsparsty = 0.5", "did you mean 'sparsity'"),
        ("[[pass]]\nname = 'magnitude-pruning'\nsparsity = 'half'", "sparsity"),
        ("[[pass]]\nname = 'magnitude-pruning'\nsparsity = 2.0", "from 0 to 1"),
        ("[[pass]]\nname = 'magnitude-pruning'\nscope = 'all'", "layer, global"),
        ("[[pass]]\nname = 'magnitude-pruning'\ninclude = ['nothing*']", "nothing*"),
        ("[[pass]]\nname = 'nm-pruning'\nn = 5\nm = 4", "n <= m"),
        ("[[pass]]\nname = 'weight-clustering'\nbits = 40", "bits"),
        (None, "cannot read"),
    ],
)
def test_pipelines(capsys: pytest.CaptureFixture[str], work: Path, content: str | None, word: str) -> None:
    write(work, weights(np.ones((3, 4), np.float32)))
    if content is not None:
        (work / "p.toml").write_text(content, encoding="latin-1")
    for command, out in (("optimize", "out.onnx"), ("compile", "out")):
        message = refused(capsys, work, command, "m.onnx", "-o", out, "--pipeline", "p.toml")
        assert word in message


@pytest.mark.parametrize("options", [["--prune", "0.5"], ["--cluster", "4bit"]])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_are_no_numbers(
    capsys: pytest.CaptureFixture[str], work: Path, number: float, options: list[str]
) -> None:
    write(work, weights(np.array([[1, number, 2, 3]] * 3, np.float32)))
    assert "NaN" in refused(capsys, work, "optimize", "m.onnx", "-o", "out.onnx", *options)


@pytest.mark.parametrize("options", [["--cluster", "9bit"], ["--cluster", "much"]])
def test_compression_options(capsys: pytest.CaptureFixture[str], work: Path, options: list[str]) -> None:
    write(work, weights(np.ones((3, 4), np.float32)))
    refused(capsys, work, "optimize", "m.onnx", "-o", "out.onnx", *options)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--target", "z80", "-o", "out"], "known are host"),
        (["-o", "."], "not empty"),
        (["-o", "m.onnx"], "not a folder"),
        (["-o", "m.onnx/out"], "cannot write"),
        (["-o", "/proc/out"], "cannot write"),
        (["--compiler", "no-such-cc", "-o", "out"], "no-such-cc"),
    ],
)
def test_where_and_for_what(capsys: pytest.CaptureFixture[str], work: Path, options: list[str], word: str) -> None:
    write(work, RELU)
    assert word in refused(capsys, work, "compile", "m.onnx", *options)


# ---- at run time


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    (folder / "relu.onnx").write_bytes(RELU)
    assert main(["compile", str(folder / "relu.onnx"), "-o", str(folder / "relu")]) == 0
    return folder / "relu"


@pytest.fixture
def artifact(built: Path, work: Path) -> Path:
    """An artifact of its own to break: y = relu(x), float32[2, 3]."""
    return Path(shutil.copytree(built, work / "relu"))


def npy(array: np.ndarray) -> bytes:
    made = io.BytesIO()
    np.save(made, array)
    return made.getvalue()


X = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("data", "option", "word"),
    [
        (npy(X.astype(np.float64)), "x=x.npy", "dtype float64"),
        (npy(X.T), "x=x.npy", "shape [3, 2]"),
        (npy(X.ravel()), "x=x.npy", "shape [6]"),
        (npy(X)[:60], "x=x.npy", "x.npy"),
        (npy(np.array([{}], object)), "x=x.npy", "x.npy"),
        (b"not numpy", "x=x.npy", "x.npy"),
        (b"", "x=x.npy", "x.npy"),
        (b"PK\x03\x04 a broken archive", "x=x.npy", "x.npy"),
        (npy(X), "x=y.npy", "y.npy"),
        (npy(X), "z=x.npy", "no such input; there are x"),
        (npy(X), "x.npy", "write NAME=FILE.npy"),
    ],
)
def test_inputs(
    capsys: pytest.CaptureFixture[str], work: Path, artifact: Path, data: bytes, option: str, word: str
) -> None:
    (work / "x.npy").write_bytes(data)
    assert word in refused(capsys, work, "run", str(artifact), "--input", option, "-o", "out.npz")
    refused(capsys, work, "bench", str(artifact), "--input", option, "--seconds", "0")
    refused(capsys, work, "profile", str(artifact), "--input", option, "--runs", "1")


@pytest.mark.parametrize(
    ("file", "content", "word"),
    [
        ("manifest.json", b"{", "manifest.json"),
        ("manifest.json", b"[]", "manifest.json"),
        ("manifest.json", b'{"version": 1}', "manifest.json"),
        ("manifest.json", b'{"version": 99}', "upgrade"),
        ("manifest.json", None, "not an onyxc artifact"),
        ("librelu.so", None, "missing"),
        ("librelu.so", b"", "cannot load"),
        ("librelu.so", b"foreign", "cannot load"),
    ],
)
def test_broken_artifacts(
    capsys: pytest.CaptureFixture[str], work: Path, artifact: Path, file: str, content: bytes | None, word: str
) -> None:
    (artifact / file).unlink()
    if content is not None:
        (artifact / file).write_bytes(content)
    assert word in refused(capsys, work, "run", str(artifact))
    refused(capsys, work, "profile", str(artifact), "--runs", "1")


@pytest.mark.parametrize("content", [b"{", b'{"version": 99, "levels": {}}', None])
def test_broken_table_of_steps(
    capsys: pytest.CaptureFixture[str], work: Path, artifact: Path, content: bytes | None
) -> None:
    (artifact / "steps.json").unlink()
    if content is not None:
        (artifact / "steps.json").write_bytes(content)
    assert "steps.json" in refused(capsys, work, "profile", str(artifact), "--runs", "1")
    assert "steps.json" in refused(capsys, work, "inspect", str(artifact))


@pytest.mark.parametrize(
    ("runner", "word"), [("no-such-emulator", "no-such-emulator"), ("false", "exit code 1"), ("'", "not a command")]
)
def test_runners(capsys: pytest.CaptureFixture[str], work: Path, artifact: Path, runner: str, word: str) -> None:
    for command in ("run", "profile"):
        assert word in refused(capsys, work, command, str(artifact), "--runner", runner)


def test_artifact_of_another_model(capsys: pytest.CaptureFixture[str], work: Path, artifact: Path) -> None:
    write(work, text("{ b = Neg (a) }", "float[2,3] a) => (float[2,3] b"))
    assert "not compiled from" in refused(capsys, work, "verify", "m.onnx", str(artifact))


def test_outputs_that_cannot_be_written(capsys: pytest.CaptureFixture[str], work: Path, artifact: Path) -> None:
    write(work, RELU)
    for arguments in (
        ["run", str(artifact), "-o", "no/out.npz"],
        ["profile", str(artifact), "--runs", "1", "--json", "no/p.json"],
        ["optimize", "m.onnx", "-o", "no/out.onnx"],
        ["optimize", "m.onnx", "-o", "relu"],
        ["show", "m.onnx", "--svg", "no/m.svg"],
        ["inspect", "m.onnx", "--json", "no/m.json"],
        ["passes", "--json", "no/m.json"],
    ):
        assert "cannot write" in refused(capsys, work, *arguments)
