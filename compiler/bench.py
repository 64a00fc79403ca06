"""Timing an artifact against other engines: alternating warm blocks, medians, ratios in one run.

Blocks, because interleaved single calls measure cold caches; the first runs of each block do not count.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from onyxc.backends import runtime
from onyxc.compiler import engines
from onyxc.compiler.errors import OptionError
from onyxc.compiler.verification import input_values

ENGINES = ("onnxruntime", "openvino")
WARM_UP = 2  # uncounted runs of each block
BLOCK_SECONDS = 0.1
RUNS = 15  # of each engine at least


@dataclass(frozen=True)
class Timing:
    """One engine: medians of all runs; ``ratio``: our median over its median."""

    engine: str
    runs: int
    median_ms: float
    min_ms: float
    ratio: float

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def compare(
    folder: Path, model: str, against: Sequence[str], feeds: engines.Feeds, threads: int = 1, seconds: float = 3
) -> list[Timing]:
    """The artifact and each engine of ``against`` on the same inputs.

    Raises:
        OptionError: an engine is unknown or not installed.
    """
    artifact = runtime.load(folder, threads=threads)
    runs: dict[str, engines.Run] = {"onyxc": artifact.run}
    values = input_values(artifact.manifest)
    for engine in against:
        if engine == "onnxruntime":
            runs[engine] = engines.OnnxRuntime(model, threads, values)
        elif engine == "openvino":
            if artifact.manifest.takes:
                raise OptionError("--against openvino: it takes no sequences or optionals")
            runs[engine] = engines.OpenVino(model, threads, {n: a.shape for n, a in feeds.items()}, values)
        else:
            raise OptionError(f"--against {engine}: known engines are {', '.join(ENGINES)}")
    slowest = max(min(_block(run, feeds, 2)) for run in runs.values())
    count = max(5, min(1000, int(BLOCK_SECONDS / slowest)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or len(times["onyxc"]) < RUNS:
        for name, run in runs.items():
            times[name] += _block(run, feeds, count)
    ours = median(times["onyxc"])
    return [
        Timing(name, len(made), median(made) * 1e3, min(made) * 1e3, ours / median(made)) for name, made in times.items()
    ]


def _block(run: engines.Run, feeds: engines.Feeds, count: int) -> list[float]:
    made = []
    for _ in range(WARM_UP + count):
        start = time.perf_counter()
        run(feeds)
        made.append(time.perf_counter() - start)
    return made[WARM_UP:]
