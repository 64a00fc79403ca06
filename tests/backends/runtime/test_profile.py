"""Profiles of artifacts made by hand: every step, how often it ran, sums; nothing depends on how long it took."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from artifact_tools import call, chain, constant, have, object_code, tensor, vector

from onyxc.backends.artifact import steps
from onyxc.backends.artifact.level import Level
from onyxc.backends.artifact.write import write
from onyxc.backends.program import If, Loop, Program, Step
from onyxc.backends.runtime.library import RunError
from onyxc.backends.runtime.profile import Profile, profile
from onyxc.backends.runtime.runner import run_with
from onyxc.backends.target import get
from onyxc.compiler.errors import InputError, ModelError

HOST = get("host")


def build(out: Path, program: Program, *targets: str) -> Path:
    levels = [Level(get(t), program, [object_code(get(t).arch)]) for t in targets or ("host",)]
    write(levels, out)
    return out


def choice() -> Program:
    """y = 2x or x + x by the sign of x[0], then four times that until y[0] >= 100, but five times at most."""
    x, t, y = tensor("x", kind="input"), tensor("t"), tensor("y", kind="output")
    positive, going = tensor("p", (), "bool"), tensor("g", (), "bool")
    turn, count = tensor("i", (), "int64"), tensor("n", (), "int64")
    body: list[Step] = [call("twice", y, t), call("twice", t, y), call("first_below_100", y, going, tasks=1)]
    return Program(
        "choice", [x], [y],
        [
            call("first_positive", x, positive, tasks=1),
            If(positive, [call("twice", x, y)], [call("add", x, x, y)]),
            call("first_below_100", y, going, tasks=1),
            Loop(constant("trip", 5, "int64"), going, turn, body, count),
        ],
    )  # fmt: skip


def check(found: Profile) -> None:
    """What holds of every profile."""
    assert found.wall > 0
    assert all(r.seconds >= 0 and 0 <= r.share <= 1 for r in found.rows)
    assert all(r.seconds == 0 and r.roofline == 0 for r in found.rows if not r.calls)
    assert found.steps_seconds == sum(r.seconds for r in found.rows)
    assert sum(r.share for r in found.rows) == pytest.approx(1) or not found.steps_seconds
    assert 0 <= found.outside <= 1
    assert found.machine.peak["float32"] > 0
    assert set(found.machine.bandwidth) == {(16 << 10) << 2 * i for i in range(8)}
    assert all(rate > 0 for rate in found.machine.bandwidth.values())


@pytest.mark.parametrize("threads", [1, 2])
def test_a_chain(tmp_path: Path, threads: int) -> None:
    folder = build(tmp_path / "m", chain(elements=10_000, steps=4, work=10**9))
    found = profile(folder, {"x": vector(10_000)}, threads=threads, runs=3)
    check(found)
    assert (found.model, found.target, found.runs, found.machine.threads) == ("chain", HOST.name, 3, threads)
    assert tuple(r.step for r in found.rows) == steps.read(folder)[HOST.name]
    assert [r.calls for r in found.rows] == [1] * 4
    assert all(r.bandwidth > 0 and r.bound == "memory" for r in found.rows)


@pytest.mark.parametrize(("first", "calls"), [(50.0, [1, 1, 0, 1, 0, 0, 0]), (2.0, [1, 1, 0, 1, 3, 3, 3])])
def test_branches_and_turns_are_counted(tmp_path: Path, first: float, calls: list[int]) -> None:
    x = np.full(16, first, "f4")
    found = profile(build(tmp_path / "m", choice()), {"x": x}, runs=2)
    check(found)
    assert [r.calls for r in found.rows] == calls
    other = profile(tmp_path / "m", {"x": np.full(16, -first, "f4")}, runs=1)
    assert [r.calls for r in other.rows] == [1, 0, 1, 1, 5, 5, 5]


def test_as_json(tmp_path: Path) -> None:
    found = profile(build(tmp_path / "m", chain()), {"x": vector()}, runs=1).as_dict()
    rows = found["steps"]
    assert isinstance(rows, list)
    keys = {"kernel", "nodes", "us", "share", "gflops", "gb_per_s", "intensity", "roofline", "bound", "note", "calls"}
    assert all(keys <= row.keys() for row in rows)
    assert {"model", "target", "threads", "runs", "wall_us", "steps_us", "outside", "machine"} <= found.keys()


def test_the_number_of_runs_is_chosen(tmp_path: Path) -> None:
    assert profile(build(tmp_path / "m", chain()), {"x": vector()}).runs == 500


def test_the_level_that_runs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build(tmp_path / "m", chain(), "x86-64-v3", "x86-64-v2")
    monkeypatch.setenv("ONYXC_LEVEL", "x86-64-v2")
    assert profile(folder, {"x": vector()}, runs=1).target == "x86-64-v2"


def test_a_profiled_artifact_computes_as_before(tmp_path: Path) -> None:
    folder = build(tmp_path / "m", chain(elements=100))
    expected = run_with(folder, {"x": vector(100)}, "")[0]
    profile(folder, {"x": vector(100)}, runs=2)
    np.testing.assert_array_equal(run_with(folder, {"x": vector(100)}, "")[0], expected)


def test_what_cannot_be_profiled_is_refused(tmp_path: Path) -> None:
    folder = build(tmp_path / "m", chain())
    with pytest.raises(InputError, match="'x' is missing"):
        profile(folder, {})
    (folder / "steps.json").rename(folder / "other.json")
    with pytest.raises(ModelError, match=r"no steps\.json: compile the model again"):
        profile(folder, {"x": vector()})
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"arch": "x86_64"', '"arch": "riscv64"'))
    with pytest.raises(ModelError, match="by an emulator"):
        profile(folder, {"x": vector()})
    (folder / "manifest.json").write_text(
        text.replace(f'"target": "{HOST.name}",\n  "ver', '"target": "cuda:sm_80",\n  "ver')
    )
    with pytest.raises(ModelError, match="nsys"):
        profile(folder, {"x": vector()})


@pytest.mark.parametrize("said", ["", "level unknown\ncalls 1\nrun 5 5", "level {}\ncalls 1 1\nrun 5 5 5\npeak 1 1"])
def test_what_the_program_says_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    folder = build(tmp_path / "m", chain())
    said = said.format(HOST.name)
    monkeypatch.setattr("onyxc.backends.runtime.profile.start", lambda *_: said.encode())
    with pytest.raises(RunError, match="printed no profile"):
        profile(folder, {"x": vector()})


@pytest.mark.slow
@pytest.mark.skipif(not have("qemu-aarch64"), reason="qemu-aarch64 is not installed (apt-get install qemu-user)")
@pytest.mark.skipif(not find_spec("ziglang"), reason="ziglang is not installed (onyxc[cross])")
def test_by_a_runner(tmp_path: Path) -> None:
    folder = build(tmp_path / "m", chain(), "aarch64")
    found = profile(folder, {"x": vector()}, runs=1, runner="qemu-aarch64 -cpu max")
    check(found)
    assert (found.target, [r.calls for r in found.rows]) == ("aarch64", [1, 1, 1])
