"""Tables of an artifact's steps: what they are (`onyxc inspect`), and what they take (`onyxc profile`)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.text import Text

from onyxc.backends.artifact.steps import Step
from onyxc.backends.runtime.profile import Profile, Row
from onyxc.backends.runtime.roofline import size_text
from onyxc.compiler.cli import options, report

NAME = 20  # characters of operators and of a node's name
WIDTH = 200  # of the tables, where they do not go to a terminal
GOOD, FAIR = 0.7, 0.35  # shares of the roofline


def show_steps(steps: Sequence[Step]) -> None:
    """What `onyxc inspect` says of the steps of a run."""
    head = ("step", "operators", "first node", "shape", "MFLOP", "KB weights", "KB read", "KB written", "FLOP/B", "plan")
    rows = [
        (
            index,
            options.shorten(step.operators, NAME),
            options.shorten(step.name, NAME),
            step.shape,
            _number(step.flops / 1e6),
            _number(step.constant_bytes / 1e3),
            _number(step.read_bytes / 1e3),
            _number(step.written_bytes / 1e3),
            _number(step.intensity),
            step.note,
        )
        for index, step in enumerate(steps)
    ]
    report.table(head, rows, WIDTH)


def show_profile(profile: Profile) -> None:
    """The steps with their times, the sums by operators, and the totals."""
    head = ("step", "operators", "first node", "shape", "us", "share", "GFLOP/s", "GB/s", "FLOP/B", "roofline", "plan")
    rows = [
        (
            index,
            options.shorten(_times(row), NAME),
            options.shorten(row.step.name, NAME),
            row.step.shape,
            _number(row.seconds * 1e6),
            _share(row.share),
            _number(row.flops / 1e9),
            _number(row.bandwidth / 1e9),
            _number(row.step.intensity),
            _roofline(row.roofline, f" of {row.bound}"),
            row.step.note,
        )
        for index, row in enumerate(profile.rows)
    ]
    report.table(head, rows, WIDTH)
    print()
    _show_sums(profile)
    print()
    _show_totals(profile)


def _times(row: Row) -> str:
    return row.step.operators if row.calls == 1 else f"{row.calls:,} x {row.step.operators}"


def _show_sums(profile: Profile) -> None:
    rows = []
    ordered = sorted(profile.rows, key=lambda r: r.step.operators)
    for operators, group in groupby(ordered, key=lambda r: r.step.operators):
        members = list(group)
        seconds = sum(r.seconds for r in members)
        flops, least = sum(r.step.flops * r.calls for r in members), sum(r.roofline * r.seconds for r in members)
        share = sum(r.share for r in members)
        rows.append((seconds, operators, len(members), share, flops, least))
    rows.sort(reverse=True)
    table = [
        (
            options.shorten(operators),
            count,
            _number(seconds * 1e6),
            _share(share),
            _number(flops / seconds / 1e9 if seconds else 0),
            _roofline(least / seconds if seconds else 0),
        )
        for seconds, operators, count, share, flops, least in rows
    ]
    report.table(("operators", "steps", "us", "share", "GFLOP/s", "roofline"), table)


def _show_totals(profile: Profile) -> None:
    machine, wall = profile.machine, profile.wall
    runs = f"median of {profile.runs} runs, {machine.threads} thread{'s' * (machine.threads > 1)}, {profile.target}"
    peak = ", ".join(f"{rate / 1e9:.0f} G{'FL' * (kind == 'float32')}OP/s {kind}" for kind, rate in machine.peak.items())
    levels = ", ".join(f"{size_text(size)} {rate / 1e9:.3g}" for size, rate in machine.bandwidth.items())
    speed = profile.flops / wall / 1e9 if wall else 0.0
    print(f"run       {_time(wall)} ({runs}), {profile.flops / 1e9:.3g} GFLOP at {speed:.3g} GFLOP/s")
    print(f"steps     {_time(profile.steps_seconds)} in all; {profile.outside:.1%} of a run is between them")
    print(f"machine   {peak or 'peak unknown'}; reads GB/s from blocks of {levels}")


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.4g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.4g} us"


def _number(value: float) -> Text:
    """Three digits, but whole numbers in full; nothing for zero."""
    text = f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value else ""
    return Text(text, justify="right")


def _share(value: float) -> Text:
    return Text(f"{value:.1%}", "bold" if value >= 0.05 else "", justify="right")


def _roofline(value: float, of: str = "") -> Text:
    colour = "green" if value >= GOOD else "yellow" if value >= FAIR else "red"
    return Text(f"{value:.0%}{of}" if value else "", colour, justify="right")
