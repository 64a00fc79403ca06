"""`onyxc inspect`: what a model or an artifact holds, without running it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onyxc.compiler.cli import options, report

if TYPE_CHECKING:
    from onyxc.backends.artifact.manifest import Manifest

Rows = list[tuple[str, str]]


def inspect(
    path: Annotated[str, typer.Argument(metavar="MODEL|DIR", help="A model file or an artifact.")],
    json: options.JsonFile = "",
) -> None:
    """What a model or an artifact holds: inputs, outputs, sizes, operators; of an artifact, every step of a run.

    A step is a kernel call or a copy. Its operations (FLOP) are those of the model's operators by definition, its bytes
    those of the weights, of the other operands and of the results; the plan tells how its kernel works. Times: `onyxc
    profile`.
    """
    if Path(path).is_dir():
        _artifact(Path(path), json)
    else:
        _model(path, json)


def _model(path: str, json: str) -> None:
    from onyxc.compiler.ir.statistics import measure, operators
    from onyxc.compiler.loader import load

    graph = load(path)
    inputs = [f"{v.name}: {v.type}" for v in graph.inputs]
    outputs = [f"{n}: {v.type}" for n, v in zip(graph.output_names, graph.outputs, strict=True)]
    found, counts = measure(graph), dict(operators(graph).most_common())
    if json:
        facts = {"model": path, "inputs": inputs, "outputs": outputs, **found.as_dict(), "operators": counts}
        report.write_json(facts, json)
    if json == "-":
        return
    rows = [
        ("model", path),
        *_lines("inputs", inputs),
        *_lines("outputs", outputs),
        ("nodes", f"{found.nodes:,}: " + ", ".join(f"{name} {count:,}" for name, count in counts.items())),
        ("parameters", f"{found.parameters:,}, of which {found.zeros:,} are zero; all constants {_size(found.bytes)}"),
        ("operations", f"{found.flops / 1e6:,.4g} MFLOP in convolutions and matrix products of known shape"),
    ]
    report.table(("", ""), rows)


def _artifact(path: Path, json: str) -> None:
    from onyxc.backends.artifact import manifest, steps

    found = manifest.read(path)
    tables = steps.read(path) if found.steps else {}
    sides = {side: _tensors(getattr(found, side)) for side in ("inputs", "outputs")}
    files = {f.name: f.stat().st_size for f in sorted(path.iterdir()) if f.is_file()}
    if json:
        listed = {t: [{**asdict(s), "bytes": s.bytes} for s in table] for t, table in tables.items()}
        report.write_json({**asdict(found), **sides, "files": files, "steps": listed}, json)
    if json == "-":
        return
    report.table(("", ""), _facts(found, sides, files))
    if tables:
        from onyxc.compiler.cli.steps import show_steps

        for target, table in tables.items():
            print(f"\nsteps of a run on {target}" if len(tables) > 1 else "\nsteps of a run")
            show_steps(table)


def _facts(found: Manifest, sides: dict[str, list[str]], files: dict[str, int]) -> Rows:
    notes = sum(len(level.notes) for level in found.levels)
    where = f"in {found.weights}" if found.weights else "in the library"
    made = ", ".join(f"{package} {version}" for package, version in found.versions.items())
    return [
        ("name", f"{found.name} for {found.target} ({found.arch})"),
        *_lines("inputs", sides["inputs"]),
        *_lines("outputs", sides["outputs"]),
        ("memory", f"{_size(found.weight_bytes)} of weights {where}, {_size(found.arena_bytes)} for each context"),
        ("kernels", f"{found.kernels:,}" + f"; the build has remarks on {notes:,}, see the plans" * bool(notes)),
        ("files", ", ".join(f"{name} {_size(size)}" for name, size in files.items())),
        ("passes", ", ".join(dict.fromkeys(p.partition("{")[0] for p in found.passes))),
        ("options", _options(found)),
        ("model", f"sha256 {found.digest}; compiled by {made}"),
    ]


def _options(found: Manifest) -> str:
    """The options of the compilation that say something."""
    given: dict[str, Any] = found.info.get("options", {})
    return ", ".join(f"{name} {value}" for name, value in given.items() if value and name != "passes")


def _tensors(tensors: Sequence[Any]) -> list[str]:
    return [f"{t.name}: {t.dtype}{list(t.shape)}{' at most' * t.dynamic}" for t in tensors]


def _lines(title: str, lines: Sequence[str]) -> Rows:
    """A row for each line, the title beside the first."""
    return [("" if i else title, options.shorten(line, 150)) for i, line in enumerate(lines)]


def _size(count: int) -> str:
    if count < 1024:
        return f"{count} bytes"
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
