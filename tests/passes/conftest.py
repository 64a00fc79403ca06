"""Golden cases: ``tests/passes/<folder>/<case>.txt`` holds a pipeline, a model in ONNX text, and our text after it.

Lines of ``#`` at the top say what the case shows. A line ``random float[8, 3, 3, 3] w`` in the body makes an
initializer of seeded normal numbers (positive ones where the name begins with var). ``pytest --update`` writes what the
pipeline gives now. Every case also checks that the verifier holds, that a second run changes nothing, and that the
results are the same.
"""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", help="write the golden cases anew")


@pytest.fixture
def update(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_case" in metafunc.fixturenames:
        paths = sorted(HERE.glob("*/*.txt"))
        metafunc.parametrize("golden_case", paths, ids=[f"{p.parent.name}/{p.stem}" for p in paths])
