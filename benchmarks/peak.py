"""What one core of this machine can do at most: arithmetic in registers, and reading of blocks of memory.

    python benchmarks/peak.py [--threads N] [--target host ...]

The micro-benchmark is part of every artifact (backends/runtime/peak.c); this compiles a model of one node for each
target and has it measured there.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx.parser
from machine import describe

from onyxc.backends.runtime.profile import profile
from onyxc.backends.runtime.roofline import Machine, size_text
from onyxc.compiler import driver
from onyxc.compiler.cli import report

MODEL = '<ir_version: 8, opset_import: ["" : 17]> relu (float[64] x) => (float[64] y) { y = Relu (x) }'


def measure(target: str, threads: int) -> Machine:
    """The limits of this machine for code of ``target``."""
    with tempfile.TemporaryDirectory() as work:
        driver.compile(onnx.parser.parse_model(MODEL), target=target, out=Path(work) / "relu")
        return profile(Path(work) / "relu", {"x": np.zeros(64, "float32")}, threads=threads, runs=1).machine


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--target", nargs="+", default=["host", "x86-64-v3", "x86-64-v2"])
    options = parser.parse_args()
    rows: dict[str, list[object]] = {}
    for target in options.target:
        machine = measure(target, options.threads)
        for kind, unit in (("float32", "GFLOP/s float32"), ("int8", "GOP/s int8")):
            rows.setdefault(unit, []).append(round(machine.peak[kind] / 1e9, 1) if kind in machine.peak else "-")
        for size, rate in machine.bandwidth.items():
            rows.setdefault(f"GB/s from {size_text(size)}", []).append(round(rate / 1e9, 1))
    print(describe(options.threads))
    report.table(("", *options.target), [(name, *values) for name, values in rows.items()])


if __name__ == "__main__":
    main()
