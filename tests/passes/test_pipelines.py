"""Presets and TOML pipelines."""

from __future__ import annotations

from pathlib import Path

import onnx.parser
import pytest

from onyxc.compiler.check import NumericCheck
from onyxc.compiler.errors import OptionError
from onyxc.compiler.loader import load
from onyxc.compiler.transform import PassManager
from onyxc.passes.pipelines import LEVELS, from_toml, preset

MODEL = """<ir_version: 10, opset_import: ["" : 26]>
g (float[1, 3, 6, 6] x) => (float[1, 8] y)
<float[4, 3, 3, 3] w, float[4] s = {1, 2, 3, 4}, float[4] v = {1, 1, 2, 2}, int64[2] shape = {1, -1}> {
  a = Conv <pads = [1, 1, 1, 1]> (x, w)
  b = BatchNormalization(a, s, s, s, v)
  c = Relu(b)
  d = MaxPool <kernel_shape = [3, 6], strides = [3, 6]> (c)
  e = Mish(d)
  f = Identity(e)
  y = Reshape(f, shape)
}"""


def _model() -> onnx.ModelProto:
    text = MODEL.replace("float[4, 3, 3, 3] w", f"float[4, 3, 3, 3] w = {{{', '.join(['0.5', '-1', '2'] * 36)}}}")
    return onnx.parser.parse_model(text)


@pytest.mark.parametrize("level", LEVELS)
def test_presets_keep_the_results(level: int) -> None:
    graph = load(_model())
    PassManager(preset(level), observers=[NumericCheck(graph, 1e-5)]).run(graph)
    operators = [n.op for n in graph]
    assert ("BatchNormalization" in operators) == (level < 2)
    assert ("Identity" in operators) == (level < 1)


def test_no_such_level() -> None:
    with pytest.raises(OptionError, match="-O7: levels are O0, O1, O2, O3"):
        preset(7)


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text('[[pass]]\nname = "fold-constants"\nmax-bytes = 64\n[[pass]]\nname = "no-ops"\n')
    assert [str(p) for p in from_toml(path)] == ["fold-constants{max-bytes=64}", "no-ops"]
    path.write_text("")
    with pytest.raises(OptionError, match=r"expected \[\[pass\]\] tables"):
        from_toml(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[pass", "is not TOML"),
        ("pass = 3", "expected .* tables"),
        ("[[passes]]\nname = 'no-ops'", "unknown key 'passes'; did you mean 'pass'"),
        ("[[pass]]\nnames = 'no-ops'", "number 1 has no name"),
        ("[[pass]]\nname = 'no-op'", "number 1: there is no pass 'no-op'; did you mean 'no-ops'"),
        ("[[pass]]\nname = 'fold-constants'\nmax_byte = 3", "number 1: .* did you mean 'max-bytes'"),
        ("[[pass]]\nname = 'fold-constants'\nmax-bytes = 'many'", "option 'max-bytes': expected int, got 'many'"),
        ("[[pass]]\nname = 'fold-constants'\nquantized = 1", "option 'quantized': expected bool, got 1"),
        ("[[pass]]\nname = 'fold-constants'\nmax-bytes = true", "expected int, got True"),
    ],
)
def test_bad_toml(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(OptionError, match=message):
        from_toml(path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot read pipeline"):
        from_toml(tmp_path / "missing.toml")
