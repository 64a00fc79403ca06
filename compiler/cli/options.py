"""Options that several commands share, and how their text is read."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from onyxc.compiler.errors import OptionError

ModelPath = Annotated[str, typer.Argument(metavar="MODEL", help="An ONNX model file.")]
Folder = Annotated[str, typer.Argument(metavar="DIR", help="A compiled artifact.")]
TargetName = Annotated[str, typer.Option("--target", help="Processor, or levels of one, a,b; see `onyxc targets`.")]
Level = Annotated[int, typer.Option("-O", min=0, max=3, help="Passes: 0 only the necessary, 1 clean and fuse, 2 all.")]
PipelineFile = Annotated[str, typer.Option("--pipeline", metavar="FILE", help="TOML file of passes, in place of -O.")]
Dims = Annotated[list[str], typer.Option("--input-dim", metavar="NAME=N", help="Size of a symbolic dimension.")]
Shapes = Annotated[list[str], typer.Option("--input-shape", metavar="NAME:1,3,8,8", help="Whole shape of an input.")]
Values = Annotated[list[str], typer.Option("--input-value", metavar="NAME=V", help="Make an input a constant.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads of the run.")]
Runner = Annotated[str, typer.Option("--runner", metavar="CMD", help='Emulator or `ssh board`: "qemu-aarch64 -cpu max".')]
JsonFile = Annotated[str, typer.Option("--json", metavar="FILE", help="Write the result as JSON (-: to standard output).")]


def bindings(dims: list[str], shapes: list[str], values: list[str]) -> dict[str, Any]:
    """The keyword arguments of `loader.load` for the three binding options."""
    return {
        "input_dims": _unique("--input-dim", map(_dim, dims)),
        "input_shapes": _unique("--input-shape", map(_shape, shapes)),
        "input_values": _unique("--input-value", map(_value, values)),
    }


def _unique(option: str, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if made.setdefault(name, value) != value:
            raise OptionError(f"{option} {name}: given twice, as {made[name]} and as {value}")
    return made


def _dim(text: str) -> tuple[str, int]:
    name, equals, size = text.rpartition("=")
    if not equals or not size.strip().isdecimal():
        raise OptionError(f"--input-dim {text}: write NAME=N, for example batch=1")
    return name, int(size)


def _shape(text: str) -> tuple[str, Any]:
    """NAME:1,2 for a tensor, NAME:1,2;1,3 for a sequence, NAME:none for an optional that is missing."""
    name, colon, sizes = text.rpartition(":")
    if colon and sizes.strip() == "none":
        return name, None
    try:
        shapes = [tuple(map(_size, part.split(","))) if part.strip() else () for part in sizes.split(";")]
    except ValueError:
        colon = ""
    if not colon:
        raise OptionError(
            f"--input-shape {text}: write NAME:1,3,224,224 (NAME: alone for a scalar), "
            "for a sequence its elements NAME:1,2;1,3"
        )
    if len(shapes) == 1:
        return name, shapes[0]
    return name, shapes[:-1] if shapes[-1] == () else shapes


def _size(text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError(text)
    return int(text)


def _value(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise OptionError(f"--input-value {text}: write NAME=V, for example sr=16000 or sizes=[1,2]")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError) as error:
        raise OptionError(f"--input-value {text}: {value!r} is neither a number nor a list of numbers") from error


def shorten(text: str, limit: int = 60) -> str:
    """``text``, cut for a table."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
