"""Passes and the manager that runs them in order.

A pass is a frozen dataclass: its fields are its options, ``str(pass)`` is the text that a pipeline file or the
command line holds, and ``parse`` reads that text back. ``run`` edits the graph in place and says what it did.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, overload

import onnx

from onyxc.compiler.errors import ModelError, OnyxcError, PassError
from onyxc.compiler.ir import schema
from onyxc.compiler.ir.graph import Graph
from onyxc.compiler.ir.statistics import Statistics, Zeros, measure
from onyxc.compiler.ir.verify import verify
from onyxc.compiler.loader import load, to_model

LONGEST = 40  # characters of an option's value in reports


@dataclass(frozen=True)
class PassResult:
    """What a run did: rule or action -> how often; and "rule: reason" -> how often a rule refused."""

    counts: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether the graph was edited."""
        return any(self.counts.values())


@dataclass(frozen=True)
class Pass:
    """Base of all passes. Subclasses set ``name`` and implement ``run``."""

    name: ClassVar[str] = ""

    @abstractmethod
    def run(self, graph: Graph) -> PassResult:
        """Edit ``graph`` in place."""

    @overload
    def __call__(self, model: Graph) -> Graph: ...
    @overload
    def __call__(self, model: onnx.ModelProto) -> onnx.ModelProto: ...
    def __call__(self, model: Graph | onnx.ModelProto) -> Graph | onnx.ModelProto:
        """The pass on its own: a ModelProto gives a new ModelProto, a Graph a new Graph; the argument stays."""
        graph = model.clone() if isinstance(model, Graph) else load(model)
        PassManager([self]).run(graph)
        return graph if isinstance(model, Graph) else to_model(graph)

    def options(self) -> dict[str, Any]:
        """Options that differ from their defaults."""
        made = {f.name: getattr(self, f.name) for f in fields(self)}
        return {f.name: made[f.name] for f in fields(self) if made[f.name] != f.default}

    def __str__(self) -> str:
        return self._text(_show)

    def label(self) -> str:
        """The text for people: long values are cut."""
        return self._text(lambda value: shown if len(shown := _show(value)) <= LONGEST else f"{shown[:LONGEST]}...")

    def _text(self, show: Callable[[Any], str]) -> str:
        options = " ".join(f"{k.replace('_', '-')}={show(v)}" for k, v in self.options().items())
        return f"{self.name}{{{options}}}" if options else self.name


@dataclass(frozen=True)
class GraphPass(Pass):
    """Base of the passes that treat every graph by itself: the model's, then the inner ones of control flow.

    Subclasses implement ``rewrite``. The bodies of fused groups are left alone.
    """

    @abstractmethod
    def rewrite(self, graph: Graph) -> Mapping[str, int]:
        """Edit ``graph`` in place, but none of its inner graphs; gives what was done how often."""

    def run(self, graph: Graph) -> PassResult:
        """Rewrite ``graph`` and all its inner graphs, outer ones first."""
        counts = Counter(self.rewrite(graph))
        for node in graph.nodes:
            for inner in () if node.domain == schema.DOMAIN else node.subgraphs():
                counts.update(self.run(inner).counts)
        return PassResult(counts)


def _show(value: Any) -> str:
    """A value as `onyxc.passes.parse` reads it: quoted where it holds spaces, braces or quotes."""
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    if not any(c.isspace() or c in '{}"\\' for c in text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@dataclass(frozen=True)
class Record:
    """One pass in a report: seconds, counts, and the graph's statistics before and after."""

    name: str
    seconds: float
    counts: Mapping[str, int]
    before: Statistics
    after: Statistics


Observer = Callable[[Pass, Graph], None]  # called after each pass


@dataclass
class PassManager:
    """Runs passes in order; verifies after each; stops with a `PassError` that names the pass.

    ``observers`` see the graph after each pass (printing, progress, numeric checks).
    """

    passes: Sequence[Pass]
    observers: Sequence[Observer] = ()
    records: list[Record] = field(default_factory=list)

    def run(self, graph: Graph) -> list[Record]:
        """Run all passes on ``graph``, in place."""
        self.records = []
        counter = Zeros()
        before = measure(graph, counter)
        for step in self.passes:
            start = time.perf_counter()
            try:
                result = step.run(graph)
                verify(graph)
            except ModelError as error:  # it is the user's model that is wrong
                raise ModelError(f"{error} (found by pass {step.label()})") from error
            except OnyxcError as error:
                raise PassError(f"pass {step.label()}: {error}{self._history()}") from error
            after = measure(graph, counter)
            self.records.append(Record(step.label(), time.perf_counter() - start, dict(result.counts), before, after))
            before = after
            for observer in self.observers:
                observer(step, graph)
        return self.records

    def _history(self) -> str:
        return f" (after {', '.join(r.name for r in self.records)})" if self.records else ""
