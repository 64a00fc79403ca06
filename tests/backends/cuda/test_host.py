"""The host program: whole artifacts, run to the end on the emulated driver."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_cases import CASES
from tvm import te

from onyxc.backends import runtime, target
from onyxc.backends.artifact.level import Level
from onyxc.backends.artifact.write import write
from onyxc.backends.cuda import host, nvrtc
from onyxc.backends.cuda.emulator import ENVIRONMENT, build_driver
from onyxc.backends.cuda.generic import build_all
from onyxc.backends.cuda.stages import key
from onyxc.backends.program import Buffer, Call, Copy, If, Loop, Program, Step
from onyxc.compiler.errors import BuildError

pytestmark = pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed (extra onyxc[cuda])")
TARGET = target.get("cuda:sm_80")


def calls(name: str, inputs: list[Any], outputs: list[Any], buffers: list[Buffer]) -> list[Step]:
    """The steps of a TE group on ``buffers`` (its inputs, then its outputs)."""
    pieces, between = build_all(name, inputs, outputs, TARGET)
    places = {key(t): b for t, b in zip([*inputs, *outputs], buffers, strict=True)}
    places |= {key(t): Buffer("between", str(t.dtype), tuple(int(d) for d in t.shape)) for t in between}
    return [Call(p.kernel, tuple(places[key(t)] for t in p.args), p.reads) for p in pieces]


def network(weights: np.ndarray[Any, Any]) -> Program:
    """relu(conv(x)) of the case ``conv``, then softmax over its rows."""
    conv = next(c for c in CASES if c.name == "conv")
    x, b = conv.arrays()[0], conv.arrays()[2]
    bx, by = Buffer("x", "float32", x.shape, "input"), Buffer("y", "float32", (1, 24, 14, 14), "output")
    constants = [Buffer(n, "float32", a.shape, "constant", a) for n, a in (("w", weights), ("b", b))]
    steps = calls("conv", conv.inputs, conv.outputs, [bx, *constants, by])
    return Program("net", [bx], [by], steps)


def scaled(name: str, factor: float, source: Buffer, to: Buffer) -> list[Step]:
    """to = source * factor + 1."""
    x = te.placeholder(source.shape, "float32", name="x")
    y = te.compute(source.shape, lambda *i: x(*i) * factor + 1.0, name="y")
    return calls(name, [x], [y], [source, to])


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Program], Path]:
    def make(program: Program) -> Path:
        write([Level(TARGET, program)], tmp_path / "artifact", body=host.cuda_body(program, TARGET))
        driver = build_driver([k.source for k in program.kernels()], tmp_path)
        monkeypatch.setenv(ENVIRONMENT, str(driver))
        return tmp_path / "artifact"

    return make


def test_network(artifact: Callable[[Program], Path]) -> None:
    conv = next(c for c in CASES if c.name == "conv")
    x, w, b = conv.arrays()
    folder = artifact(network(w))
    with runtime.load(folder) as first, runtime.load(folder) as second:
        for model, array in ((first, x), (second, x * 2), (first, x * 3)):
            np.testing.assert_allclose(model.run({"x": array})[0], conv.reference(array, w, b), rtol=1e-4, atol=1e-4)
    with runtime.load(folder) as again:  # the device was closed in between
        np.testing.assert_allclose(again.run({"x": x})[0], conv.reference(x, w, b), rtol=1e-4, atol=1e-4)


def test_no_driver(artifact: Callable[[Program], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = artifact(network(next(c for c in CASES if c.name == "conv").arrays()[1]))
    monkeypatch.setenv(ENVIRONMENT, str(folder / "libcuda.so.1"))
    with pytest.raises(Exception, match=r"no CUDA driver: .*libcuda\.so\.1"):
        runtime.load(folder)


def test_other_processor(artifact: Callable[[Program], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = artifact(network(next(c for c in CASES if c.name == "conv").arrays()[1]))
    monkeypatch.setenv("ONYXC_EMULATED_SM", "75")
    with pytest.raises(Exception, match="compiled for cuda:sm_80, the device is sm_75"):
        runtime.load(folder)


def test_control_flow(artifact: Callable[[Program], Path]) -> None:
    """x = flag ? 2x + 1 : 3x + 1, then ``turns`` times x = x + 1."""
    x, y = Buffer("x", "float32", (5,), "input"), Buffer("y", "float32", (5,), "output")
    flag, turns = Buffer("flag", "bool", (), "input"), Buffer("turns", "int64", (), "input")
    value, next_value, turn = Buffer("v", "float32", (5,)), Buffer("n", "float32", (5,)), Buffer("t", "int64", ())
    count = Buffer("count", "int64", (), "output")
    branch = If(flag, scaled("twice", 2.0, x, value), scaled("thrice", 3.0, x, value))
    loop = Loop(turns, None, turn, [*scaled("once", 1.0, value, next_value), Copy(next_value, value)], count)
    program = Program("flow", [x, flag, turns], [y, count], [branch, loop, Copy(value, y)])
    array = np.arange(5, dtype=np.float32)
    with runtime.load(artifact(program)) as model:
        for chosen, number in ((True, 3), (False, 0)):
            feeds = {"x": array, "flag": np.array(chosen), "turns": np.array(number)}
            result, turned = model.run(feeds)
            np.testing.assert_array_equal(result, array * (2 if chosen else 3) + 1 + number)
            assert turned == number


def test_same_bytes(tmp_path: Path) -> None:
    weights = next(c for c in CASES if c.name == "conv").arrays()[1]
    for name in ("a", "b"):
        program = network(weights)
        write([Level(TARGET, program)], tmp_path / name, body=host.cuda_body(program, TARGET))
    files = sorted(os.listdir(tmp_path / "a"))
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_compile_error_shows_the_log() -> None:
    with pytest.raises(BuildError, match="do not compile for sm_80"):
        nvrtc.cubin('extern "C" __global__ void f() { nonsense; }', "sm_80")


def test_without_nvrtc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc.importlib.util, "find_spec", lambda name: None)
    nvrtc._root.cache_clear()
    nvrtc._library.cache_clear()
    try:
        with pytest.raises(BuildError, match=r"pip install \"onyxc\[cuda\]\""):
            nvrtc.cubin("", "sm_80")
    finally:
        nvrtc._root.cache_clear()
        nvrtc._library.cache_clear()
