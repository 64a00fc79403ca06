"""Whole models beside onnxruntime and OpenVINO: medians in alternating warm blocks, ratios, and their geometric mean.

    python benchmarks/models.py [MODEL ...] [--threads N] [--seconds S] [--no-light] [--input-shape NAME:1,3,8,8]

Without arguments: the nine CNN graphs of the onnx package with seeded weights. MODELs (files of static shape, or of the
shapes given) are added to them. An engine that is not installed, or cannot run a model, has a "-".
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from math import exp, log
from pathlib import Path

import onnx
from machine import describe
from networks import LIGHT, light

from onyxc.compiler import bench, driver
from onyxc.compiler.cli import options as cli
from onyxc.compiler.cli import report
from onyxc.compiler.cli.use import inputs_of
from onyxc.compiler.errors import OnyxcError


def main() -> None:
    """Print a row for each model, and the geometric means of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3, help="measuring time of a model")
    parser.add_argument("--no-light", action="store_true", help="only the models given")
    parser.add_argument("--input-shape", action="append", default=[], help="as of onyxc compile")
    options = parser.parse_args()
    engines = [e for e in bench.ENGINES if find_spec(e)]  # onnxruntime always is: onyxc needs it
    head = ("model", "onyxc ms", *(f"{e} ms" for e in bench.ENGINES), *(f"/ {e}" for e in bench.ENGINES))
    rows, ratios = [], {e: list[float]() for e in bench.ENGINES}
    with tempfile.TemporaryDirectory() as work:
        for path in _models(Path(work), options.models, not options.no_light):
            shapes = cli.bindings([], options.input_shape, [])["input_shapes"]
            driver.compile(path, out=Path(work) / "artifact", input_shapes=shapes)
            feeds = inputs_of(str(Path(work) / "artifact"), [])
            found: dict[str, bench.Timing] = {}
            for engine in engines:  # apart, so that a model that one of them refuses is timed against the other
                try:
                    ours, theirs = bench.compare(
                        Path(work) / "artifact", str(path), [engine], feeds, options.threads, options.seconds
                    )
                except OnyxcError as error:
                    print(f"{path.stem}: {error}")
                    continue
                found[engine], found["onyxc"] = theirs, ours
                ratios[engine].append(theirs.ratio)
            times = [f"{found[e].median_ms:.3f}" if e in found else "-" for e in ("onyxc", *bench.ENGINES)]
            rows.append((path.stem, *times, *(f"{found[e].ratio:.2f}" if e in found else "-" for e in bench.ENGINES)))
    means = [f"{exp(sum(map(log, r)) / len(r)):.2f}" if r else "-" for r in ratios.values()]
    worst = [f"{max(r):.2f}" if r else "-" for r in ratios.values()]
    blank = [""] * (1 + len(bench.ENGINES))
    print(describe(options.threads))
    report.table(head, [*rows, ("geometric mean", *blank, *means), ("highest", *blank, *worst)])
    print("\nratios are our time over theirs")


def _models(work: Path, given: list[Path], with_light: bool) -> Iterator[Path]:
    for name in LIGHT if with_light else ():
        path = work / f"{name}.onnx"
        onnx.save(light(name), path)
        yield path
        path.unlink()
    yield from given


if __name__ == "__main__":
    main()
