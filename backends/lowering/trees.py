"""Classical learning (ai.onnx.ml): TreeEnsemble, ArrayFeatureExtractor, Binarizer, LabelEncoder of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
from tvm import tirx

from onyxc.backends.kernels.imperative import Imperative
from onyxc.backends.lowering.code import Code, kernel
from onyxc.backends.lowering.registry import const, imperative, lowers, static
from onyxc.backends.lowering.scalar import cast
from onyxc.backends.lowering.tensors import at, compute, needed, position
from onyxc.backends.lowering.words import Cell, Expr, choose, fix
from onyxc.compiler.errors import UnsupportedError
from onyxc.compiler.ir.graph import Node

DOMAIN = "ai.onnx.ml"
AVERAGE, SUM, LEAST, GREATEST = range(4)
MEMBER = 6
KEYS = 4096  # a LabelEncoder's table becomes a chain of comparisons


def numbers(node: Node, key: str) -> list[Any]:
    """An attribute that is a list or a tensor of numbers; [] when it is not there."""
    value = node.attrs.get(key)
    if isinstance(value, np.ndarray):
        return [v.item() for v in value.reshape(-1)]
    return list(value) if isinstance(value, tuple) else []


@lowers("ArrayFeatureExtractor", domain=DOMAIN)
def array_feature_extractor(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """Columns of the last axis."""
    x, indices = needed(node, inputs, 0), needed(node, inputs, 1)
    dims, rank = static(node, 0).dims, len(indices.shape)
    shape = (*(dims[:-1] or (1,)), static(node, 1).elements)

    def element(*index: Expr) -> Expr:
        column = position(at(indices, [*[tirx.const(0, "int32")] * (rank - 1), index[-1]]), dims[-1])
        return at(x, [*index[: len(dims) - 1], column])

    if rank > 1 and any(d != 1 for d in static(node, 1).dims[:-1]):
        raise UnsupportedError(f"{node.label()}: indices must be a row")
    return [compute(shape, element, "columns")]


@lowers("Binarizer", domain=DOMAIN)
def binarizer(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """1 above the threshold, else 0."""
    x = needed(node, inputs)
    kind, limit = str(x.dtype), node.real("threshold")

    def element(*index: Expr) -> Expr:
        return tirx.Select(at(x, index) > const(limit, kind), const(1, kind), const(0, kind))

    return [compute(static(node, 0).dims, element, "binarizer")]


@lowers("LabelEncoder", domain=DOMAIN)
def label_encoder(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """The value of the first key that equals the element, or the default."""
    x = needed(node, inputs)
    kind, result = str(x.dtype), node.output.dtype
    keys = next((k for n in ("floats", "int64s", "tensor") if (k := numbers(node, f"keys_{n}"))), [])
    source = next((n for n in ("floats", "int64s", "tensor") if numbers(node, f"values_{n}")), "")
    values = numbers(node, f"values_{source}")
    if not values or len(keys) != len(values) or len(keys) > KEYS or isinstance(values[0], str | bytes):
        raise UnsupportedError(f"{node.label()}: keys and values must be at most {KEYS} numbers")
    names = {"floats": "default_float", "int64s": "default_int64", "tensor": "default_tensor"}
    default: Any = node.attrs.get(names[source], {"floats": -0.0, "int64s": -1}.get(source, 0))
    default = default.reshape(-1)[0].item() if isinstance(default, np.ndarray) else default

    def element(*index: Expr) -> Expr:
        value = at(x, index)
        found: Expr = const(default, result)
        for key, answer in reversed(list(zip(keys, values, strict=True))):
            same = tirx.isnan(value) if isinstance(key, float) and isnan(key) else tirx.EQ(value, const(key, kind))
            found = tirx.Select(same, const(answer, result), found)
        return found

    return [compute(static(node, 0).dims, element, "label_encoder")]


@dataclass
class Trees:
    """The tables of a TreeEnsemble, and the code that one of its trees becomes: nested conditions."""

    node: Node

    def __post_init__(self) -> None:
        read = {k: numbers(self.node, k) for k in self.node.attrs}
        self.feature, self.mode, self.value = (read[f"nodes_{k}"] for k in ("featureids", "modes", "splits"))
        self.sides = [(read[f"nodes_{side}nodeids"], read[f"nodes_{side}leafs"]) for side in ("true", "false")]
        self.missing = read.get("nodes_missing_value_tracks_true") or [0] * len(self.mode)
        self.targets, self.weights = read["leaf_targetids"], read["leaf_weights"]
        self.roots = read["tree_roots"]
        self.members: dict[int, list[float]] = {}
        left = iter(read.get("membership_values") or [])
        for root in self.roots:
            self._assign(root, left)

    def _assign(self, number: int, left: Any) -> None:
        """Members are listed, ended by NaN, in the order in which a walk from the roots meets their nodes."""
        stack = [number]
        while stack:
            here = stack.pop()
            if self.mode[here] == MEMBER and here not in self.members:
                self.members[here] = []
                for value in left:
                    if isnan(value):
                        break
                    self.members[here].append(value)
            for ids, leafs in reversed(self.sides):
                if not leafs[here]:
                    stack.append(ids[here])

    def is_leaf(self, root: int) -> bool:
        """Whether a whole tree is one leaf."""
        (yes, yes_leaf), (no, no_leaf) = self.sides
        return bool(yes_leaf[root] and no_leaf[root] and yes[root] == no[root])

    def goes(self, number: int, x: Expr) -> Expr:
        """Whether element ``x`` takes the true side of a node."""
        kind, mode = str(x.ty.dtype), self.mode[number]
        if mode == MEMBER:
            result: Expr = const(False, "bool")
            for member in self.members[number]:
                result = tirx.Or(result, tirx.EQ(x, const(member, kind)))
        else:
            y = const(self.value[number], kind)
            tests = [lambda: x <= y, lambda: x < y, lambda: x >= y, lambda: x > y]
            tests += [lambda: tirx.EQ(x, y), lambda: tirx.NE(x, y)]
            result = tests[mode]()
        return tirx.Or(result, tirx.isnan(x)) if self.missing[number] else result

    def write(self, number: int, leaf: bool, read: Any, reached: Any) -> None:
        """The code below a node; ``read(feature)`` is an element, ``reached(leaf)`` writes what a leaf does."""
        if leaf:
            reached(number)
            return
        (yes, yes_leaf), (no, no_leaf) = self.sides
        choose(
            self.goes(number, read(self.feature[number])),
            lambda: self.write(yes[number], bool(yes_leaf[number]), read, reached),
            lambda: self.write(no[number], bool(no_leaf[number]), read, reached),
        )


@imperative("TreeEnsemble", domain=DOMAIN)
def tree_ensemble(node: Node) -> Imperative:
    """Every tree is compiled to conditions; a task is a sample."""
    samples, features = static(node, 0).dims
    count = node.integer("n_targets")
    how = node.integer("aggregate_function", SUM)
    if node.attrs.get("post_transform", 0):
        raise UnsupportedError(f"{node.label()}: post_transform is not supported")
    trees = Trees(node)
    kind = node.output.dtype
    start = {LEAST: float(np.finfo(kind).max), GREATEST: float(np.finfo(kind).min)}.get(how, 0.0)

    def emit(code: Code) -> None:
        x = code.ins[0]
        totals = [Cell(kind, start) for _ in range(count)]

        def reached(leaf: int) -> None:
            total, weight = totals[trees.targets[leaf]], const(trees.weights[leaf], kind)
            if how in (LEAST, GREATEST):
                total.set((tirx.min if how == LEAST else tirx.max)(total.get(), weight))
            else:
                total.add(weight)

        for root in trees.roots:
            trees.write(root, trees.is_leaf(root), lambda f: fix(x[code.task * features + f]), reached)
        for target, total in enumerate(totals):
            value = total.get()
            code.outs[0][code.task * count + target] = (
                value / const(len(trees.roots), kind) if how == AVERAGE else cast(value, kind)
            )

    work = samples * len(trees.roots) * 8
    return kernel(node, [((samples, count), kind)], emit, tasks=samples, work=work)
