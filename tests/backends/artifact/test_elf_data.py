"""The object file of the weights: read by the linkers of all processors (see also the emulated artifacts)."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest
from artifact_tools import have

from onyxc.backends.artifact import elf, elf_data

DATA = bytes(range(199)) * 3


def _object(arch: str) -> bytes:
    head, tail = elf_data.wrap(arch, "block", len(DATA))
    assert len(head) == elf_data.ALIGNMENT
    return head + DATA + tail


@pytest.mark.parametrize("arch", ["x86_64", "aarch64", "armv7"])
def test_the_symbol(arch: str) -> None:
    made = _object(arch)
    assert elf.defined_symbols(made) == ["block"]
    assert elf.undefined_symbols(made) == []


@pytest.mark.parametrize("arch", ["x86_64", "aarch64", "armv7"])
@pytest.mark.skipif(not have("readelf"), reason="readelf is not installed")
def test_readelf_agrees(tmp_path: Path, arch: str) -> None:
    (tmp_path / "w.o").write_bytes(_object(arch))
    done = subprocess.run(["readelf", "-W", "-S", "-s", "w.o"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert f"{len(DATA)} OBJECT  GLOBAL HIDDEN     1 block" in done.stdout
    assert ".note.GNU-stack" in done.stdout


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the program is for x86-64")
def test_a_program_reads_the_block(tmp_path: Path) -> None:
    (tmp_path / "w.o").write_bytes(_object("x86_64"))
    (tmp_path / "main.c").write_text(
        "#include <stdio.h>\n#include <stdint.h>\nextern const char block[];\n"
        f"int main(void) {{ fwrite(block, 1, {len(DATA)}, stdout); return (uintptr_t)block % 64 ? 1 : 0; }}\n"
    )
    subprocess.run(["cc", "-Wl,--fatal-warnings", "main.c", "w.o", "-o", "main"], cwd=tmp_path, check=True)
    assert subprocess.run([tmp_path / "main"], capture_output=True, check=True).stdout == DATA
