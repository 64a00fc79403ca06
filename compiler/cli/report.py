"""What commands print: tables, progress, JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from onyxc.compiler.worker import Report, quiet

console = Console()


@contextmanager
def progress() -> Iterator[Report]:
    """A progress bar on a terminal's standard error; nothing elsewhere."""
    screen = Console(stderr=True)
    if not screen.is_terminal:
        yield quiet
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def report(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total if total > 1 else None)

        yield report


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; the first column is text, numbers are right-aligned."""
    made = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for index, name in enumerate(head):
        numeric = bool(rows) and all(isinstance(r[index], int | float) for r in rows)
        made.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(_cell, row))
    (console if console.is_terminal else Console(width=160)).print(made)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def write_json(data: Any, file: str) -> None:
    """Write ``data`` as JSON to a file, or to standard output for ``-``."""
    text = json.dumps(data, indent=2, sort_keys=True) + "\n"
    if file == "-":
        sys.stdout.write(text)
    else:
        Path(file).write_text(text)
