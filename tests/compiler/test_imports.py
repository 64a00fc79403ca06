"""Every module of the compiler and the passes can be the first to be imported, and passes need no TVM."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HEAVY = {"tvm", "onnxruntime"}


def _modules(package: str) -> list[str]:
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    root = Path(next(iter(spec.submodule_search_locations)))
    names = [p.relative_to(root).with_suffix("").parts for p in sorted(root.rglob("*.py"))]
    return [".".join((package, *(n for n in parts if n != "__init__"))) for parts in names]


@pytest.mark.parametrize("package", ["onyxc.compiler.ir", "onyxc.compiler.loader", "onyxc.passes"])
def test_modules_import_first_and_light(package: str) -> None:
    # one process for all: what onyxc has imported is forgotten before each module
    script = f"""
import sys, importlib
import onnx, numpy, networkx
for name in {_modules(package)!r}:
    for loaded in [m for m in sys.modules if m.startswith("onyxc.")]:
        del sys.modules[loaded]
    importlib.import_module(name)
    heavy = {HEAVY!r} & set(sys.modules)
    assert not heavy, f"{{name}} imports {{heavy}}"
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
