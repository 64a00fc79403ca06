"""Artifacts run on this machine through the Python loader."""

from __future__ import annotations

import ctypes
import gc
import json
import mmap
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
import pytest
from artifact_tools import call, chain, constant, object_code, tensor, vector

from onyxc.backends import runtime
from onyxc.backends.artifact import manifest
from onyxc.backends.artifact.level import Level
from onyxc.backends.artifact.write import write
from onyxc.backends.program import Buffer, Copy, If, Loop, Program, Step
from onyxc.backends.runtime import library
from onyxc.backends.runtime.library import RunError
from onyxc.backends.target import get
from onyxc.compiler.errors import InputError, ModelError

HOST = get("host")
Weights = Literal["embedded", "beside"]


def build(out: Path, program: Program, threads: int = 1, weights: Weights = "embedded") -> runtime.Model:
    write([Level(HOST, program, [object_code()])], out, weights=weights)
    return runtime.load(out, threads)


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Iterator[runtime.Model]:
    with build(tmp_path_factory.mktemp("m") / "chain", chain()) as model:
        yield model


def test_a_chain_of_calls(simple: runtime.Model) -> None:
    for scale in (1, 2):  # a second run sees new inputs
        np.testing.assert_array_equal(
            simple.run({"x": scale * vector()})[0], scale * vector() + np.float32(3) * np.arange(16, dtype="f4")
        )
    assert [str(s) for s in (*simple.inputs, *simple.outputs)] == ["x: float32[16]", "y: float32[16]"]


