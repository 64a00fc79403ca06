"""onyxc's compiler: IR, loader, pass framework, driver, command line.

The driver's functions are handed out lazily, so that importing a pass loads neither the driver nor TVM.
"""

from __future__ import annotations

from typing import Any

_DRIVER = ("Artifact", "compile", "optimize")

__all__ = ["Artifact", "compile", "optimize"]  # by __getattr__


def __getattr__(name: str) -> Any:
    if name in _DRIVER:
        from importlib import import_module

        return getattr(import_module("onyxc.compiler.driver"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
