"""What the command line and Python callers use: optimize and compile, from model to artifact."""

from __future__ import annotations

import hashlib
import re
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx

from onyxc.backends import runtime
from onyxc.backends.artifact import link
from onyxc.backends.artifact.write import check_replaceable
from onyxc.backends.interface import Group
from onyxc.backends.target import Names, host_cores, levels
from onyxc.compiler import worker
from onyxc.compiler.errors import ModelError, OptionError, UnsupportedError
from onyxc.compiler.ir.graph import Graph
from onyxc.compiler.ir.types import TensorType
from onyxc.compiler.loader import load, to_model
from onyxc.compiler.loader.checks import check_sizes
from onyxc.compiler.transform import Observer, Pass, PassManager, Record
from onyxc.passes import pipelines

MOST_ELEMENTS = (1 << 31) - 1  # of a tensor: kernels count in int32

Model: TypeAlias = str | Path | bytes | onnx.ModelProto | Graph


class Artifact:
    """A compiled model: ``folder`` holds the files, ``run`` executes it, ``records`` tell what each pass did."""

    def __init__(self, folder: Path, records: list[Record], threads: int = 1, *, temporary: bool = False) -> None:
        self.folder, self.records, self.threads = folder, records, threads
        self._model: runtime.Model | None = None
        if temporary:
            weakref.finalize(self, rmtree, folder.parent, True)

    @property
    def model(self) -> runtime.Model:
        """The loaded artifact (loads it at first use; only where this machine can run it)."""
        if self._model is None:
            self._model = runtime.load(self.folder, threads=self.threads)
        return self._model

    def run(self, inputs: dict[str, Any]) -> list[Any]:
        """Outputs, in graph order, for arrays by input name."""
        return self.model.run(inputs)


def optimize(
    model: Model,
    passes: Sequence[Pass] | None = None,
    *,
    level: int = 2,
    observers: Sequence[Observer] = (),
    **bindings: Any,
) -> tuple[Graph, list[Record]]:
    """The graph after ``passes`` (default: the preset of ``level``), and a record for each pass.

    ``bindings``: ``input_dims``, ``input_shapes``, ``input_values`` as in `loader.load`.
    """
    graph = load(model, **bindings)
    steps = pipelines.preset(level) if passes is None else passes
    records = PassManager(steps, observers).run(graph)
    return graph, records


