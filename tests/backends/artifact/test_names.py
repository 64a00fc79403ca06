"""ONNX names in C."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from onyxc.backends.artifact import names


@given(st.text())
def test_any_name_becomes_an_identifier(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", names.identifier(name))


@given(st.lists(st.text(), max_size=8))
def test_identifiers_are_distinct(many: list[str]) -> None:
    made = names.identifiers(many)
    assert len(set(made)) == len(many)
    assert all(re.fullmatch(r"[A-Z0-9_]+", name) for name in made)


def test_prefixes_of_libc_are_avoided() -> None:
    assert names.identifier("pthread") == "model_pthread"
    assert names.identifier("3d/net:v2") == "model_3d_net_v2"


def test_strings_mean_the_same_to_a_c_compiler(tmp_path: Path) -> None:
    text = 'a"b\\c??/d é 漢\n\t7\x01end'
    main = f"int main(void) {{ fputs({names.string(text)}, stdout); return 0; }}"
    (tmp_path / "s.c").write_text(f"#include <stdio.h>\n{main}\n")
    subprocess.run(["cc", "s.c", "-o", "s"], cwd=tmp_path, check=True)
    assert subprocess.run([tmp_path / "s"], capture_output=True, check=True).stdout.decode() == text


def test_comments_cannot_be_closed() -> None:
    assert "*/" not in names.comment("x*/ int main") + names.comment("*\n/")
