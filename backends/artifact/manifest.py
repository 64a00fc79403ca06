"""The manifest of an artifact: what it computes, for which processor, and what it was made from.

``manifest.json`` is the only file that a reader must know; it names the others. This module needs the standard
library alone, as the Python loader reads manifests where onyxc's compiler is not installed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from onyxc.backends.interface import Group
from onyxc.compiler.errors import ModelError

FILE = "manifest.json"
VERSION = 1


@dataclass(frozen=True)
class Tensor:
    """An input or output. If ``dynamic``, ``shape`` and ``bytes`` are bounds and each run has its own shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    dynamic: bool = False


@dataclass(frozen=True)
class Level:
    """One of the targets that the artifact holds code for."""

    target: str
    kernels: int
    arena_bytes: int
    notes: tuple[str, ...] = ()  # kernels that were planned again, or that touch the stack in an inner loop


@dataclass(frozen=True)
class Manifest:
    """Facts about an artifact. File names are relative to its folder; "" where there is no such file."""

    name: str
    prefix: str  # of the C functions
    target: str  # several levels have commas between them, the best first
    arch: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    arena_bytes: int  # the most that a level needs
    weight_bytes: int
    kernels: int  # of all levels
    library: str  # shared library (.so) or static archive (.a)
    header: str
    weights: str  # file of the weights; "": embedded in the library
    runner: str  # executable that runs the model from files or streams
    steps: str = ""  # table of the steps of a run (`steps.Step`)
    digest: str = ""  # sha256 of the model that was compiled
    passes: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)  # of onyxc, tvm, onnx
    info: dict[str, Any] = field(default_factory=dict)  # other facts of the compiler or backend
    takes: tuple[Group, ...] = ()  # inputs that are no single tensors
    gives: tuple[Group, ...] = ()  # all outputs, if some are no single tensors
    levels: tuple[Level, ...] = ()  # best first
    version: int = VERSION

    def write(self, folder: Path) -> None:
        """Write ``manifest.json`` into ``folder``: sorted keys, the same bytes for the same facts."""
        text = json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")


def read(folder: Path) -> Manifest:
    """The manifest of the artifact in ``folder``.

    Raises:
        ModelError: ``folder`` is not an artifact, its manifest is broken, or a newer onyxc wrote it.
    """
    path = folder / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"{folder} is not an onyxc artifact: it has no {FILE}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from None
    try:
        return _decode(found)
    except _NewerVersionError as newer:
        raise ModelError(
            f"{path} has version {newer}, this onyxc knows {VERSION}: upgrade onyxc or compile the model again"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} is broken: {type(error).__name__}: {error}") from None


def is_artifact(folder: Path) -> bool:
    """Whether onyxc, of this or another version, wrote ``folder``."""
    return bool(files(folder))


def files(folder: Path) -> set[str]:
    """Names of the files that belong to the artifact in ``folder``; none if it is not one."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return {FILE, found.get("steps", ""), *(found[key] for key in ("library", "header", "weights", "runner"))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


class _NewerVersionError(Exception):
    pass


def _decode(found: dict[str, Any]) -> Manifest:
    if found["version"] > VERSION:
        raise _NewerVersionError(found["version"])
    known = {f.name for f in fields(Manifest)}
    values = {key: value for key, value in found.items() if key in known}
    for side in ("inputs", "outputs"):
        values[side] = tuple(Tensor(**{**t, "shape": tuple(map(int, t["shape"]))}) for t in found[side])
    for side in ("takes", "gives"):
        values[side] = tuple(Group(**g) for g in found.get(side, ()))
    values["levels"] = tuple(Level(**{**v, "notes": tuple(v["notes"])}) for v in found.get("levels", ()))
    values["passes"] = tuple(found.get("passes", ()))
    return Manifest(**values)