def compile(
    model: Model,
    *,
    target: Names = "host",
    out: str | Path | None = None,
    level: int = 2,
    passes: Sequence[Pass] | None = None,
    library: Literal["shared", "static"] = "shared",
    weights: Literal["embedded", "beside"] = "embedded",
    name: str = "",
    threads: int = 1,
    compiler: str = "",
    exact: bool = False,
    favor: Literal["speed", "size"] = "speed",
    every_tensor: bool = False,
    report: worker.Report = worker.quiet,
    **bindings: Any,
) -> Artifact:
    """Compile a model for ``target`` into the folder ``out`` (default: a temporary one that lives with the result).

    ``target``: a name or `Target`, or several levels of one architecture ("x86-64-v3,x86-64-v4" or a list): the
    artifact holds code for each and takes the best that the processor has when it is loaded.
    ``passes`` replaces the preset of ``level``; what the backend needs is always added. ``every_tensor`` makes all
    inner tensors outputs, which keeps them from being fused away (`onyxc verify`). ``exact``: only algorithms that
    round as the plain sum does (no Winograd, no Strassen); ``favor`` size: none that needs weights larger than the
    model's. ``bindings`` as in `loader.load`.

    Raises:
        ModelError, OptionError, UnsupportedError, PassError, BuildError: as their names say; one clear message.
    """
    chosen = [replace(t, exact=exact, favor=favor) for t in levels(target)]
    tools = link.find(chosen[0], compiler)  # what is missing is said at once
    if out is not None:
        check_replaceable(Path(out))
    report("loading", 0, 1)
    graph = load(model, **bindings)
    _check_bound(graph)
    _check_sizes(graph)
    if every_tensor:
        _expose(graph)
    title = name or (Path(model).stem if isinstance(model, str | Path) else graph.name)
    folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="onyxc-")) / "artifact"
    values = {n: np.asarray(v).tolist() for n, v in (bindings.get("input_values") or {}).items()}
    options = {
        "exact": exact, "favor": favor, "level": level, "input_values": values,
        "passes": None if passes is None else [str(p) for p in passes],
    }  # fmt: skip
    takes = [
        Group(n, "nothing" if contents is None else "sequence", len(contents or ()))
        for n, contents in (bindings.get("input_shapes") or {}).items()
        if n not in {v.name for v in graph.inputs}
    ]
    info = {"digest": digest(model), "options": options, "takes": takes}

    def work(report: worker.Report) -> list[Record]:
        from onyxc.backends import build  # TVM is imported in the child only

        steps = pipelines.compilation(level, chosen[0].kind, build.keep(), passes)
        report("passes", 0, len(steps))
        done = iter(range(1, len(steps) + 1))
        manager = PassManager(steps, [lambda *_: report("passes", next(done), len(steps))])
        records = manager.run(graph)
        _check_sizes(graph)
        for node in graph.walk():  # branches never taken are gone
            check_sizes(node)
        build.build(
            graph, chosen, folder, name=_identifier(title), jobs=host_cores(), library=library, weights=weights,
            compiler=compiler, runner=out is not None or not tools.native,
            info={**info, "passes": [r.name for r in records]}, report=report,
        )  # fmt: skip
        return records

    try:
        records = worker.run(work, report)
    except BaseException:
        if out is None:
            rmtree(folder.parent, ignore_errors=True)
        raise
    return Artifact(folder, records, threads, temporary=out is None)


def _check_bound(graph: Graph) -> None:
    for value in graph.inputs:
        if not isinstance(value.type, TensorType):
            raise OptionError(
                f"input {value.name!r} is {value.type}: give the shapes of its elements with "
                f"--input-shape '{value.name}:1,2;1,2' (nothing behind the colon: it is empty)"
            )
        shape = value.type.shape
        free = [d for d in shape or () if not isinstance(d, int)]
        if shape is None:
            raise OptionError(f"input {value.name!r} has no known rank: give --input-shape {value.name}:1,2,3")
        if free:
            named = [d for d in free if d != "?"]
            how = f"--input-dim {named[0]}=1 or " if named else ""
            raise OptionError(
                f"input {value.name!r} is {value.type}: bind its dimensions with {how}"
                f"--input-shape {value.name}:{','.join(str(d) if isinstance(d, int) else '1' for d in shape)}"
            )


def _check_sizes(graph: Graph) -> None:
    for value in (*graph.inputs, *(v for node in graph.walk() for v in node.outputs)):
        kind = value.type
        if isinstance(kind, TensorType) and kind.is_static and prod(kind.dims) > MOST_ELEMENTS:
            raise UnsupportedError(f"{value.name!r} is {kind}: a tensor can have at most {MOST_ELEMENTS} elements")


def _expose(graph: Graph) -> None:
    known = set(graph.outputs)
    for node in graph:
        for value in node.outputs:
            if value not in known and value.name and isinstance(value.type, TensorType) and value.type.is_static:
                graph.add_output(value, value.name)


def digest(model: Model) -> str:
    """SHA-256 of the model as given (of the serialized proto, for a ModelProto or Graph)."""
    if isinstance(model, str | Path):
        try:
            data = Path(model).read_bytes()
        except OSError as error:
            raise ModelError(f"cannot read {model}: {error.strerror or error}") from error
    elif isinstance(model, bytes):
        data = model
    else:
        proto = to_model(model) if isinstance(model, Graph) else model
        data = proto.SerializeToString(deterministic=True)
    return hashlib.sha256(data).hexdigest()


def _identifier(title: str) -> str:
    return re.sub(r"\W", "_", title) or "model"
