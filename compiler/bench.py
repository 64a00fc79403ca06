"""Timing an artifact against other engines: alternating warm blocks, medians, ratios in one run.

Blocks, because interleaved single calls measure cold caches; the first runs of each block do not count.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

from onyxc.backends import runtime
from onyxc.compiler import engines
from onyxc.compiler.errors import OptionError
from onyxc.compiler.ir.graph import Array

WARM_UP = 2
BLOCK_SECONDS = 0.1


def compare(
    folder: Path, model: str, against: list[str], feeds: dict[str, Array], threads: int, seconds: float
) -> list[dict[str, Any]]:
    """A row for each engine: name, runs, median and minimum in milliseconds, our median over its."""
    artifact = runtime.load(str(folder), threads=threads)
    runs: dict[str, engines.Run] = {"onyxc": artifact.run}
    for engine in against:
        if engine == "onnxruntime":
            runs[engine] = engines.onnxruntime(model, threads)
        elif engine == "openvino":
            runs[engine] = engines.openvino(model, threads, {n: a.shape for n, a in feeds.items()})
        else:
            raise OptionError(f"--against {engine}: known engines are onnxruntime and openvino")
    first = {name: min(_block(run, feeds, 2)) for name, run in runs.items()}
    count = max(5, min(1000, int(BLOCK_SECONDS / max(first.values()))))
    times: dict[str, list[float]] = {name: [] for name in runs}
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or len(times["onyxc"]) < 15:
        for name, run in runs.items():
            times[name] += _block(run, feeds, count)
    ours = median(times["onyxc"])
    return [
        {
            "engine": name,
            "runs": len(values),
            "median_ms": median(values) * 1e3,
            "min_ms": min(values) * 1e3,
            "ratio": ours / median(values),
        }
        for name, values in times.items()
    ]


def _block(run: engines.Run, feeds: dict[str, Array], count: int) -> list[float]:
    made = []
    for _ in range(WARM_UP + count):
        start = time.perf_counter()
        run(feeds)
        made.append(time.perf_counter() - start)
    return made[WARM_UP:]
