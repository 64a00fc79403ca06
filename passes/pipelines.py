"""Which passes run, in which order: presets by optimisation level, and pipelines from TOML files.

    [[pass]]
    name = "magnitude-pruning"
    sparsity = 0.5

is such a file; options are those of the pass's class.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path

from onyxc.compiler.errors import OptionError
from onyxc.compiler.transform import Pass
from onyxc.passes.canonical.check_indices import CheckIndices
from onyxc.passes.canonical.common_subexpressions import CommonSubexpressions
from onyxc.passes.canonical.dead_code import DeadCode
from onyxc.passes.canonical.einsum import EinsumToMatMul
from onyxc.passes.canonical.expand_functions import KEEP, ExpandFunctions
from onyxc.passes.canonical.inline_if import InlineIf
from onyxc.passes.canonical.no_ops import NoOps
from onyxc.passes.canonical.sequences import ResolveSequences
from onyxc.passes.canonical.transposes import ComposeTransposes
from onyxc.passes.canonical.unroll import Unroll
from onyxc.passes.fold.arithmetic import FoldArithmetic
from onyxc.passes.fold.batch_norm import FoldBatchNorm
from onyxc.passes.fold.constants import FoldConstants
from onyxc.passes.fold.one_hot import FoldOneHot
from onyxc.passes.fold.pad import FoldPad
from onyxc.passes.fold.pool_first import PoolFirst
from onyxc.passes.fold.resize_last import ResizeLast
from onyxc.passes.fold.shapes import FoldShapes
from onyxc.passes.fold.sum_convolutions import SumConvolutions
from onyxc.passes.fuse.activations import FuseActivations
from onyxc.passes.fuse.attention import FuseAttention
from onyxc.passes.fuse.chains import FuseChains
from onyxc.passes.fuse.group_queries import GroupQueries
from onyxc.passes.fuse.groups import FuseGroups
from onyxc.passes.fuse.hoist import HoistElementwise
from onyxc.passes.fuse.masks import AdditiveMasks
from onyxc.passes.fuse.merge_products import MergeProducts
from onyxc.passes.fuse.normalizations import FuseNormalizations
from onyxc.passes.fuse.scales import ScaleScores
from onyxc.passes.fuse.slices import GatherToSlice
from onyxc.passes.fuse.softmax import FuseSoftmax
from onyxc.passes.fuse.split_bias import SplitBias
from onyxc.passes.fuse.turned_attention import TurnAttention
from onyxc.passes.layout.channels_last import ChannelsLast
from onyxc.passes.layout.shuffle import SinkShuffle
from onyxc.passes.quantize.canonical_integer import CanonicalInteger
from onyxc.passes.quantize.fold_fake_quant import FoldFakeQuant
from onyxc.passes.registry import make, suggest

LEVELS = range(4)
LARGEST = 1 << 32  # bytes of a folded result: the compiler packs weights, which it needs as constants, at almost any size


def preset(level: int) -> tuple[Pass, ...]:
    """The passes of -O``level``.

    O0 does what compiling needs: constants computed, control flow resolved, functions expanded. O1 also removes what
    does nothing, O2 also folds arithmetic into weights, O3 is for passes that cost compile time.

    Raises:
        OptionError: there is no such level.
    """
    _check(level)
    passes = resolve()
    if level >= 1:
        passes += clean()
    if level >= 2:
        passes += fold()
    return passes


def _check(level: int) -> None:
    if level not in LEVELS:
        raise OptionError(f"-O{level}: levels are {', '.join(f'O{n}' for n in LEVELS)}")


def resolve(keep: Iterable[str] = KEEP) -> tuple[Pass, ...]:
    """Compute what is constant, and expand what has no lowering; needed before any backend.

    ``keep``: operators that need not be expanded because they have a lowering.
    """
    return (
        FoldConstants(LARGEST),
        FoldShapes(),
        InlineIf(),
        ExpandFunctions.keeping(keep),
        ResolveSequences(),
        FoldConstants(LARGEST),
        Unroll(),
        ResolveSequences(),
        FoldConstants(LARGEST),
        InlineIf(),
        ResolveSequences(),
        DeadCode(),
        CheckIndices(),
    )


def clean() -> tuple[Pass, ...]:
    """Remove what does nothing or is done twice."""
    return (NoOps(), FoldShapes(), FoldConstants(LARGEST), CommonSubexpressions(), DeadCode())


def fold() -> tuple[Pass, ...]:
    """Find operators again that exporters took apart, then fold arithmetic on constants into the weights."""
    folds = (EinsumToMatMul(), FoldArithmetic(), *recognise(), FoldOneHot(), FoldPad(), FoldBatchNorm(), SumConvolutions())
    folds = (*folds, PoolFirst(), ResizeLast())
    return (*folds, FoldConstants(LARGEST), NoOps(), DeadCode())


def recognise() -> tuple[Pass, ...]:
    """Operators from their parts; comes before their gains and shifts can fold into a weight next to them."""
    return (FuseNormalizations(), FuseSoftmax(), TurnAttention(), FuseActivations())


def from_toml(path: str | Path) -> tuple[Pass, ...]:
    """The passes that a TOML file lists, each a ``[[pass]]`` table with ``name`` and options.

    Raises:
        OptionError: the file cannot be read, is not TOML, or names an unknown pass, option or value.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"cannot read pipeline {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"pipeline {path} is not TOML: {error}") from error
    tables = content.pop("pass", None)
    if content:
        key = next(iter(content))
        raise OptionError(f"pipeline {path}: unknown key {key!r}{suggest(key, ['pass'])}")
    if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise OptionError(f'pipeline {path}: expected [[pass]] tables, each with name = "..."')
    passes: list[Pass] = []
    for number, table in enumerate(tables, 1):
        name = table.pop("name", None)
        if not isinstance(name, str):
            raise OptionError(f'pipeline {path}: [[pass]] number {number} has no name = "..."')
        try:
            passes.append(make(name, table))
        except OptionError as error:
            raise OptionError(f"pipeline {path}, [[pass]] number {number}: {error}") from None
    return tuple(passes)


