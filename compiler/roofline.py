"""The roofline picture of a profile: the speed of each step over its intensity, below what the machine allows."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from onyxc.backends.runtime.profile import Profile, Row
from onyxc.backends.runtime.roofline import BYTES, size_text
from onyxc.backends.runtime.specs import Array
from onyxc.compiler.errors import OptionError

NAMED = 8  # steps that the picture names: those that take longest
CROWDED = 0.06  # names of dots that are nearer (logarithm of the speed) would lie over each other
APART = 1.3  # bandwidths that are nearer to each other are drawn as one
LOWEST = 1e-2  # GFLOP/s: what is slower is not drawn
COLOURS = {"float32": "#1f5fa8", "int8": "#c4551d"}
GREY, PALE = "#8a8a8a", "#e4e4e4"


def to_svg(profile: Profile) -> bytes:
    """The picture as an SVG file.

    Raises:
        OptionError: matplotlib is not installed, or no step computes anything.
    """
    try:
        import matplotlib
    except ImportError:
        raise OptionError("matplotlib is not installed: pip install 'onyxc[plot]'") from None
    made = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "onyxc", "svg.fonttype": "none", "font.size": 9}):
        figure(profile).savefig(made, format="svg", metadata={"Date": None})
    return made.getvalue()


def figure(profile: Profile) -> Any:
    """The picture as a figure of matplotlib: a dot for each step, its area the step's share of the time."""
    from matplotlib.figure import Figure

    rows = [r for r in profile.rows if r.flops and r.step.intensity]
    if not rows:
        raise OptionError("no step of the model computes anything: there is nothing to draw")
    made = Figure(figsize=(10, 6.5), layout="constrained")
    axes = made.add_subplot(xscale="log", yscale="log")
    axes.set_xlabel("intensity: operations for each byte read or written")
    axes.set_ylabel("GFLOP/s")
    threads = profile.machine.threads
    who = f"{profile.target}, {threads} thread{'s' * (threads > 1)}"
    axes.set_title(f"{profile.model}: {profile.wall * 1e3:.4g} ms on {who}; areas are shares of the time")
    intensities, speeds = [r.step.intensity for r in rows], [r.flops / 1e9 for r in rows]
    left, right = min(intensities) / 2, max(*intensities, 50.0) * 2
    slowest, peaks = min(profile.machine.bandwidth.values()) / 1e9, _peaks(profile)
    axes.set_xlim(left, right)
    axes.set_ylim(max(min(*speeds, slowest * left) / 2, LOWEST), max([*speeds, *peaks.values()]) * 2)
    _roofs(axes, profile.machine.bandwidth, peaks, np.geomspace(left, right, 300))
    _dots(axes, rows)
    axes.grid(which="major", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return made


def _peaks(profile: Profile) -> dict[str, float]:
    """Peaks of the kinds of arithmetic that occur, in GFLOP/s."""
    used = {"int8" if r.step.dtype in BYTES else "float32" for r in profile.rows}
    return {kind: peak / 1e9 for kind, peak in profile.machine.peak.items() if kind in used}


def _roofs(axes: Any, bandwidth: Mapping[int, float], peaks: Mapping[str, float], x: Array) -> None:
    """The slopes of memory up to the highest peak, and the peaks."""
    highest = max(peaks.values(), default=np.inf)
    for size, rate in _plateaus(bandwidth):
        y = np.minimum(x * rate / 1e9, highest)
        axes.plot(x, y, color=GREY, linewidth=0.9)
        label = f"{size_text(size)}: {rate / 1e9:.3g} GB/s"
        _label(axes, label, (x[0], y[0]), GREY, rotation=_slope(axes), rotation_mode="anchor")
    for kind, peak in peaks.items():
        axes.axhline(peak, color=COLOURS[kind], linewidth=1.2)
        name = f"{kind}: {peak:.3g} G{'FL' * (kind == 'float32')}OP/s"
        _label(axes, name, (x[0], peak), COLOURS[kind])


def _slope(axes: Any) -> float:
    """The angle of a line through powers of ten, in degrees."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    box = axes.get_window_extent()
    return float(np.degrees(np.arctan2(box.height / np.log10(top / bottom), box.width / np.log10(right / left))))


def _plateaus(bandwidth: Mapping[int, float]) -> Iterator[tuple[int, float]]:
    """The largest block of each level of the memory hierarchy, slowest first."""
    last = 0.0
    for size, rate in sorted(bandwidth.items(), reverse=True):
        if rate > last * APART:
            last = rate
            yield size, rate


def _dots(axes: Any, rows: list[Row]) -> None:
    colours = [COLOURS["int8" if r.step.dtype in BYTES else "float32"] for r in rows]
    x, y, areas = zip(*((r.step.intensity, r.flops / 1e9, 12 + 2500 * r.share) for r in rows), strict=True)
    axes.scatter(x, y, s=areas, c=colours, alpha=0.45, linewidths=0)
    named: list[tuple[float, float]] = []
    for row in sorted(rows, key=lambda r: -r.seconds):
        i, v = row.step.intensity, row.flops / 1e9
        if len(named) < NAMED and all(abs(np.log(v / b)) > CROWDED or abs(np.log(i / a)) > 1 for a, b in named):
            named.append((i, v))
            _label(axes, f"{row.step.operators} {row.step.name}, {row.share:.0%}", (i, v), "#202020", size=7)


def _label(axes: Any, text: str, place: tuple[float, float], colour: str, **how: Any) -> None:
    axes.annotate(text, place, (3, 3), textcoords="offset points", color=colour, **how)
