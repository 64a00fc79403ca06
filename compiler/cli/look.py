"""`onyxc inspect`, `show`, `passes` and `targets`: looking without running."""

from __future__ import annotations

from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from onyxc.compiler.cli import options, report
from onyxc.compiler.cli.app import app


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(metavar="MODEL|DIR", help="A model file or an artifact.")],
    json: options.JsonFile = "",
) -> None:
    """What a model or an artifact holds: inputs, outputs, sizes, operators."""
    facts = _artifact(Path(path)) if Path(path).is_dir() else _model(path)
    if json:
        report.write_json(facts, json)
    if json == "-":
        return
    rows = []
    for key, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        elif isinstance(value, list | tuple):
            value = "\n".join(options.shorten(str(v), 120) for v in value)
        rows.append((key, str(value)))
    report.table(("", ""), rows)


def _model(path: str) -> dict[str, Any]:
    from onyxc.compiler.ir.statistics import measure, operators
    from onyxc.compiler.loader import load

    graph = load(path)
    return {
        "model": path,
        "inputs": [f"{v.name}: {v.type}" for v in graph.inputs],
        "outputs": [f"{n}: {v.type}" for n, v in zip(graph.output_names, graph.outputs, strict=True)],
        **measure(graph).as_dict(),
        "operators": dict(operators(graph).most_common()),
    }


def _artifact(path: Path) -> dict[str, Any]:
    from onyxc.backends.artifact import manifest

    found = manifest.read(path)
    facts = asdict(found)
    for side in ("inputs", "outputs"):
        facts[side] = [f"{t.name}: {t.dtype}{list(t.shape)}{' at most' * t.dynamic}" for t in getattr(found, side)]
    facts["files"] = {f.name: f"{f.stat().st_size} bytes" for f in sorted(path.iterdir()) if f.is_file()}
    return facts


@app.command()
def show(
    model: options.ModelPath,
    svg: Annotated[str, typer.Option("--svg", metavar="FILE", help="Draw the graph into an SVG file.")] = "",
    level: Annotated[int, typer.Option("-O", min=-1, max=3, help="After the passes of this level.")] = -1,
    names: Annotated[bool, typer.Option("--names", help="Names of the model instead of numbers.")] = False,
    input_dim: options.Dims = [],  # noqa: B006
    input_shape: options.Shapes = [],  # noqa: B006
    input_value: options.Values = [],  # noqa: B006
) -> None:
    """Print the graph's text form, or draw it."""
    from onyxc.compiler import driver
    from onyxc.compiler.ir.text import format_graph
    from onyxc.passes import pipelines

    passes = pipelines.preset(level) + pipelines.finish(level) if level >= 0 else ()
    graph, _ = driver.optimize(model, passes, **options.bindings(input_dim, input_shape, input_value))
    if svg:
        from onyxc.compiler.ir.draw import to_svg

        report.write_file(svg, to_svg(graph).encode())
    else:
        print(format_graph(graph, names=names), end="")


@app.command()
def passes(json: options.JsonFile = "") -> None:
    """List the passes with their options."""
    import onyxc.passes as all_passes

    rows: list[dict[str, Any]] = []
    for name in sorted(all_passes.available()):
        made = all_passes.get(name)
        defaults = {f.name.replace("_", "-"): _default(f) for f in fields(made)}
        first = (made.__doc__ or "").strip().splitlines()[0] if made.__doc__ else ""
        rows.append({"name": name, "options": defaults, "does": first})
    if json:
        report.write_json(rows, json)
    if json != "-":
        report.table(
            ("pass", "options", "what it does"),
            [(r["name"], " ".join(f"{k}={_short(v)}" for k, v in r["options"].items()), r["does"]) for r in rows],
        )  # fmt: skip


def _default(field: Any) -> Any:
    return None if field.default is MISSING else field.default


def _short(value: Any) -> str:
    return options.shorten(",".join(map(str, value)) if isinstance(value, tuple) else str(value), 40)


@app.command()
def targets(json: options.JsonFile = "") -> None:
    """List the processors that models can be compiled for."""
    from onyxc.backends.target import PRESETS, host

    rows = [
        {"name": t.name, "vector": t.vector_bytes * 8, "registers": t.registers, "what": t.description}
        for t in PRESETS.values()
    ]
    if json:
        report.write_json({"host": host().name, "targets": rows}, json)
    if json != "-":
        head = ("target", "vector bits", "registers", "")
        report.table(head, [(r["name"], r["vector"], r["registers"], r["what"]) for r in rows])
        print(f"host is {host().name}")
