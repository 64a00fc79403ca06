"""Passes by name, by class name, by text; plugins."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from shutil import copytree
from typing import ClassVar, Literal

import pytest

import onyxc.passes
from onyxc.compiler.errors import OptionError
from onyxc.compiler.ir.graph import Graph
from onyxc.compiler.transform import Pass, PassResult
from onyxc.passes import registry


@dataclass(frozen=True)
class Sample(Pass):
    """A pass with an option of every kind."""

    count: int = 1
    ratio: float = 0.5
    deep: bool = False
    names: tuple[str, ...] = ()
    block: tuple[int, int] = (1, 1)
    limit: int | None = None
    mode: Literal["fast", "exact"] = "fast"
    text: str = ""

    name: ClassVar[str] = "sample"

    def run(self, graph: Graph) -> PassResult:
        """Do nothing."""
        return PassResult()


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.TABLE, "sample", f"{__name__}:Sample")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Sample.__module__])


@pytest.mark.parametrize("name", list(onyxc.passes.TABLE))
def test_every_pass_of_the_table_loads(name: str) -> None:
    found = onyxc.passes.get(name)
    assert found.name == name
    assert getattr(onyxc.passes, found.__name__) is found
    assert onyxc.passes.parse(str(found())) == found()


@pytest.mark.usefixtures("sample")
@pytest.mark.parametrize(
    "made",
    [
        Sample(),
        Sample(count=-3, ratio=1e-3, deep=True),
        Sample(names=("a*", "b"), block=(16, 1), limit=7),
        Sample(mode="exact", text='two words {and} "quotes" \\'),
        Sample(names=("layer one",)),
    ],
)
def test_text_round_trip(made: Sample) -> None:
    assert onyxc.passes.parse(str(made)) == made


@pytest.mark.usefixtures("sample")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dead-cod", "did you mean 'dead-code'"),
        ("sample{cuont=1}", "no option 'cuont'; did you mean 'count'"),
        ("sample{count=1.5}", "option 'count': expected int, got '1.5'"),
        ("sample{count=1 count=2}", "given twice"),
        ("sample{deep=yes}", "expected bool"),
        ("sample{block=1}", "expected 2 values, got 1"),
        ("sample{mode=slow}", "not one of fast, exact"),
        ("sample{count}", "expected option=value"),
        ("sample{", "cannot read a pass"),
        ("sample sample", "is not one pass"),
    ],
)
def test_bad_text(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        onyxc.passes.parse(text)


def test_several_passes() -> None:
    made = onyxc.passes.parse_many("dead-code, fold-constants{max-bytes=1024}\nno-ops dead-code")
    assert [str(p) for p in made] == ["dead-code", "fold-constants{max-bytes=1024}", "no-ops", "dead-code"]


def test_unknown_class() -> None:
    with pytest.raises(AttributeError, match="NoSuchPass"):
        _ = onyxc.passes.NoSuchPass


class _Distribution:
    def __init__(self, name: str) -> None:
        self.name = name


def _plugins(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str, str]) -> None:
    made = []
    for distribution, name, value in points:
        point = EntryPoint(name, value, registry.GROUP)
        vars(point).update(dist=_Distribution(distribution))
        made.append(point)
    registry._plugins.cache_clear()
    monkeypatch.setattr(registry, "entry_points", lambda group: made)


@pytest.fixture(autouse=True)
def forget_plugins() -> None:
    registry._plugins.cache_clear()


def test_name_clash_with_a_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    _plugins(monkeypatch, ("other-package", "dead-code", "x:Y"))
    with pytest.raises(OptionError, match="'dead-code' is claimed by both onyxc and other-package"):
        onyxc.passes.get("dead-code")
    registry._plugins.cache_clear()


def test_name_clash_between_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    _plugins(monkeypatch, ("one", "mine", "x:Y"), ("two", "mine", "z:Y"))
    with pytest.raises(OptionError, match="'mine' is claimed by both one and two"):
        onyxc.passes.available()
    registry._plugins.cache_clear()


def test_broken_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    _plugins(monkeypatch, ("one", "mine", "no_such_module:Y"), ("one", "yours", "json:dumps"))
    with pytest.raises(OptionError, match="'mine' of one cannot be loaded"):
        onyxc.passes.get("mine")
    with pytest.raises(OptionError, match="not a subclass"):
        onyxc.passes.get("yours")
    registry._plugins.cache_clear()


def test_plugin_package(tmp_path: Path) -> None:
    """An installed outside package is found by its entry point and runs."""
    pytest.importorskip("setuptools")
    site = copytree(Path(__file__).parent.parent / "plugin", tmp_path / "site")
    # a development install without the network: setuptools writes the package's metadata beside its code
    setup = "import setuptools; setuptools.setup()"
    subprocess.run([sys.executable, "-W", "ignore", "-c", setup, "-q", "egg_info"], cwd=site, check=True)
    script = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import onnx.parser, onyxc.passes\n"
        'model = onnx.parser.parse_model(\'<ir_version: 10, opset_import: ["" : 26]> '
        "g (float[2] x) => (float[2] y) { y = Relu(x) }')\n"
        "made = onyxc.passes.parse('relu-to-abs{limit=1}')\n"
        "print(made, made(model).graph.node[0].op_type, 'tvm' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout.split() == ["relu-to-abs{limit=1}", "Abs", "False"], done.stderr
