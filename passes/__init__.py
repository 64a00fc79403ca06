"""Graph passes: one file each, found by name or imported by class name, usable alone without TVM.

>>> from onyxc.passes import NoOps                # the class
>>> onyxc.passes.get("no-ops")                    # the same class by its name
>>> onyxc.passes.parse("fold-constants{max-bytes=1024}")(model_proto)    # a ModelProto gives a ModelProto
"""

from __future__ import annotations

from typing import Any

from onyxc.passes.registry import TABLE, available, get, make, parse, parse_many

__all__ = ["TABLE", "available", "get", "make", "parse", "parse_many"]


def __getattr__(attribute: str) -> Any:
    """Pass classes by their class names, imported on first use."""
    for name, target in TABLE.items():
        if target.endswith(f":{attribute}"):
            return get(name)
    raise AttributeError(f"module {__name__!r} has no attribute {attribute!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *(target.partition(":")[2] for target in TABLE.values())])
