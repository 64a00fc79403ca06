"""Passes by name: the built-in table, the entry points of other packages, and the text form of options.

A pass is written ``name`` or ``name{option=value other-option=a,b}``; a value with spaces, braces or quotes is put
in double quotes. Other packages add passes by the entry-point group ``onyxc.passes``; two packages that claim one
name are an error that names both.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from onyxc.compiler.errors import OptionError
from onyxc.compiler.transform import Pass

GROUP = "onyxc.passes"

# name -> where the class is; imported when it is asked for. One line per pass, one block per folder.
TABLE: dict[str, str] = {
    "dead-code": "onyxc.passes.canonical.dead_code:DeadCode",
    "common-subexpressions": "onyxc.passes.canonical.common_subexpressions:CommonSubexpressions",
    "no-ops": "onyxc.passes.canonical.no_ops:NoOps",
    "expand-functions": "onyxc.passes.canonical.expand_functions:ExpandFunctions",
    "inline-if": "onyxc.passes.canonical.inline_if:InlineIf",
    "unroll": "onyxc.passes.canonical.unroll:Unroll",
    "resolve-sequences": "onyxc.passes.canonical.sequences:ResolveSequences",
    "check-indices": "onyxc.passes.canonical.check_indices:CheckIndices",
    "fold-constants": "onyxc.passes.fold.constants:FoldConstants",
    "fold-shapes": "onyxc.passes.fold.shapes:FoldShapes",
    "fold-arithmetic": "onyxc.passes.fold.arithmetic:FoldArithmetic",
    "fold-batch-norm": "onyxc.passes.fold.batch_norm:FoldBatchNorm",
    "fold-one-hot": "onyxc.passes.fold.one_hot:FoldOneHot",
    "fold-pad": "onyxc.passes.fold.pad:FoldPad",
    "pool-first": "onyxc.passes.fold.pool_first:PoolFirst",
    "resize-last": "onyxc.passes.fold.resize_last:ResizeLast",
    "sum-convolutions": "onyxc.passes.fold.sum_convolutions:SumConvolutions",
    "magnitude-pruning": "onyxc.passes.prune.magnitude:MagnitudePruning",
    "nm-pruning": "onyxc.passes.prune.n_m:NMPruning",
    "block-pruning": "onyxc.passes.prune.block:BlockPruning",
    "weight-clustering": "onyxc.passes.cluster.weight_clustering:WeightClustering",
    "canonical-integer": "onyxc.passes.quantize.canonical_integer:CanonicalInteger",
    "fold-fake-quant": "onyxc.passes.quantize.fold_fake_quant:FoldFakeQuant",
    "einsum-to-matmul": "onyxc.passes.canonical.einsum:EinsumToMatMul",
    "compose-transposes": "onyxc.passes.canonical.transposes:ComposeTransposes",
    "fuse-normalizations": "onyxc.passes.fuse.normalizations:FuseNormalizations",
    "fuse-softmax": "onyxc.passes.fuse.softmax:FuseSoftmax",
    "turn-attention": "onyxc.passes.fuse.turned_attention:TurnAttention",
    "fuse-activations": "onyxc.passes.fuse.activations:FuseActivations",
    "hoist-elementwise": "onyxc.passes.fuse.hoist:HoistElementwise",
    "split-bias": "onyxc.passes.fuse.split_bias:SplitBias",
    "gather-to-slice": "onyxc.passes.fuse.slices:GatherToSlice",
    "scale-scores": "onyxc.passes.fuse.scales:ScaleScores",
    "additive-masks": "onyxc.passes.fuse.masks:AdditiveMasks",
    "merge-products": "onyxc.passes.fuse.merge_products:MergeProducts",
    "group-queries": "onyxc.passes.fuse.group_queries:GroupQueries",
    "fuse-attention": "onyxc.passes.fuse.attention:FuseAttention",
    "fuse-groups": "onyxc.passes.fuse.groups:FuseGroups",
    "fuse-chains": "onyxc.passes.fuse.chains:FuseChains",
    "channels-last": "onyxc.passes.layout.channels_last:ChannelsLast",
    "sink-shuffle": "onyxc.passes.layout.shuffle:SinkShuffle",
}


def available() -> dict[str, str]:
    """Every pass that can be had: name -> import string.

    Raises:
        OptionError: two packages register the same name.
    """
    return TABLE | {name: point.value for name, point in _plugins().items()}


def get(name: str) -> type[Pass]:
    """The class of the pass called ``name``.

    Raises:
        OptionError: there is none of that name, or two packages claim it.
    """
    plugins = _plugins()
    if name not in TABLE and name not in plugins:
        raise OptionError(f"there is no pass {name!r}{suggest(name, available())}")
    target = TABLE.get(name) or plugins[name].value
    module, _, attribute = target.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        if name in TABLE:
            raise
        raise OptionError(f"pass {name!r} of {_owner(plugins[name])} cannot be loaded: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Pass)):
        raise OptionError(f"pass {name!r}: {target} is not a subclass of onyxc.compiler.transform.Pass")
    return found


def suggest(word: str, known: Iterable[str]) -> str:
    """``; did you mean ...?`` when something known looks like ``word``, else what there is."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=3)
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    return f"; there are {', '.join(known)}" if known else "; there are none"


