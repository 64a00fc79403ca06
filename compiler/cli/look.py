"""`onyxc show`, `passes` and `targets`: looking without running."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Annotated, Any

import typer

from onyxc.compiler.cli import options, report


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


def targets(json: options.JsonFile = "") -> None:
    """List the processors that models can be compiled for, and what plans take for granted about each."""
    from onyxc.backends import target

    rows: list[dict[str, Any]] = [
        {
            "name": t.name, "arch": t.arch, "vector": t.vector_bytes * 8, "registers": t.registers, "l1": t.l1,
            "l2": t.l2, "l3": t.l3, "cores": t.cores, "features": list(t.features), "what": t.description,
        }
        for t in target.PRESETS.values()
    ]  # fmt: skip
    host, caches, cores = target.host(), target.host_caches(), target.host_cores()
    if json:
        report.write_json({"host": host.name, "caches": caches, "cores": cores, "targets": rows}, json)
    if json != "-":
        head = ("target", "vector bits", "registers", "L1 KiB", "L2 KiB", "L3 KiB", "cores", "")
        keys = ("name", "vector", "registers", "l1", "l2", "l3", "cores", "what")
        report.table(head, [[r[k] // 1024 if k in ("l1", "l2", "l3") else r[k] for k in keys] for r in rows])
        sizes = "".join(f", {level.upper()} {size // 1024} KiB" for level, size in caches.items())
        print(f"host is {host.name} (this machine: {cores} cores{sizes})")
