"""Sequences and optionals at the border: compiled models take and give tensors, callers lists of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from onyxc.backends.interface import Group
from onyxc.backends.runtime.specs import Array
from onyxc.compiler.errors import InputError


def flattened(groups: Sequence[Group], feeds: Mapping[str, Any]) -> dict[str, Any]:
    """``feeds`` by tensor; a sequence ``x`` may be a list, or given as ``x.0``, ``x.1`` ...

    Raises:
        InputError: it is not a list of the right length.
    """
    flat = dict(feeds)
    for group in groups:
        if group.name not in flat:
            continue
        value = flat.pop(group.name)
        items = [] if value is None else value
        if not isinstance(items, list | tuple):
            raise InputError(f"input {group.name!r} is a sequence: give a list of {group.length} arrays")
        if len(items) != group.length:
            raise InputError(f"input {group.name!r} is compiled for a sequence of {group.length}, not of {len(items)}")
        flat.update(zip(group.tensors, items, strict=True))
    return flat


def gathered(groups: Sequence[Group], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The opposite: lists, and None for what is missing, from values by tensor."""
    made = dict(tensors)
    for group in groups:
        parts = [made.pop(name) for name in group.tensors]
        made[group.name] = parts if group.kind == "sequence" else None
    return made


def grouped(groups: Sequence[Group], arrays: Iterable[Array]) -> list[Any]:
    """The outputs as the model gives them: arrays, lists of arrays, None for a missing optional."""
    rest = iter(arrays)
    made: list[Any] = []
    for group in groups:
        parts = list(islice(rest, group.length))
        made.append(parts if group.kind == "sequence" else parts[0] if parts else None)
    return made


def arrays(outputs: Iterable[Any]) -> list[Array]:
    """The arrays in outputs, those of sequences one by one."""
    return [array for item in outputs if item is not None for array in (item if isinstance(item, list) else [item])]