@cache
def _plugins() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        other = "onyxc" if point.name in TABLE else _owner(found[point.name]) if point.name in found else ""
        if other and not (point.name in found and found[point.name] == point):
            raise OptionError(f"the pass name {point.name!r} is claimed by both {other} and {_owner(point)}")
        found[point.name] = point
    return found


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


# ---- options


def make(name: str, options: Mapping[str, Any]) -> Pass:
    """A pass from its name and options, each a text or a value of the right type.

    Raises:
        OptionError: unknown pass or option, or a value of the wrong type.
    """
    kind = get(name)
    hints = typing.get_type_hints(kind)
    known = {f.name.replace("_", "-"): f.name for f in fields(kind)}
    made: dict[str, Any] = {}
    for option, value in options.items():
        key = known.get(option.replace("_", "-"))
        if key is None:
            raise OptionError(f"pass {name!r} has no option {option!r}{suggest(option, known)}")
        made[key] = convert(value, hints[key], f"pass {name!r}: option {option!r}")
    try:
        return kind(**made)
    except TypeError as error:
        raise OptionError(f"pass {name!r}: {str(error).partition('() ')[2] or error}") from error


def convert(value: Any, hint: Any, where: str) -> Any:
    """``value`` (text or plain value) as the annotated type ``hint``.

    Raises:
        OptionError: it does not fit; the message begins with ``where``.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, arguments, where)
    if origin is typing.Literal:
        if str(value) in map(str, arguments):
            return next(a for a in arguments if str(a) == str(value))
        raise OptionError(f"{where}: {value!r} is not one of {', '.join(map(str, arguments))}")
    if origin is tuple:
        return _convert_tuple(value, arguments, where)
    if hint is bool and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    plain = isinstance(value, str) or (not isinstance(value, bool) and isinstance(value, int | float))
    if hint in (int, float) and plain and not (hint is int and isinstance(value, float)):
        try:
            return hint(value)
        except ValueError:
            pass
    if hint is str and isinstance(value, str):
        return value
    raise OptionError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {value!r}")


def _convert_union(value: Any, hints: tuple[Any, ...], where: str) -> Any:
    if type(None) in hints and (value is None or value == "None"):
        return None
    candidates = [h for h in hints if h is not type(None)]
    for hint in candidates[:-1]:
        try:
            return convert(value, hint, where)
        except OptionError:
            continue
    return convert(value, candidates[-1], where)


def _convert_tuple(value: Any, hints: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    items = [v for v in value.split(",") if v] if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        items = [items]
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = (hints[0],) * len(items)
    if len(hints) != len(items):
        raise OptionError(f"{where}: expected {len(hints)} values, got {len(items)}")
    return tuple(convert(v, h, where) for v, h in zip(items, hints, strict=True))


_OPTION = re.compile(r'\s*([\w-]+)=("(?:[^"\\]|\\.)*"|[^\s{}"]*)')
_STEP = re.compile(r'\s*([\w.-]+)\s*(?:\{((?:"(?:[^"\\]|\\.)*"|[^{}"])*)\})?[\s,]*')


def parse(text: str) -> Pass:
    """The pass that ``str(pass)`` wrote, for example ``fold-constants{max-bytes=1024}``.

    Raises:
        OptionError: the text does not name exactly one pass with valid options.
    """
    passes = parse_many(text)
    if len(passes) != 1:
        raise OptionError(f"{text!r} is not one pass")
    return passes[0]


def parse_many(text: str) -> tuple[Pass, ...]:
    """Passes in order, separated by spaces, line ends or commas."""
    made: list[Pass] = []
    at, text = 0, text.strip()
    while at < len(text):
        step = _STEP.match(text, at)
        if step is None:
            raise OptionError(f"cannot read a pass at {text[at : at + 40]!r}; expected name{{option=value ...}}")
        made.append(make(step[1], _parse_options(step[1], step[2] or "")))
        at = step.end()
    return tuple(made)


def _parse_options(name: str, text: str) -> dict[str, str]:
    options: dict[str, str] = {}
    at = 0
    while at < len(text.rstrip()):
        found = _OPTION.match(text, at)
        if found is None:
            raise OptionError(f"pass {name!r}: cannot read the options at {text[at:].strip()!r}; expected option=value")
        key, value = found.groups()
        if key in options:
            raise OptionError(f"pass {name!r}: option {key!r} is given twice")
        options[key] = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
        at = found.end()
    return options
