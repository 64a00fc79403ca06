"""Each distinct convolution of a network with the direct kernels: its speed, and its share of the measured peak.

    python benchmarks/convolutions.py [MODEL] [--threads N]

Without MODEL: ResNet-50 with seeded weights. The convolutions are timed where they stand, in runs of the whole network,
so their inputs come from the caches in which the layer before left them. `--exact` keeps Winograd out. Multiply-adds
with padding are not counted here, as the kernels leave them out (`onyxc profile` counts them, as is usual).
"""

from __future__ import annotations

import argparse
import tempfile
from math import prod
from pathlib import Path
from statistics import median

import onnx
from machine import describe
from networks import light

from onyxc.backends.runtime.profile import Row, profile
from onyxc.compiler import driver
from onyxc.compiler.cli import report
from onyxc.compiler.cli.use import inputs_of
from onyxc.compiler.ir.graph import Graph, Node
from onyxc.compiler.loader import load


def main() -> None:
    """Print a table, and what all convolutions reach together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="an ONNX model of static shape")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    name = Path(options.model).stem if options.model else "resnet50"
    model = onnx.load(options.model) if options.model else light(name)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / name
        driver.compile(model, exact=True, out=folder, name=name)
        found = profile(folder, inputs_of(str(folder), []), threads=options.threads, runs=options.runs)
    peak, inside = found.machine.peak["float32"], shares_inside(load(model))
    layers: dict[str, dict[tuple[str, ...], list[Row]]] = {}  # a layer may have several kernels
    for row in found.rows:
        if row.step.nodes and row.step.nodes[0].startswith("Conv "):
            layers.setdefault(row.step.shape, {}).setdefault(tuple(row.step.nodes), []).append(row)
    times = {shape: [sum(r.seconds for r in rows) for rows in of.values()] for shape, of in layers.items()}
    flops = {
        shape: inside.get(shape, 1) * sum(r.step.flops for rows in of.values() for r in rows)
        for shape, of in layers.items()
    }
    table = [
        (shape, len(each), f"{median(each) * 1e6:.1f}", *_speed(flops[shape], sum(each), peak))
        for shape, each in times.items()
    ]
    print(describe(options.threads))
    report.table(("input * weights -> output", "layers", "us", "GFLOP/s", "of peak"), table)
    reached, share = _speed(sum(flops.values()), sum(map(sum, times.values())), peak)
    print(
        f"\nall convolutions of {name}: {reached} GFLOP/s, {share} of the measured peak of {peak / 1e9:.1f} GFLOP/s\n"
        f"(kernels for {found.target}); a run takes {found.wall * 1e3:.2f} ms"
    )


def _speed(flops: float, seconds: float, peak: float) -> tuple[str, str]:
    return f"{flops / seconds / 1e9:.1f}", f"{flops / seconds / peak:.1%}"


def shares_inside(graph: Graph) -> dict[str, float]:
    """For each shape of convolution, as `onyxc inspect` writes it: the share of multiply-adds outside of padding."""
    found = {}
    for node in graph:
        if node.is_op("Conv") and node.inputs[0] is not None and node.inputs[1] is not None:
            (n, c, *size), weights, (_, o, *out) = node.inputs[0].dims, node.inputs[1].dims, node.output.dims
            share = prod(_share(node, axis, size[axis], weights[2 + axis], out[axis]) for axis in range(len(size)))
            for data in ((n, *size, c), (n, c, *size)):  # a first layer reads the image as the model has it
                found[f"{_join(*data)} * {_join(*weights)} -> {_join(n, *out, o)}"] = share
    return found


def _share(node: Node, axis: int, size: int, kernel: int, out: int) -> float:
    """Along one axis: taps that meet the input, of all."""
    rank = len(node.output.dims) - 2
    before = node.integers("pads", (0,) * 2 * rank)[axis]
    stride, dilation = node.integers("strides", (1,) * rank)[axis], node.integers("dilations", (1,) * rank)[axis]
    taps = [o * stride + k * dilation - before for o in range(out) for k in range(kernel)]
    return sum(0 <= t < size for t in taps) / len(taps)


def _join(*sizes: int) -> str:
    return "x".join(map(str, sizes))


if __name__ == "__main__":
    main()
