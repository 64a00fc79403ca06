"""The documents: links lead somewhere, commands exist, the pass that docs/passes.md shows works."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import onnx.parser
import pytest

from onyxc.compiler.cli.app import app

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", path.read_text())
    missing = [t for t in targets if "://" not in t and not (path.parent / t).exists()]
    assert missing == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_files_that_are_named_exist(path: Path) -> None:
    names = re.findall(r"`((?:compiler|passes|backends|tests|docs|examples)/[\w/.-]+)`", path.read_text())
    invented = {"passes/canonical/merge_relu.py", "tests/passes/canonical/merge_relu.txt"}
    assert [n for n in names if not (ROOT / n).exists() and n not in invented] == []


def test_commands_that_are_named_exist() -> None:
    known = {c.name or getattr(c.callback, "__name__", "") for c in app.registered_commands}
    texts = [line for path in DOCUMENTS for line in path.read_text().splitlines()]
    used = {m for line in texts for m in re.findall(r"(?:^ {4}|`|&& )onyxc ([a-z]+)", line)}
    assert {"compile", "optimize", "demo"} <= used
    assert used <= known


def test_the_pass_of_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/passes.md").read_text(), re.DOTALL)
    module = types.ModuleType("merge_relu")
    monkeypatch.setitem(sys.modules, "merge_relu", module)  # dataclasses look there
    exec(code, module.__dict__)
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[4] x) => (float[4] y) { a = Relu (x) y = Relu (a) }'
    made = module.MergeRelu()(onnx.parser.parse_model(text))
    onnx.checker.check_model(made)
    assert [n.op_type for n in made.graph.node if n.op_type == "Relu"] == ["Relu"]