def integers() -> tuple[Pass, ...]:
    """Fake quantization becomes integer arithmetic; comes before anything that takes biases or products apart."""
    return (CanonicalInteger(), FoldFakeQuant(), DeadCode())


def compilation(
    level: int, target_kind: str = "cpu", keep: Iterable[str] = KEEP, chosen: Iterable[Pass] | None = None
) -> tuple[Pass, ...]:
    """What compiling runs: the preset (or the passes ``chosen`` in its place), integers, layout and fusion.

    Raises:
        OptionError: there is no such level.
    """
    _check(level)
    passes = (*resolve(keep), *(chosen or ()))
    if level >= 1:
        passes += integers()
        passes += clean() if chosen is None else ()
    if level >= 2 and chosen is None:
        passes += fold()
    return (*passes, *finish(level, target_kind, keep))


def finish(level: int, target_kind: str = "cpu", keep: Iterable[str] = KEEP) -> tuple[Pass, ...]:
    """What every compilation ends with: the layout of the processor kind, then fusion (not at O0)."""
    passes: tuple[Pass, ...] = (ExpandFunctions.keeping(keep), SplitBias())
    if target_kind == "cpu":
        passes += (ChannelsLast(),)
    passes += (ComposeTransposes(),) if level >= 1 else ()
    passes += (NoOps(), FoldConstants(LARGEST), DeadCode())
    if target_kind == "cpu" and level >= 2:
        passes += (SinkShuffle(), DeadCode())
    if level >= 1:
        passes += (GatherToSlice(),) if target_kind == "cpu" else ()
        passes += (HoistElementwise(), NoOps(), CommonSubexpressions())
        if target_kind == "cpu":
            passes += (AdditiveMasks(), ScaleScores(), GroupQueries(), DeadCode(), MergeProducts(), FuseAttention())
        passes += (FuseGroups(),)
    if target_kind == "cpu" and level >= 2:
        passes += (FuseChains(),)
    return passes
