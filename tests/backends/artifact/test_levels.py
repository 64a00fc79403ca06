"""Several processor levels in one artifact: the best one that runs is taken, or the one that the environment names."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from artifact_tools import chain, have, object_code, vector

from onyxc.backends import runtime
from onyxc.backends.artifact import manifest
from onyxc.backends.artifact.level import Level
from onyxc.backends.artifact.write import write
from onyxc.backends.runtime.library import RunError
from onyxc.backends.target import Target, get

NEW = replace(get("x86-64-v2"), name="new", features=("no-such-feature",))
GOOD = replace(get("x86-64-v2"), name="good+1", features=())
PLAIN = replace(get("x86-64-v2"), name="plain", features=())
STEPS = {"new": 5, "good+1": 3, "plain": 2}  # each level computes something else, to tell which one ran

pytestmark = pytest.mark.skipif(get("host").arch != "x86_64", reason="the kernels are compiled for x86-64")


def build(out: Path, *targets: Target, **options: Any) -> manifest.Manifest:
    made = [Level(t, chain(steps=STEPS[t.name]), [object_code()], notes=[f"of {t.name}"]) for t in targets]
    return write(made, out, **options)


def result(steps: int) -> Any:
    return vector() + np.float32(steps) * np.arange(16, dtype="f4")


@pytest.fixture(autouse=True)
def no_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONYXC_LEVEL", raising=False)


@pytest.mark.parametrize("weights", ["embedded", "beside"])
def test_the_best_that_runs_is_taken(tmp_path: Path, weights: Literal["embedded", "beside"]) -> None:
    build(tmp_path / "m", NEW, GOOD, PLAIN, weights=weights)
    with runtime.load(tmp_path / "m", threads=2) as model:
        assert model.level == "good+1"
        np.testing.assert_array_equal(model.run({"x": vector()})[0], result(3))
    np.testing.assert_array_equal(runtime.run_with(tmp_path / "m", {"x": vector()}, "")[0], result(3))


def test_the_environment_names_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path / "m", NEW, GOOD, PLAIN)
    monkeypatch.setenv("ONYXC_LEVEL", "plain")
    with runtime.load(tmp_path / "m") as model:
        assert model.level == "plain"
        np.testing.assert_array_equal(model.run({"x": vector()})[0], result(2))
    monkeypatch.setenv("ONYXC_LEVEL", "")
    assert runtime.load(tmp_path / "m").level == "good+1"


@pytest.mark.parametrize(
    ("level", "message"),
    [("new", "lacks no-such-feature"), ("other", "ONYXC_LEVEL is other, but the artifact holds new,good\\+1,plain")],
)
def test_a_level_that_cannot_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str, message: str) -> None:
    build(tmp_path / "m", NEW, GOOD, PLAIN)
    monkeypatch.setenv("ONYXC_LEVEL", level)
    with pytest.raises(RunError, match=message):
        runtime.load(tmp_path / "m")


def test_no_level_runs(tmp_path: Path) -> None:
    build(tmp_path / "m", NEW)
    with pytest.raises(RunError, match=r"this processor lacks no-such-feature.*another --target"):
        runtime.load(tmp_path / "m")


def test_the_manifest_lists_the_levels(tmp_path: Path) -> None:
    made = build(tmp_path / "m", GOOD, PLAIN)
    assert manifest.read(tmp_path / "m") == made
    assert made.target == "good+1,plain"
    assert [(v.target, v.kernels, v.notes) for v in made.levels] == [
        ("good+1", 3, ("of good+1",)), ("plain", 2, ("of plain",)),
    ]  # fmt: skip
    assert made.kernels == 5
    assert made.arena_bytes == max(v.arena_bytes for v in made.levels)


def test_equal_weights_are_kept_once(tmp_path: Path) -> None:
    one = build(tmp_path / "one", GOOD)
    assert build(tmp_path / "two", GOOD, PLAIN).weight_bytes == one.weight_bytes


@pytest.mark.parametrize("library", ["shared", "static"])
def test_the_same_bytes_again(tmp_path: Path, library: Literal["shared", "static"]) -> None:
    for name in ("a", "b"):
        build(tmp_path / name, GOOD, PLAIN, library=library)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("library", ["shared", "static"])
def test_from_c(tmp_path: Path, library: Literal["shared", "static"]) -> None:
    build(tmp_path / "m", NEW, GOOD, PLAIN, library=library)
    (tmp_path / "main.c").write_text("""
#include "chain.h"
#include <stdio.h>
int main(void) {
    chain_context *context = chain_create(1);
    if (!context || chain_level(NULL)) return 1;
    puts(chain_level(context));
    chain_destroy(context);
    return 0;
}
""")
    file = "libchain.so" if library == "shared" else "libchain.a"
    command = ["cc", "-Wall", "-Werror", "-Im", "main.c", f"m/{file}", "-Wl,-rpath,$ORIGIN/m", "-lpthread", "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True)
    assert done.stdout == "good+1\n"


@pytest.mark.skipif(not have("qemu-x86_64"), reason="qemu-x86_64 is not installed (apt-get install qemu-user)")
@pytest.mark.parametrize(("processor", "steps"), [("Nehalem", 2), ("Haswell", 3)])
def test_other_processors_take_theirs(tmp_path: Path, processor: str, steps: int) -> None:
    levels = [("x86-64-v4", 4), ("x86-64-v3", 3), ("x86-64-v2", 2)]
    write([Level(get(name), chain(steps=count), [object_code()]) for name, count in levels], tmp_path / "m")
    (found,) = runtime.run_with(tmp_path / "m", {"x": vector()}, f"qemu-x86_64 -cpu {processor}")
    np.testing.assert_array_equal(found, result(steps))
