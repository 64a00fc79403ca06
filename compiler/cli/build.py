"""`onyxc compile` and `onyxc optimize`."""

from __future__ import annotations

import time
from typing import Annotated, Literal

import onnx
import typer
from google.protobuf.message import EncodeError

from onyxc.compiler.cli import options, report
from onyxc.compiler.errors import OptionError
from onyxc.compiler.transform import Pass, Record

RULES = 4  # of a pass that the table of passes shows


def compile_(
    model: options.ModelPath,
    out: Annotated[str, typer.Option("-o", "--out", metavar="DIR", help="Folder of the artifact.")],
    target: options.TargetName = "host",
    level: options.Level = 2,
    pipeline: options.PipelineFile = "",
    input_dim: options.Dims = [],  # noqa: B006 - typer copies defaults
    input_shape: options.Shapes = [],  # noqa: B006
    input_value: options.Values = [],  # noqa: B006
    library: Annotated[Literal["shared", "static"], typer.Option(help="Kind of library.")] = "shared",
    weights: Annotated[
        Literal["embedded", "beside"], typer.Option(help="Where the weights are: in the library or beside it.")
    ] = "embedded",
    exact: Annotated[bool, typer.Option("--exact", help="No Winograd or Strassen: round as the plain sum does.")] = False,
    favor: Annotated[
        Literal["speed", "size"], typer.Option(help="size: weights stay as small as in the model, at some speed.")
    ] = "speed",
    compiler: Annotated[str, typer.Option(help="C compiler to link with, for example aarch64-linux-gnu-gcc.")] = "",
    json: options.JsonFile = "",
) -> None:
    """Compile a model to native code: a folder with library, C header and manifest."""
    from onyxc.backends.artifact import manifest
    from onyxc.compiler import driver

    start = time.perf_counter()
    with report.progress() as show:
        artifact = driver.compile(
            model, out=out, target=target, level=level, passes=_pipeline(pipeline), library=library, weights=weights,
            compiler=compiler, exact=exact, favor=favor, report=show,
            **options.bindings(input_dim, input_shape, input_value),
        )  # fmt: skip
    if json:
        report.write_json(_as_json(artifact.records), json)
    if json != "-":
        made = manifest.read(artifact.folder)
        size = sum((artifact.folder / f).stat().st_size for f in (made.library, made.weights) if f)
        took = time.perf_counter() - start
        print(f"{out}: {size / 2**20:.2f} MiB for {made.target}, {made.kernels} kernels, {took:.1f} s")
        noted = sum(len(level.notes) for level in made.levels)
        if noted:
            print(f"{noted} kernels were planned again or touch the stack in a sum: `onyxc inspect {out}` says which")


def optimize(
    model: options.ModelPath,
    out: Annotated[str, typer.Option("-o", "--out", metavar="OUT.onnx", help="The optimized model.")],
    level: options.Level = 2,
    pipeline: options.PipelineFile = "",
    prune: Annotated[float, typer.Option(min=0, max=1, help="Zero so large a share of all weights, the smallest.")] = 0,
    cluster: Annotated[str, typer.Option(metavar="4bit", help="Cluster weights to 2 to 8 bits.")] = "",
    input_dim: options.Dims = [],  # noqa: B006
    input_shape: options.Shapes = [],  # noqa: B006
    input_value: options.Values = [],  # noqa: B006
    check: Annotated[float, typer.Option(metavar="TOL", help="Compare results after each pass.")] = 0,
    json: options.JsonFile = "",
) -> None:
    """Run passes and write an ONNX model: cleaned, folded, pruned, clustered."""
    from onyxc.compiler import driver
    from onyxc.compiler.loader import load, to_model
    from onyxc.passes import pipelines

    bindings = options.bindings(input_dim, input_shape, input_value)
    passes = _pipeline(pipeline) or pipelines.preset(level)
    passes = (*passes, *_compression(prune, cluster))
    observers = []
    if check:
        from onyxc.compiler.check import NumericCheck

        observers.append(NumericCheck(load(model, **bindings), check))
    graph, records = driver.optimize(model, passes, observers=observers, **bindings)
    report.write_file(out, _serialized(to_model(graph)))
    if json:
        report.write_json(_as_json(records), json)
    if json != "-":
        show_records(records)


def _serialized(model: onnx.ModelProto) -> bytes:
    try:
        return bytes(model.SerializeToString(deterministic=True))
    except (EncodeError, ValueError) as error:
        raise OptionError(f"the model is too large for one ONNX file of at most 2 GiB ({error})") from error


def _pipeline(file: str) -> tuple[Pass, ...] | None:
    from onyxc.passes import pipelines

    return pipelines.from_toml(file) if file else None


def _compression(prune: float, cluster: str) -> tuple[Pass, ...]:
    import onyxc.passes as passes

    made: tuple[Pass, ...] = ()
    if prune:
        made += (passes.make("magnitude-pruning", {"sparsity": prune, "scope": "global"}),)
    if cluster:
        bits = cluster.removesuffix("bit")
        if bits not in map(str, range(2, 9)):
            raise OptionError(f"--cluster {cluster}: write 2bit to 8bit")
        made += (passes.make("weight-clustering", {"bits": int(bits)}),)
    return made


def show_records(records: list[Record]) -> None:
    """The table of passes."""
    rows = [
        (
            options.shorten(record.name),
            f"{record.seconds:.2f}",
            f"{record.before.nodes} -> {record.after.nodes}",
            record.after.parameters,
            record.after.zeros,
            f"{record.after.bytes / 1e6:.2f}",
            f"{record.after.flops / 1e6:.1f}",
            _done(record),
        )
        for record in records
    ]
    report.table(("pass", "s", "nodes", "parameters", "zeros", "MB", "MFLOP", "done"), rows)


def _done(record: Record) -> str:
    texts = [f"{rule} {count}" for rule, count in record.counts.items()]
    more = [f"and {len(texts) - RULES} more"] if len(texts) > RULES else []
    return ", ".join([*texts[:RULES], *more])


def _as_json(records: list[Record]) -> list[dict[str, object]]:
    return [
        {
            "pass": r.name,
            "seconds": r.seconds,
            "counts": dict(r.counts),
            "before": r.before.as_dict(),
            "after": r.after.as_dict(),
        }
        for r in records
    ]
