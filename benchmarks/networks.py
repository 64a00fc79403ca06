"""The CNN graphs that the onnx package carries, with the seeded weights that the tests give them."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx

sys.path.append(str(Path(__file__).parent.parent / "tests" / "end_to_end"))

from graphs import light

FOLDER = Path(onnx.__file__).parent / "backend/test/data/light"
LIGHT = sorted(path.stem.removeprefix("light_") for path in FOLDER.glob("light_*.onnx"))

__all__ = ["LIGHT", "light"]
