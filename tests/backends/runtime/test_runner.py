"""Artifacts run through a command: emulators of other processors, and ssh."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from artifact_tools import chain, have, object_code, vector

from onyxc.backends import runtime
from onyxc.backends.artifact.level import Level
from onyxc.backends.artifact.write import write
from onyxc.backends.runtime.library import RunError
from onyxc.backends.target import get
from onyxc.compiler.errors import InputError, OptionError

EXPECTED = vector(5000) + np.float32(3) * np.arange(5000, dtype="f4")
FEEDS = {"x": vector(5000)}

ARM = [
    ("aarch64", "qemu-aarch64 -cpu cortex-a53"),
    ("aarch64+dotprod", "qemu-aarch64 -cpu max"),
    ("armv7", "qemu-arm -cpu cortex-a7"),
]


def _build(out: Path, target: str, **options: Literal["beside", "static"]) -> None:
    program = chain(elements=5000, work=10**9)
    write([Level(get(target), program, [object_code(get(target).arch)])], out, **options)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(("target", "runner"), ARM)
@pytest.mark.parametrize("options", [{}, {"weights": "beside"}, {"library": "static"}])
def test_emulated(tmp_path: Path, target: str, runner: str, options: dict[str, Literal["beside", "static"]]) -> None:
    if not have(runner.split()[0]):
        pytest.skip(f"{runner.split()[0]} is not installed (apt-get install qemu-user)")
    if not find_spec("ziglang"):
        pytest.skip("ziglang is not installed (onyxc[cross])")
    _build(tmp_path / "m", target, **options)
    _build(tmp_path / "again", target, **options)
    for path in (tmp_path / "m").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
    for threads in (1, 2):
        np.testing.assert_array_equal(runtime.run_with(tmp_path / "m", FEEDS, runner, threads=threads)[0], EXPECTED)


@pytest.mark.slow
@pytest.mark.skipif(not have("qemu-aarch64"), reason="qemu-aarch64 is not installed (apt-get install qemu-user)")
def test_a_processor_without_the_feature_is_told(tmp_path: Path) -> None:
    _build(tmp_path / "m", "aarch64+dotprod")
    with pytest.raises(RunError, match="lacks dotprod"):
        runtime.run_with(tmp_path / "m", FEEDS, "qemu-aarch64 -cpu cortex-a53")


@pytest.mark.parametrize("options", [{}, {"weights": "beside"}, {"library": "static"}])
def test_ssh_gets_the_files_and_leaves_nothing(
    tmp_path: Path, options: dict[str, Literal["beside", "static"]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = tmp_path / "ssh"  # an ssh to this machine: drops option and host, gives the rest to a shell
    ssh.write_text('#!/bin/sh\nshift 3\nexec sh -c "$*"\n')
    ssh.chmod(0o755)
    _build(tmp_path / "m", "host", **options)
    before = set(os.listdir("/tmp"))
    found = runtime.run_with(tmp_path / "m", FEEDS, f"{ssh} -p 22 board", threads=2)
    np.testing.assert_array_equal(found[0], EXPECTED)
    assert not [name for name in set(os.listdir("/tmp")) - before if name.startswith("onyxc.")]


def test_errors_of_runners(tmp_path: Path) -> None:
    _build(tmp_path / "m", "host")
    for runner, message in [
        ("no-such-emulator", "cannot start the runner 'no-such-emulator'"),
        ("false", "exit code 1"),
        ("echo", "which are not the outputs y: float32"),
        (f"{sys.executable} -c 'import os; os.kill(os.getpid(), 4)'", "signal 4"),
    ]:
        with pytest.raises(RunError, match=message):
            runtime.run_with(tmp_path / "m", FEEDS, runner)
    with pytest.raises(OptionError, match="not a command"):
        runtime.run_with(tmp_path / "m", FEEDS, "qemu 'open")
    with pytest.raises(InputError, match="'x' is missing"):
        runtime.run_with(tmp_path / "m", {}, "")
