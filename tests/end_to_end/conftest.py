"""Makes `graphs` importable, and compiles each small model once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parent))

Build = Callable[[str], tuple[onnx.ModelProto, Path]]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Name of a small model -> the model, and the folder of its artifact."""
    import graphs

    from onyxc.compiler import compile

    @cache
    def build(name: str) -> tuple[onnx.ModelProto, Path]:
        model, folder = graphs.SMALL[name](), tmp_path_factory.mktemp(name) / name
        compile(model, name=name, out=folder)
        return model, folder

    return build