def at_the_end_of_a_page(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy behind which nothing may be read."""
    memory = np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE), values.dtype)[-values.size :]
    memory[:] = values
    return memory


@pytest.mark.parametrize("kept", [np.copy, at_the_end_of_a_page, lambda x: np.repeat(x, 2)[::2]])
def test_large_tensors_stay_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: Any) -> None:
    monkeypatch.setattr(library, "LARGE", 1)
    with build(tmp_path / "m", chain()) as model:
        runs = [(x, model.run({"x": kept(x)})[0]) for x in (vector(), 2 * vector(), vector() + 1)]
        runs.append((vector(), model.run({"x": memoryview(vector())})[0]))
        for x, y in runs:  # each has memory of its own
            np.testing.assert_array_equal(y, x + np.float32(3) * np.arange(16, dtype="f4"))
            assert y.ctypes.data % 64 == 0


def test_a_library_from_before_there_were_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path / "m", chain()).close()
    file = tmp_path / "m" / manifest.FILE
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "levels"}))
    monkeypatch.delattr(library.Context, "level")  # its table ends before
    with runtime.load(tmp_path / "m") as model:
        assert model.level == HOST.name


def test_the_table_tells_its_size(tmp_path: Path) -> None:
    build(tmp_path / "m", chain()).close()
    table = library.load_table(tmp_path / "m" / "libchain.so")
    assert (table.version, table.bytes) == (library.VERSION, ctypes.sizeof(library.TableV1))


def test_outputs_are_copies(simple: runtime.Model) -> None:
    first = simple.run({"x": vector()})[0]
    kept = first.copy()
    simple.run({"x": -vector()})
    np.testing.assert_array_equal(first, kept)
    assert first.flags.writeable
    assert first.flags.owndata


def test_any_memory_layout_of_an_input(simple: runtime.Model) -> None:
    expected = simple.run({"x": vector()})[0]
    wide = np.zeros((16, 3), "f4")
    wide[:, 1] = vector()
    np.testing.assert_array_equal(simple.run({"x": wide[:, 1]})[0], expected)
    assert (simple.run({"x": vector()[::-1]})[0] != expected).any()


@pytest.mark.parametrize("weights", ["embedded", "beside"])
@pytest.mark.parametrize("threads", [1, 2, 5, 0])
def test_threads_give_the_same(tmp_path: Path, threads: int, weights: Weights) -> None:
    program = chain(elements=10_007, steps=20, work=10**9)
    x = np.random.default_rng(0).standard_normal(10_007).astype("f4")
    expected = x
    for _ in range(20):
        expected = expected + np.arange(10_007, dtype="f4")
    with build(tmp_path / "m", program, threads, weights) as model:
        for _ in range(10):
            np.testing.assert_array_equal(model.run({"x": x})[0], expected)


def test_workers_sleep_and_wake(tmp_path: Path) -> None:
    program = chain(elements=1000, steps=2, work=10**9)
    with build(tmp_path / "m", program, threads=2) as model:
        expected = model.run({"x": vector(1000)})[0]
        before = os.times()
        threading.Event().wait(0.2)
        spent = os.times()
        assert spent.user + spent.system - before.user - before.system < 0.1, "idle workers spin"
        np.testing.assert_array_equal(model.run({"x": vector(1000)})[0], expected)


def test_fewer_tasks_than_threads(tmp_path: Path) -> None:
    with build(tmp_path / "m", chain(elements=2, work=10**9), threads=4) as model:
        assert model.run({"x": np.zeros(2, "f4")})[0].tolist() == [0, 3]


@pytest.mark.parametrize("large", [1, library.LARGE])
def test_views_and_several_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int) -> None:
    monkeypatch.setattr(library, "LARGE", large)
    x, both = tensor("x", kind="input"), tensor("both", (32,))
    low = Buffer("low", "float32", (16,), base=both)
    high = Buffer("high", "float32", (4, 4), "output", base=both, offset=64)
    total = tensor("total", kind="output")
    steps: list[Step] = [call("split", x, low, high, reads=1, tasks=16), call("add", low, high, total)]
    with build(tmp_path / "m", Program("views", [x], [high, total], steps)) as model:
        size, sum_ = model.run({"x": vector()})
    assert size.shape == (4, 4)
    np.testing.assert_array_equal(size.reshape(-1), abs(vector()))
    np.testing.assert_array_equal(sum_, abs(vector()) + np.where(vector() < 0, -1, 1))


@pytest.mark.parametrize("large", [1, library.LARGE])
def test_an_output_may_be_an_input_or_a_constant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int) -> None:
    monkeypatch.setattr(library, "LARGE", large)  # these cannot lie elsewhere
    x, w, copied = tensor("x", kind="input"), constant("w", np.arange(4)), tensor("c", kind="output")
    part = Buffer("part", "float32", (2,), "output", base=w, offset=8)
    with build(tmp_path / "m", Program("odd", [x], [x, w, part, copied], [Copy(x, copied)])) as model:
        found = model.run({"x": vector()})
    for array, expected in zip(found, (vector(), np.arange(4), [2, 3], vector()), strict=True):
        np.testing.assert_array_equal(array, np.asarray(expected, "f4"))


def test_if(tmp_path: Path) -> None:
    x, y, flag = tensor("x", kind="input"), tensor("y", kind="output"), tensor("flag", (), "bool")
    steps: list[Step] = [call("first_positive", x, flag), If(flag, [call("twice", x, y)], [Copy(x, y)])]
    with build(tmp_path / "m", Program("choice", [x], [y], steps)) as model:
        for sign in (1, -1):
            v = sign * np.arange(1, 17, dtype="f4")
            np.testing.assert_array_equal(model.run({"x": v})[0], 2 * v if sign > 0 else v)


def _doubling(trip: Buffer | None, condition: Buffer | None) -> tuple[Loop, Buffer, Buffer]:
    state, new, turn, count = tensor("s"), tensor("n"), tensor("i", (), "int64"), tensor("c", (1,), "int64", "output")
    body: list[Step] = [call("twice", state, new), Copy(new, state)]
    if condition:
        body.append(call("first_below_100", state, condition))
    return Loop(trip, condition, turn, body, count), state, count


def test_loops_end_by_trip_or_condition(tmp_path: Path) -> None:
    x, y, trip = tensor("x", kind="input"), tensor("y", kind="output"), tensor("trip", (), "int64", "input")
    condition = tensor("go", (), "bool")
    loop, state, count = _doubling(trip, condition)
    steps: list[Step] = [Copy(x, state), call("first_below_100", x, condition), loop, Copy(state, y)]
    with build(tmp_path / "m", Program("loop", [x, trip], [y, count], steps)) as model:
        for limit, turns in ((0, 0), (3, 3), (1000, 7), (-1, 0)):
            found, done = model.run({"x": np.ones(16, "f4"), "trip": np.int64(limit)})
            assert (done.tolist(), found[0]) == ([turns], 2.0**turns)
        assert model.run({"x": np.full(16, 500, "f4"), "trip": np.array(9)})[1].tolist() == [0]


def test_nested_loops_and_their_turns(tmp_path: Path) -> None:
    total, turn = tensor("y", (1,), kind="output"), [tensor(f"turn{i}", (1,), "int64") for i in range(2)]
    parts = [tensor(f"part{i}", (1,)) for i in range(3)]
    add_turns: list[Step] = [
        call("to_float", turn[0], parts[0]), call("to_float", turn[1], parts[1]), call("add", *parts),
        call("add", total, parts[2], parts[0]), Copy(parts[0], total),
    ]  # fmt: skip
    inner = Loop(constant("three", 3, "int64"), None, turn[1], add_turns)
    outer = Loop(constant("four", 4, "int64"), None, turn[0], [inner])
    program = Program("nested", [], [total], [Copy(constant("zero", [0]), total), outer])
    with build(tmp_path / "m", program) as model:
        assert model.run({})[0].tolist() == [sum(i + j for i in range(4) for j in range(3))]


def test_outputs_whose_shape_depends_on_data(tmp_path: Path) -> None:
    x, found, count = tensor("x", kind="input"), tensor("found", (16, 1), "int64", "output"), tensor("n", (1,), "int64")
    shape = tensor("shape", (2,), "int64")
    first, second = (Buffer(n, "int64", (1,), base=shape, offset=o) for n, o in (("r", 0), ("c", 8)))
    steps: list[Step] = [
        call("nonzero16", x, found, count, reads=1, tasks=1),
        Copy(count, first), Copy(constant("one", [1], "int64"), second),
    ]  # fmt: skip
    program = Program("nonzero", [x], [found], steps, counts={"found": shape})
    with build(tmp_path / "m", program) as model:
        assert model.outputs[0].dynamic
        for positions in ([], [3], [0, 5, 15], list(range(16))):
            v = np.zeros(16, "f4")
            v[positions] = 1
            array = model.run({"x": v})[0]
            assert array.shape == (len(positions), 1)
            assert array.reshape(-1).tolist() == positions
    for program_found in runtime.run_with(tmp_path / "m", {"x": np.eye(1, 16, 4, dtype="f4")[0]}, ""):
        assert program_found.tolist() == [[4]]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "float16", "int64", "float64", "bfloat16", "float8_e4m3fn", "int4"])
def test_dtypes(tmp_path: Path, dtype: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    x, y, s = tensor("x", (2, 3), dtype, "input"), tensor("y", (2, 3), dtype, "output"), tensor("s", (), dtype, "input")
    z = tensor("z", (), dtype, "output")
    with build(tmp_path / "m", Program("types", [x, s], [y, z], [Copy(x, y), Copy(s, z)])) as model:
        value = np.array([[1, 0, 1], [0, 1, 1]]).astype(kind)
        found, scalar = model.run({"x": value, "s": value[0, 0]})
    assert (found.dtype, scalar.shape) == (kind, ())
    np.testing.assert_array_equal(found, value)


def test_empty_tensors(tmp_path: Path) -> None:
    x, y = tensor("x", (0, 3), kind="input"), tensor("y", (0, 3), kind="output")
    with build(tmp_path / "m", Program("empty", [x], [y], [Copy(x, y)])) as model:
        assert model.run({"x": np.zeros((0, 3), "f4")})[0].shape == (0, 3)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, r"input 'x' is missing; the model takes x: float32\[16\]"),
        ({"y": vector()}, r"no input is called 'y' and input 'x' is missing"),
        ({"x": vector(), "extra": 1}, r"no input is called 'extra'"),
        ({"x": vector().astype("f8")}, r"input 'x' has dtype float64; the model takes float32"),
        ({"x": vector()[:3]}, r"input 'x' has shape \[3\]; the model takes \[16\]"),
        ({"x": [[1], [1, 2]]}, r"input 'x' is not an array"),
        ({"x": "text"}, r"input 'x' has dtype"),
    ],
)
def test_wrong_inputs(simple: runtime.Model, feeds: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        simple.run(feeds)
    assert simple.run({"x": vector()})[0].shape == (16,)


def test_threads_of_the_caller_do_not_disturb_each_other(tmp_path: Path) -> None:
    model, wrong = build(tmp_path / "m", chain(elements=5000, steps=8, work=10**9), threads=2), []

    def work(number: int) -> None:
        x = np.full(5000, number, "f4")
        expected = x + 8 * np.arange(5000, dtype="f4")
        wrong.extend(i for i in range(50) if not np.array_equal(model.run({"x": x})[0], expected))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    model.close()
    assert wrong == []


def test_several_models_of_one_name_in_one_process(tmp_path: Path) -> None:
    models = [build(tmp_path / str(i), chain(step=i), weights="beside" if i % 2 else "embedded") for i in range(4)]
    for i in (0, 3, 1, 2):
        expected = vector() + 3 * np.float32(i) * np.arange(16, dtype="f4")
        np.testing.assert_array_equal(models[i].run({"x": vector()})[0], expected)


def test_a_rebuilt_library_is_loaded_anew(tmp_path: Path) -> None:
    first = build(tmp_path / "m", chain(step=1))
    second = build(tmp_path / "m", chain(step=5))
    assert second.run({"x": np.zeros(16, "f4")})[0][1] == 15
    assert first.run({"x": np.zeros(16, "f4")})[0][1] == 3


def test_a_moved_artifact_finds_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path / "m", chain(), weights="beside").close()
    (tmp_path / "m").rename(tmp_path / "moved to")
    monkeypatch.chdir(tmp_path)
    assert runtime.load("moved to").run({"x": np.zeros(16, "f4")})[0][1] == 3
    assert runtime.run_with("moved to", {"x": np.zeros(16, "f4")}, "")[0][1] == 3


def test_a_closed_model_says_so(tmp_path: Path) -> None:
    with build(tmp_path / "m", chain()) as model:
        model.run({"x": vector()})
    model.close()
    with pytest.raises(RunError, match="is closed"):
        model.run({"x": vector()})


def test_models_free_their_threads(tmp_path: Path) -> None:
    model = build(tmp_path / "m", chain(), threads=4)
    count = len(os.listdir("/proc/self/task"))
    del model
    gc.collect()
    assert len(os.listdir("/proc/self/task")) == count - 3


def test_broken_artifacts(tmp_path: Path) -> None:
    build(tmp_path / "good", chain(), weights="beside").close()

    def broken(name: str) -> Path:
        return Path(shutil.copytree(tmp_path / "good", tmp_path / name))

    with pytest.raises(ModelError, match=r"not an onyxc artifact: it has no manifest\.json"):
        runtime.load(tmp_path / "none")
    (broken("a") / "libchain.so").unlink()
    with pytest.raises(ModelError, match=r"libchain\.so is missing"):
        runtime.load(tmp_path / "a")
    (broken("b") / "libchain.so").write_bytes(b"\x7fELF")
    with pytest.raises(ModelError, match=r"cannot load .*/b/libchain\.so"):
        runtime.load(tmp_path / "b")
    (broken("c") / "weights.bin").unlink()
    with pytest.raises(RunError, match=r"cannot open the weights .*c/weights\.bin"):
        runtime.load(tmp_path / "c")
    (broken("d") / "weights.bin").write_bytes(b"short")
    with pytest.raises(RunError, match="belongs to another model"):
        runtime.load(tmp_path / "d")
    subprocess.run(["cc", "-shared", "-x", "c", "/dev/null", "-o", broken("e") / "libchain.so"], check=True)
    with pytest.raises(ModelError, match="not an onyxc library"):
        runtime.load(tmp_path / "e")
    (broken("f") / "run").unlink()
    with pytest.raises(ModelError, match="no program to run"):
        runtime.run_with(tmp_path / "f", {"x": vector()}, "")


def test_an_artifact_of_another_kind_is_refused(tmp_path: Path) -> None:
    write([Level(HOST, chain(), [object_code()])], tmp_path / "static", library="static")
    with pytest.raises(ModelError, match="--library shared"):
        runtime.load(tmp_path / "static")
    found = manifest.read(tmp_path / "static")
    text = (tmp_path / "static/manifest.json").read_text()
    (tmp_path / "static/manifest.json").write_text(text.replace(f'"arch": "{found.arch}"', '"arch": "riscv64"'))
    with pytest.raises(ModelError, match="onyxc run --runner"):
        runtime.load(tmp_path / "static")


def test_an_artifact_for_a_better_processor_is_refused(tmp_path: Path) -> None:
    write([Level(get("x86-64-v4+vnni"), chain(), [object_code()])], tmp_path / "m")
    if not shutil.which("qemu-x86_64"):
        pytest.skip("qemu-x86_64 is not installed")
    with pytest.raises(RunError, match="lacks avx512"):
        runtime.run_with(tmp_path / "m", {"x": vector()}, "qemu-x86_64 -cpu max")


def test_loading_imports_neither_tvm_nor_onnx_nor_the_compiler(tmp_path: Path) -> None:
    write([Level(HOST, chain(), [object_code()])], tmp_path / "m")
    code = """if True:
        import sys
        import numpy as np
        from onyxc.backends import runtime
        runtime.load(sys.argv[1]).run({"x": np.zeros(16, "f4")})
        runtime.run_with(sys.argv[1], {"x": np.zeros(16, "f4")}, "")
        tops = {m.partition(".")[0] for m in sys.modules}
        ours = {m for m in sys.modules if m.startswith(("onyxc.compiler", "onyxc.passes", "onyxc.backends"))}
        print(sorted(tops & {"tvm", "tvm_ffi", "onnx", "onnxruntime", "ml_dtypes", "networkx", "typer", "rich"}))
        print(sorted(ours - {"onyxc.compiler", "onyxc.compiler.errors", "onyxc.backends"}))
    """
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "m"], capture_output=True, text=True, check=True)
    foreign, ours = done.stdout.splitlines()
    assert foreign == "[]"
    allowed = ("onyxc.backends.runtime", "onyxc.backends.artifact", "onyxc.backends.interface")
    assert all(m.startswith(allowed) for m in eval(ours)), ours
