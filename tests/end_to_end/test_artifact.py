"""What an artifact needs and how it is used from C."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import graphs
import onnx
import pytest

from onyxc.compiler import compile, demo

Build = Callable[[str], tuple[onnx.ModelProto, Path]]

EXAMPLE = Path(__file__).parents[2] / "examples" / "c"
ALLOWED = re.compile(r"libc\.so|libm\.so|libpthread\.so|libdl\.so|ld-linux")


@pytest.mark.skipif(not shutil.which("readelf"), reason="readelf is not installed")
def test_needs_nothing_but_libc(built: Build) -> None:
    _, folder = built("residual")
    text = subprocess.run(["readelf", "-dW", folder / "libresidual.so"], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", text)
    assert needed
    assert [n for n in needed if not ALLOWED.match(n)] == []


@pytest.mark.parametrize("library", ["shared", "static"])
@pytest.mark.parametrize("name", ["residual", "quantized"])
def test_the_same_model_gives_the_same_bytes(tmp_path: Path, name: str, library: Literal["shared", "static"]) -> None:
    folders = [tmp_path / "first", tmp_path / "elsewhere" / "second"]
    for folder in folders:
        compile(graphs.SMALL[name](), name=name, out=folder, library=library)
    first, second = ({f.name: f.read_bytes() for f in folder.iterdir()} for folder in folders)
    assert first == second


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize("library", ["shared", "static"])
def test_the_example_in_c(tmp_path: Path, library: Literal["shared", "static"]) -> None:
    for file in EXAMPLE.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    model = Path(demo.__file__).parent / "digits.onnx"
    compile(model, out=tmp_path / "digits", input_dims={"batch": 1}, library=library)
    environment = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    done = subprocess.run(["make", "-s", "run"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "this is a 7" in done.stdout
