"""The table of an artifact's steps: every kernel call and copy in the order of the entry function, which times them.

`onyxc inspect` shows it, `onyxc profile` puts times beside it. This module needs the standard library alone, as the
artifact's users may not have onyxc's compiler.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onyxc.compiler.errors import ModelError

FILE = "steps.json"
VERSION = 1
REARRANGING = frozenset("Reshape Squeeze Unsqueeze Flatten Identity Transpose Split Expand".split())


@dataclass(frozen=True)
class Step:
    """A kernel call or a copy.

    ``nodes``: the model's nodes that it computes, "Conv name" each; ``shape``: operands and result of the one that
    computes most; ``flops``: their operations by definition, a
    multiply-add being two; ``constant_bytes``, ``read_bytes``, ``written_bytes``: weights, other operands, results;
    ``dtype``: of the first operand; ``tasks``: parts that threads share; ``note``: template, plan, and why.
    """

    kernel: str  # "copy" for a copy
    nodes: tuple[str, ...] = ()
    shape: str = ""
    flops: int = 0
    constant_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    dtype: str = "float32"
    tasks: int = 1
    note: str = ""

    @property
    def bytes(self) -> int:
        """All bytes read and written."""
        return self.constant_bytes + self.read_bytes + self.written_bytes

    @property
    def intensity(self) -> float:
        """Operations for each byte read or written."""
        return self.flops / self.bytes if self.bytes else 0.0

    @property
    def operators(self) -> str:
        """The operators of the nodes, "Conv+Relu", without rearrangements beside them; a copy's kernel is its name."""
        every = [n.partition(" ")[0] for n in self.nodes]
        return "+".join([op for op in every if op not in REARRANGING] or every) or self.kernel

    @property
    def name(self) -> str:
        """The name of the first node, or nothing."""
        return self.nodes[0].partition(" ")[2] if self.nodes else ""


def write(folder: Path, levels: Mapping[str, Sequence[Step]]) -> None:
    """Write the tables of all levels (by target) into ``folder``."""
    tables = {name: [asdict(s) for s in steps] for name, steps in levels.items()}
    text = json.dumps({"version": VERSION, "levels": tables}, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def read(folder: Path) -> dict[str, tuple[Step, ...]]:
    """The tables of the artifact in ``folder``, by target.

    Raises:
        ModelError: there is none, or it is broken.
    """
    path = folder / FILE
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        levels = found["levels"] if found["version"] <= VERSION else {}
        made = {name: tuple(Step(**{**s, "nodes": tuple(s["nodes"])}) for s in steps) for name, steps in levels.items()}
    except FileNotFoundError:
        raise ModelError(f"{folder} has no {FILE}: compile the model again") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is broken: {type(error).__name__}: {error}") from None
    if not made:
        raise ModelError(f"{path} was written by a newer onyxc: upgrade onyxc or compile the model again")
    return made
