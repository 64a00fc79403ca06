"""What commands print and write: tables, progress, JSON, files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from onyxc.compiler.errors import OptionError
from onyxc.compiler.worker import Report, quiet

WIDTH = 160  # of tables that go to a file or a pipe


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


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], width: int = WIDTH) -> None:
    """Print a table; columns of numbers are right-aligned. A cell may be rich's Text, with colours of its own."""
    made = Table(box=None, pad_edge=False, show_header=any(head))
    for index, name in enumerate(head):
        numeric = bool(rows) and all(isinstance(r[index], int | float) or _is_right(r[index]) for r in rows)
        made.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        # Text: names may look like rich's markup
        made.add_row(*(value if isinstance(value, Text) else Text(_cell(value)) for value in row))
    console = Console()
    (console if console.is_terminal else Console(width=width)).print(made)


def _is_right(value: Any) -> bool:
    return isinstance(value, Text) and value.justify == "right"


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
        write_file(file, text.encode())


def write_file(file: str, data: bytes) -> None:
    """Write a whole file or nothing.

    Raises:
        OptionError: the file cannot be written.
    """
    path = Path(os.path.realpath(file))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.exists() and not path.is_file():  # a device, a pipe, or a folder, which is an error
            path.write_bytes(data)
            return
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OptionError(f"cannot write {file}: {error.strerror or error}") from error
