"""Where the time of a run goes: every step of an artifact timed, beside what this machine could do at best.

The program ``run`` of the artifact does the timing (`runtime/profile.c`), here, in an emulator or on a board. It runs
the model in pairs: once as always, and once with a clock that is read after each step. Times are medians over the pairs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onyxc.backends.artifact import manifest, steps
from onyxc.backends.artifact.steps import Step
from onyxc.backends.runtime.groups import flattened
from onyxc.backends.runtime.library import RunError
from onyxc.backends.runtime.model import check_machine
from onyxc.backends.runtime.roofline import Machine
from onyxc.backends.runtime.runner import start
from onyxc.backends.runtime.specs import Array, checked, specs
from onyxc.compiler.errors import ModelError


@dataclass(frozen=True)
class Row:
    """One step. ``calls``: in a run (more than one in a loop, none in the other branch of an If); ``seconds``: of all
    these calls; ``share``: of the time of all steps; ``roofline``: least possible time over the time taken."""

    step: Step
    calls: int
    seconds: float
    share: float
    roofline: float
    bound: str  # compute or memory: which roof is the lower one

    @property
    def flops(self) -> float:
        """Operations a second."""
        return self.step.flops * self.calls / self.seconds if self.seconds else 0.0

    @property
    def bandwidth(self) -> float:
        """Bytes a second, read and written."""
        return self.step.bytes * self.calls / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            **asdict(self.step),
            "bytes": self.step.bytes,
            "intensity": self.step.intensity,
            "calls": self.calls,
            "us": self.seconds * 1e6,
            "share": self.share,
            "gflops": self.flops / 1e9,
            "gb_per_s": self.bandwidth / 1e9,
            "roofline": self.roofline,
            "bound": self.bound,
        }


@dataclass(frozen=True)
class Profile:
    """``target``: the level that ran; ``wall``: seconds of a plain run, without any clock in it."""

    model: str
    target: str
    runs: int
    wall: float
    rows: tuple[Row, ...]
    machine: Machine

    @property
    def steps_seconds(self) -> float:
        """The time of all steps."""
        return sum(r.seconds for r in self.rows)

    @property
    def outside(self) -> float:
        """The share of a plain run that is spent between the steps (control flow, calls)."""
        return max(0.0, 1 - self.steps_seconds / self.wall) if self.wall else 0.0

    @property
    def flops(self) -> float:
        """Operations of a run."""
        return sum(r.step.flops * r.calls for r in self.rows)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "model": self.model,
            "target": self.target,
            "threads": self.machine.threads,
            "runs": self.runs,
            "wall_us": self.wall * 1e6,
            "steps_us": self.steps_seconds * 1e6,
            "outside": self.outside,
            "flops": self.flops,
            "machine": {
                "peak_gflops": {k: v / 1e9 for k, v in self.machine.peak.items()},
                "bandwidth": [{"block_bytes": n, "gb_per_s": v / 1e9} for n, v in self.machine.bandwidth.items()],
            },
            "steps": [r.as_dict() for r in self.rows],
        }


def profile(
    folder: str | os.PathLike[str], feeds: Mapping[str, Any], *, threads: int = 1, runs: int = 0, runner: str = ""
) -> Profile:
    """Time the artifact in ``folder`` on ``feeds`` step by step.

    ``runs``: how many pairs of runs (0: about two seconds); ``runner``: as for `run_with`.

    Raises:
        InputError: a name, dtype or shape does not fit.
        ModelError: the artifact cannot be profiled: it is CUDA's, or has no program ``run``.
        RunError: the program failed.
    """
    folder = Path(folder)
    found = manifest.read(folder)
    if found.target.startswith("cuda"):
        raise ModelError(f"{folder} is compiled for {found.target}: time its kernels with NVIDIA's nsys or ncu")
    if not runner:
        check_machine(folder, found)
    tables = steps.read(folder)
    stdin = b"".join(a.tobytes() for a in checked(specs(found.inputs), flattened(found.takes, feeds)))
    options = ["-t", str(threads), "-p", str(runs)]
    said = start(folder, found, runner, options, stdin).decode(errors="replace")
    try:
        return _read(said, found.name, tables, threads)
    except (KeyError, ValueError, IndexError):
        raise RunError(f"the program of {folder} printed no profile: {said[:200]!r}") from None


def _read(text: str, name: str, tables: Mapping[str, tuple[Step, ...]], threads: int) -> Profile:
    """The profile that the program printed (runtime/main.c says how)."""
    lines: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        key, *words = line.split()
        lines.setdefault(key, []).append(words)
    target = lines["level"][0][0]
    table, calls = tables[target], [int(w) for w in lines["calls"][0]]
    times: Array = np.array(lines["run"], np.int64)
    if not len(table) == len(calls) == times.shape[1] - 1:
        raise ValueError("another number of steps")
    wall, *spent = (np.median(times, axis=0) * 1e-9).tolist()
    peaks = dict(zip(("float32", "int8"), map(float, lines["peak"][0]), strict=True))
    machine = Machine(
        threads,
        {dtype: peak for dtype, peak in peaks.items() if peak},
        {int(size): float(rate) for size, rate in lines["bandwidth"] if float(rate)},
    )
    weights, total = sum(s.constant_bytes for s in table), sum(spent)
    rows = tuple(
        Row(
            step,
            count,
            seconds,
            seconds / total if total else 0.0,
            machine.seconds(step, weights if count == 1 else step.bytes) * count / seconds if seconds else 0.0,
            machine.bound(step, weights if count == 1 else step.bytes),
        )
        for step, count, seconds in zip(table, calls, spent, strict=True)
    )
    return Profile(name, target, len(times), wall, rows, machine)
