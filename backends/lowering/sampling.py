"""GridSample: linear, nearest and cubic, any number of spatial dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod

from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.kernels.imperative import Imperative
from onyxc.backends.lowering.code import Code, kernel
from onyxc.backends.lowering.registry import imperative, static
from onyxc.backends.lowering.scalar import like, select
from onyxc.backends.lowering.words import Cell, Expr, cast, every, fix, hold, i32, ravel, strides
from onyxc.compiler.errors import UnsupportedError
from onyxc.compiler.ir.graph import Node

MODES = {"bilinear": "linear", "linear": "linear", "nearest": "nearest", "bicubic": "cubic", "cubic": "cubic"}
CUBIC = -0.75
FAR = 1e9  # coordinates beyond are moved here: a float this large still fits an int32


def text(node: Node, key: str, default: str) -> str:
    """A string attribute."""
    value = node.attrs.get(key, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def reflected(x: Expr, low: float, high: float) -> Expr:
    """``x`` mirrored at the borders until it is between them."""
    reach = high - low
    if reach <= 0:
        return like(x, low)
    below = x < like(x, low)
    distance = hold(select(below, like(x, low) - x, x - like(x, high)))
    turns = hold(cast(distance / like(x, reach), "int32"))
    rest = hold(distance - cast(turns, str(x.ty.dtype)) * like(x, reach))
    from_low = tirx.EQ(turns & 1, cast(x >= like(x, low), "int32"))
    inside = every(x >= like(x, low), x <= like(x, high))
    return hold(select(inside, x, select(from_low, like(x, low) + rest, like(x, high) - rest)))


@dataclass(frozen=True)
class Axis:
    """How one spatial axis is sampled."""

    extent: int
    mode: str
    padding: str
    align: bool

    @property
    def borders(self) -> tuple[float, float]:
        """Between which reflection happens."""
        return (0.0, self.extent - 1.0) if self.align else (-0.5, self.extent - 0.5)

    def position(self, x: Expr) -> Expr:
        """From -1..1 to element coordinates, moved inside as the padding says."""
        one, two = like(x, 1), like(x, 2)
        length = like(x, self.extent)
        place = (x + one) / two * (length - one) if self.align else ((x + one) * length - one) / two
        place = tirx.max(like(x, -FAR), tirx.min(like(x, FAR), place))
        place = hold(tirx.round(place) if self.mode == "nearest" else place)
        low, high = (like(x, b) for b in self.borders)
        if self.padding == "border":
            clamped = tirx.max(like(x, 0), tirx.min(like(x, self.extent - 1), place))
            return hold(select(every(place >= low, place <= high), place, clamped))
        return reflected(place, *self.borders) if self.padding == "reflection" else place

    def taps(self, x: Expr) -> list[tuple[Expr, Expr, Expr | None]]:
        """Index (always valid), weight and, for zero padding, whether the element exists."""
        if self.mode == "nearest":
            return [self.tap(i32(x), like(x, 1))]
        base = hold(tirx.floor(x))
        t = hold(x - base)
        start = hold(i32(base))
        if self.mode == "linear":
            return [self.tap(start, like(x, 1) - t), self.tap(start + 1, t)]
        return [self.tap(start + i - 1, w) for i, w in enumerate(cubic(t))]

    def tap(self, index: Expr, weight: Expr) -> tuple[Expr, Expr, Expr | None]:
        """One tap."""
        exists = None
        if self.padding == "zeros":
            exists = every(index >= 0, index < self.extent)
        elif self.padding == "reflection":
            index = i32(reflected(cast(index, "float32"), *self.borders))
        return hold(T.max(T.min(index, self.extent - 1), 0)), hold(weight), exists


def cubic(t: Expr) -> list[Expr]:
    """Weights of the four elements around a point at fraction ``t`` (Keys)."""
    a = like(t, CUBIC)

    def number(value: float) -> Expr:
        return like(t, value)

    def outer(x: Expr) -> Expr:
        return ((a * x - number(5 * CUBIC)) * x + number(8 * CUBIC)) * x - number(4 * CUBIC)

    def inner(x: Expr) -> Expr:
        return (number(CUBIC + 2) * x - number(CUBIC + 3)) * x * x + number(1)

    one, two = number(1), number(2)
    return [outer(t + one), inner(t), inner(one - t), outer(two - t)]


@imperative("GridSample")
def grid_sample(node: Node) -> Imperative:
    """A task is an output position: its taps are worked out once for all channels."""
    x_dims, grid_dims = static(node, 0).dims, static(node, 1).dims
    batch, channels, *spatial = x_dims
    mode, padding = text(node, "mode", "linear"), text(node, "padding_mode", "zeros")
    if mode not in MODES or padding not in ("zeros", "border", "reflection"):
        raise UnsupportedError(f"{node.label()}: mode {mode!r} with padding {padding!r}")
    align = bool(node.attrs.get("align_corners", 0))
    rank, points = len(spatial), prod(grid_dims[1:-1])
    axes = [Axis(n, MODES[mode], padding, align) for n in spatial]
    kind = "float64" if node.outputs[0].dtype == "float64" else "float32"

    def emit(code: Code) -> None:
        x, grid = code.ins
        image, point = fix(tirx.truncdiv(code.task, points)), fix(tirx.truncmod(code.task, points))
        found = []
        for number, axis in enumerate(axes):  # the grid's last dimension counts from the innermost axis
            value = hold(cast(grid[code.task * rank + (rank - 1 - number)], kind))
            found.append(axis.taps(axis.position(value)))
        corners = []
        for taps in product(*found):
            weight = taps[0][1]
            for _, factor, _ in taps[1:]:
                weight = weight * factor
            exist = [e for _, _, e in taps if e is not None]
            if exist:
                weight = select(every(*exist), weight, like(weight, 0))
            exists = hold(every(*exist)) if exist else None
            corners.append((hold(ravel([i for i, _, _ in taps], strides(spatial))), hold(weight), exists))
        with T.serial(0, channels) as c:
            plane = fix((image * channels + c) * prod(spatial))
            total = Cell(kind, 0)
            for offset, weight, exists in corners:
                value = cast(x[plane + offset], kind)
                total.add(weight * (value if exists is None else select(exists, value, like(value, 0))))
            code.outs[0][(image * channels + c) * points + point] = total.get()

    return kernel(node, None, emit, tasks=batch * points, work=batch * channels * points * 4**rank * 2)
