"""Running artifacts from Python with numpy alone: ``load("DIR").run({"x": array})``.

Imports nothing of onyxc's compiler but its error classes, so neither TVM nor onnx need be there.
"""

from __future__ import annotations

from onyxc.backends.runtime.model import Model, load
from onyxc.backends.runtime.runner import run_with

__all__ = ["Model", "load", "run_with"]
