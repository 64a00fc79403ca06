"""Who imports whom: each module works as the first import, and the light ones stay light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = {"compiler/demo/train.py"}  # needs torch

# Runs in a fresh interpreter: forks for each module, so that the heavy packages are not loaded once a module.
FIRST = """
import importlib, os, sys
for package in ("tvm", "onnx", "numpy"):
    importlib.import_module(package)
for name in sys.argv[1:]:
    pid = os.fork()
    if pid == 0:
        try:
            importlib.import_module(name)
        except BaseException as error:
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""


def modules() -> list[str]:
    found = []
    for folder in ("compiler", "passes", "backends"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if str(path.relative_to(ROOT)) not in SCRIPTS:
                found.append(".".join(("onyxc", *(p for p in parts if p != "__init__"))))
    return found


def python(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_can_be_the_first() -> None:
    assert python(FIRST, *modules()) == ""


@pytest.mark.parametrize(
    ("imports", "absent"),
    [
        ("onyxc.backends.runtime", ("tvm", "onnx", "onnxruntime", "networkx", "onyxc.passes", "onyxc.compiler.ir")),
        ("onyxc.compiler", ("tvm", "onnx", "onyxc.passes", "onyxc.backends", "onyxc.compiler.driver")),
        ("onyxc.compiler.ir.graph", ("tvm", "onnxruntime", "onyxc.passes", "onyxc.backends")),
        (",".join(m for m in modules() if m.startswith("onyxc.passes")), ("tvm", "onnxruntime", "onyxc.backends")),
        ("onyxc.compiler.cli", ("tvm", "onnxruntime")),
        ("onyxc.backends.target", ("tvm", "onnx", "onnxruntime")),
    ],
)
def test_what_an_import_leaves_out(imports: str, absent: tuple[str, ...]) -> None:
    loaded = python(f"import sys, {imports}\nprint(*sys.modules)").split()
    assert [m for m in loaded if m in absent] == []


def test_the_facade_hands_out_the_driver() -> None:
    text = python("import onyxc.compiler as c; print(c.compile.__module__, c.optimize.__name__, c.Artifact.__name__)")
    assert text.split() == ["onyxc.compiler.driver", "optimize", "Artifact"]
