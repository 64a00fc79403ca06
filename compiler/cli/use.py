"""`onyxc run`, `onyxc verify` and `onyxc bench`: executing artifacts."""

from __future__ import annotations

import io
import json as json_
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from onyxc.compiler.cli import options, report
from onyxc.compiler.cli.exits import USER
from onyxc.compiler.engines import Feeds
from onyxc.compiler.errors import InputError, OptionError
from onyxc.compiler.inputs import random_inputs
from onyxc.compiler.ir.graph import Array

Inputs = Annotated[list[str], typer.Option("--input", metavar="NAME=FILE.npy", help="An input; default: seeded noise.")]


def run(
    folder: options.Folder,
    input: Inputs = [],  # noqa: B006
    out: Annotated[str, typer.Option("-o", "--out", metavar="OUT.npz", help="Write the outputs here.")] = "",
    threads: options.Threads = 1,
    runner: options.Runner = "",
) -> None:
    """Run an artifact on arrays from files and print (or write) its outputs."""
    from onyxc.backends.artifact import manifest
    from onyxc.backends.runtime.groups import arrays

    names = [t.name for t in manifest.read(Path(folder)).outputs]
    results = arrays(_run(folder, inputs_of(folder, input), threads, runner))
    if out:
        report.write_file(out, _npz(names, results))
    rows = [(n, f"{r.dtype}{list(r.shape)}", _summary(r)) for n, r in zip(names, results, strict=True)]
    report.table(("output", "type", "values"), rows)


def verify(
    model: options.ModelPath,
    folder: options.Folder,
    every_tensor: Annotated[bool, typer.Option("--every-tensor", help="Compare inner tensors too.")] = False,
    input: Inputs = [],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="How many sets of seeded inputs.")] = 1,
    threads: options.Threads = 1,
    runner: options.Runner = "",
    json: options.JsonFile = "",
) -> None:
    """Compare an artifact with onnxruntime, output by output (or tensor by tensor). Exit code 1: they differ."""
    from onyxc.compiler import verification

    def execute(where: Path, feeds: Feeds) -> list[Array]:
        return _run(where, feeds, threads, runner)

    with tempfile.TemporaryDirectory(prefix="onyxc-verify-") as work, report.progress() as show:
        if every_tensor:
            feed = inputs_of(folder, input)
            found = verification.every_tensor(model, Path(folder), Path(work), feed, execute, show)
        else:
            feeds = [inputs_of(folder, input, seed) for seed in range(1 if input else seeds)]
            found = verification.outputs(model, Path(folder), feeds, execute)
    if json:
        report.write_json([d.as_dict() for d in found], json)
    bad = [d for d in found if not d.ok]
    if json != "-":
        verdict = {True: "ok", False: "DIFFERS"}
        rows = [(d.name, d.absolute, d.relative, d.cosine, f"{d.share_equal:.4%}", verdict[d.ok]) for d in found]
        report.table(("tensor", "max abs", "max rel", "cosine", "equal", ""), rows)
        first = f"; the first that differs is {bad[0].name!r}" if bad else ""
        print(f"{len(found) - len(bad)} of {len(found)} tensors agree with onnxruntime{first}")
    raise typer.Exit(USER if bad else 0)


def bench(
    folder: options.Folder,
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="The model, for the other engines.")] = "",
    against: Annotated[str, typer.Option(metavar="ENGINES", help="onnxruntime,openvino")] = "",
    threads: options.Threads = 1,
    seconds: Annotated[float, typer.Option(min=0, help="Measuring time.")] = 3,
    input: Inputs = [],  # noqa: B006
    json: options.JsonFile = "",
) -> None:
    """Time an artifact, in alternating warm blocks against other engines; medians and ratios."""
    from onyxc.compiler import bench as bench_

    engines = [e for e in against.split(",") if e]
    if engines and not model:
        raise typer.BadParameter("needs --model MODEL: the other engines run the model file", param_hint="--against")
    results = bench_.compare(Path(folder), model, engines, inputs_of(folder, input), threads, seconds)
    if json:
        report.write_json([r.as_dict() for r in results], json)
    if json != "-":
        rows = [(r.engine, r.median_ms, r.min_ms, r.runs, r.ratio) for r in results]
        report.table(("engine", "median ms", "min ms", "runs", "onyxc / engine"), rows)


def inputs_of(folder: str, given: Sequence[str], seed: int = 0) -> Feeds:
    """The artifact's inputs: what was given by files, and seeded noise for the others; lists for sequences."""
    from onyxc.backends.artifact import manifest
    from onyxc.backends.runtime.groups import gathered
    from onyxc.backends.runtime.specs import specs

    made = manifest.read(Path(folder))
    feeds = random_inputs(specs(made.inputs), seed)
    for text in given:
        name, equals, file = text.rpartition("=")
        if not equals:
            raise OptionError(f"--input {text}: write NAME=FILE.npy")
        if name not in feeds:
            raise InputError(f"--input {name}: the model has no such input; there are {', '.join(feeds) or 'none'}")
        try:
            with open(file, "rb") as opened:
                found = np.load(opened, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise OptionError(f"--input {name}: cannot read {file} as a .npy file ({error})") from error
        if not isinstance(found, np.ndarray):
            raise OptionError(f"--input {name}: {file} holds several arrays; give a .npy file")
        feeds[name] = found
    return gathered(made.takes, feeds)


def _run(folder: str | Path, feeds: Feeds, threads: int, runner: str) -> list[Any]:
    from onyxc.backends import runtime

    if runner:
        return runtime.run_with(folder, feeds, runner, threads=threads)
    return runtime.load(folder, threads=threads).run(feeds)


def _npz(names: Sequence[str], arrays: Sequence[Array]) -> bytes:
    """An .npz file (np.savez takes names as keywords, and some are its own)."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, array in zip(names, arrays, strict=True):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return made.getvalue()


def _summary(array: Array) -> str:
    if array.dtype.kind == "c":
        return str(array.ravel()[:8])
    if array.size <= 8 or array.dtype.kind == "b":
        return json_.dumps(array.ravel()[:8].astype(float).round(5).tolist())
    numbers = array.astype(np.float64)
    return f"min {numbers.min():.5g}  max {numbers.max():.5g}  mean {numbers.mean():.5g}  argmax {int(numbers.argmax())}"
