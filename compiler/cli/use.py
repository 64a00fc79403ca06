"""`onyxc run`, `onyxc verify` and `onyxc bench`: executing artifacts."""

from __future__ import annotations

import json as json_
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from onyxc.compiler.cli import options, report
from onyxc.compiler.cli.app import USER, app
from onyxc.compiler.errors import InputError, OptionError
from onyxc.compiler.ir.graph import Array

Inputs = Annotated[list[str], typer.Option("--input", metavar="NAME=FILE.npy", help="An input; default: seeded noise.")]


@app.command()
def run(
    folder: options.Folder,
    input: Inputs = [],  # noqa: B006
    out: Annotated[str, typer.Option("-o", "--out", metavar="OUT.npz", help="Write the outputs here.")] = "",
    threads: options.Threads = 1,
    runner: options.Runner = "",
) -> None:
    """Run an artifact on arrays from files and print (or write) its outputs."""
    inputs, outputs = _specs(folder)
    feeds = _feeds(folder, input)
    results = _run(folder, feeds, threads, runner)
    names = [spec.name for spec in outputs]
    if out:
        arrays: dict[str, Any] = dict(zip(names, results, strict=True))
        np.savez(out, **arrays)
    rows = [(n, f"{r.dtype}{list(r.shape)}", _summary(r)) for n, r in zip(names, results, strict=True)]
    report.table("", ("output", "type", "values"), rows)


@app.command()
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
    """Compare an artifact with onnxruntime, output by output (or tensor by tensor)."""
    from onyxc.compiler import verification

    with tempfile.TemporaryDirectory(prefix="onyxc-verify-") as temporary, report.progress() as show:
        execute = lambda where, feeds: _run(where, feeds, threads, runner)  # noqa: E731
        if every_tensor:
            found = verification.every_tensor(model, Path(folder), Path(temporary), _feeds(folder, input), execute, show)
        else:
            feeds = [_feeds(folder, input, seed) for seed in range(1 if input else seeds)]
            found = verification.outputs(model, Path(folder), feeds, execute)
    if json:
        report.write_json([d.as_dict() for d in found], json)
    bad = [d for d in found if not d.ok]
    if json != "-":
        rows = [(d.name, d.absolute, d.relative, d.cosine, f"{d.share_equal:.4%}", "ok" if d.ok else "DIFFERS") for d in found]
        report.table("", ("tensor", "max abs", "max rel", "cosine", "equal", ""), rows)
        first = f"; the first is {bad[0].name!r}" if bad else ""
        print(f"{len(found) - len(bad)} of {len(found)} tensors agree with onnxruntime{first}")
    raise typer.Exit(USER if bad else 0)


@app.command()
def bench(
    folder: options.Folder,
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="The model, for the other engines.")] = "",
    against: Annotated[str, typer.Option(metavar="ENGINES", help="onnxruntime,openvino")] = "",
    threads: options.Threads = 1,
    seconds: Annotated[float, typer.Option(help="Measuring time.")] = 3,
    input: Inputs = [],  # noqa: B006
    json: options.JsonFile = "",
) -> None:
    """Time an artifact, in alternating warm blocks against other engines; medians and ratios."""
    from onyxc.compiler import bench as bench_

    engines = [e for e in against.split(",") if e]
    if engines and not model:
        raise OptionError("--against needs --model MODEL: the other engines run the model file")
    results = bench_.compare(Path(folder), model, engines, _feeds(folder, input), threads, seconds)
    if json:
        report.write_json(results, json)
    if json != "-":
        rows = [(r["engine"], r["median_ms"], r["min_ms"], r["runs"], r["ratio"]) for r in results]
        report.table("", ("engine", "median ms", "min ms", "runs", "onyxc / engine"), rows)


def _specs(folder: str) -> tuple[Any, Any]:
    from onyxc.backends.artifact import manifest
    from onyxc.backends.runtime.specs import specs

    found = manifest.read(Path(folder))
    return specs(found.inputs), specs(found.outputs)


def _feeds(folder: str, given: list[str], seed: int = 0) -> dict[str, Array]:
    from onyxc.compiler.engines import random_inputs

    inputs, _ = _specs(folder)
    feeds = random_inputs(inputs, seed)
    for text in given:
        name, equals, file = text.rpartition("=")
        if not equals:
            raise OptionError(f"--input {text}: write NAME=FILE.npy")
        if name not in feeds:
            raise InputError(f"--input {name}: the model has no such input; there are {', '.join(feeds)}")
        try:
            feeds[name] = np.load(file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise OptionError(f"--input {name}: cannot read {file} as a .npy file ({error})") from error
    return feeds


def _run(folder: str | Path, feeds: dict[str, Array], threads: int, runner: str) -> list[Array]:
    from onyxc.backends import runtime

    if runner:
        return runtime.run_with(str(folder), feeds, runner)
    return runtime.load(str(folder), threads=threads).run(feeds)


def _summary(array: Array) -> str:
    if array.size <= 8 or array.dtype.kind not in "fiu":
        return json_.dumps(array.ravel()[:8].astype(float).round(5).tolist())
    return f"min {array.min():.5g}  max {array.max():.5g}  mean {array.mean(dtype=np.float64):.5g}  argmax {int(array.argmax())}"
