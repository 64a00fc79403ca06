"""From a fused group's body to TE tensors, and from those to a generic recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tvm import te

from onyxc.backends import places
from onyxc.backends.kernels import generic
from onyxc.backends.kernels.generic import key
from onyxc.backends.lowering import registry
from onyxc.backends.recipe import Argument, Constant, Input, Output, Piece, Recipe, Temporary
from onyxc.backends.target import Target
from onyxc.compiler.ir.graph import Graph, Value

BuildAll = Callable[..., tuple[list[generic.Piece], list[Any]]]


@dataclass
class TensorGroup:
    """A body as TE tensors; ``arguments`` maps placeholders to the roles that they play.

    ``strides``: of tensors that are not dense, by `kernels.nest.key`.
    """

    outputs: list[Any]
    arguments: dict[Any, Argument] = field(default_factory=dict)
    strides: dict[Any, places.Strides] = field(default_factory=dict)


def to_te(body: Graph) -> TensorGroup:
    """The TE form of ``body``; one-element constants become immediate numbers."""
    group = TensorGroup([])
    env: dict[Value, Any] = {}
    for index, value in enumerate(body.inputs):
        env[value] = te.placeholder(value.dims, registry.storage(value.dtype), name=f"in{index}")
        group.arguments[env[value]] = Input(index)
        _note(group, env[value], value)

    def tensor(value: Value | None) -> Any:
        if value is None:
            return None
        if value not in env:
            env[value] = _constant(value, group)
        return env[value]

    for node in body:
        outputs = registry.lower(node, [tensor(v) for v in node.inputs])
        env.update(zip(node.outputs, outputs, strict=False))
    group.outputs = [tensor(v) for v in body.outputs]
    return group


def _note(group: TensorGroup, tensor: Any, value: Value) -> None:
    strides = places.strides_of(value)
    if not places.is_dense(value.dims, strides):
        group.strides[key(tensor)] = strides


def _constant(value: Value, group: TensorGroup) -> Any:
    array, dtype = value.array, registry.storage(value.dtype)
    if array.size == 1 and dtype == value.dtype and dtype not in ("string", "bfloat16", "float16"):
        number = array.reshape(()).item()
        return te.compute(value.dims, lambda *_: registry.const(number, dtype), name="number")
    placeholder = te.placeholder(value.dims, dtype, name="const")
    group.arguments[placeholder] = Constant(array)
    return placeholder


def _copy(tensor: Any) -> Any:
    return te.compute(tensor.shape, lambda *index: tensor[index], name="copy")


def recipe(name: str, body: Graph, target: Target, build_all: BuildAll) -> Recipe:
    """The generic recipe of ``body``: kernels by ``build_all`` of the processor kind."""
    group = to_te(body)
    roles = {key(tensor): role for tensor, role in group.arguments.items()}
    outputs: list[Any] = []
    for index, tensor in enumerate(group.outputs):
        if key(tensor) in roles:  # an output that is an argument, or returned twice
            tensor = _copy(tensor)
        outputs.append(tensor)
        roles[key(tensor)] = Output(index)
        _note(group, tensor, body.outputs[index])
    strides = {"strides": group.strides} if group.strides else {}
    pieces, inner = build_all(name, list(group.arguments), outputs, target, **strides)
    for tensor in inner:
        roles[key(tensor)] = Temporary(str(tensor.dtype), tuple(int(d) for d in tensor.shape))
    return [Piece(p.kernel, tuple(roles[key(a)] for a in p.args), p.reads) for p in pieces]
