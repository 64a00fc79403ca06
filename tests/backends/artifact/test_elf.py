"""Renaming symbols of object files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from artifact_tools import object_code

from onyxc.backends.artifact import elf
from onyxc.compiler.errors import BuildError

CALLER = """
extern int callee(int);
extern char *getenv(const char *);
int caller(int x) { return getenv("?") ? 0 : callee(x); }
"""
CALLEE = "int callee(int x) { return 3 * x; }"


@pytest.mark.parametrize("arch", ["x86_64", pytest.param("armv7", marks=pytest.mark.slow)])
def test_definitions_and_their_uses_get_the_prefix(arch: str) -> None:
    made = elf.prefix_symbols([object_code(arch, CALLER), object_code(arch, CALLEE)], "m__")
    assert elf.defined_symbols(made[0]) == ["m__caller"]
    assert elf.defined_symbols(made[1]) == ["m__callee"]
    assert {"m__callee", "getenv"} <= set(elf.undefined_symbols(made[0]))


def test_renamed_objects_link_and_run(tmp_path: Path) -> None:
    objects = [object_code(text=CALLER), object_code(text=CALLEE)]
    for i, data in enumerate(elf.prefix_symbols(objects, "m__") + elf.prefix_symbols(objects, "other_")):
        (tmp_path / f"{i}.o").write_bytes(data)
    (tmp_path / "main.c").write_text(
        "int m__caller(int); int other_caller(int); int main(void) { return m__caller(2) + other_caller(3); }"
    )
    subprocess.run(["cc", "main.c", "0.o", "1.o", "2.o", "3.o", "-o", "main"], cwd=tmp_path, check=True)
    assert subprocess.run([tmp_path / "main"]).returncode == 15


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"MZ" * 100, object_code()[:200]])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(BuildError, match="object code"):
        elf.prefix_symbols([data], "m__")
