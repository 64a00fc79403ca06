"""A loaded artifact."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onyxc.backends.artifact import manifest
from onyxc.backends.artifact.manifest import Manifest
from onyxc.backends.runtime.groups import flattened, grouped
from onyxc.backends.runtime.library import Context, RunError, load_table
from onyxc.backends.runtime.specs import Spec, checked, specs
from onyxc.compiler.errors import ModelError


class Model:
    """A compiled model, ready to run; any number of threads may call `run` at the same time.

    Each run in progress has a context of its own (arena and worker threads); contexts are kept and used again.
    """

    def __init__(self, folder: Path, threads: int):
        self.manifest: Manifest = manifest.read(folder)
        self.inputs: tuple[Spec, ...] = specs(self.manifest.inputs)
        self.outputs: tuple[Spec, ...] = specs(self.manifest.outputs)
        self.threads = threads
        self._has_groups = bool(self.manifest.takes or self.manifest.gives)
        self._table = load_table(_library(folder, self.manifest))
        self._weights = (folder / self.manifest.weights).resolve() if self.manifest.weights else None
        self._idle: list[Context] = []
        self._closed = False
        self._lock = threading.Lock()
        self._idle.append(self._context())  # what is wrong comes out when loading
        # a library from before there were several levels has a table without level(), and no levels in its manifest
        self._level = self._idle[0].level if self.manifest.levels else self.manifest.target

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs for the inputs ``feeds``, in graph order: arrays; lists of arrays for sequences.

        Raises:
            InputError: a name, dtype or shape does not fit.
        """
        if self._has_groups:
            feeds = flattened(self.manifest.takes, feeds)
        try:
            context = self._idle.pop()
        except IndexError:
            context = self._context()
        try:
            if not context.accept(feeds):
                context.take(checked(self.inputs, feeds))
            found = context.run()
            return grouped(self.manifest.gives, found) if self._has_groups and self.manifest.gives else found
        finally:
            self._idle.append(context)
            if self._closed:
                self.close()

    __call__ = run

    @property
    def level(self) -> str:
        """Which of the targets that the artifact holds runs on this machine."""
        return self._level

    def close(self) -> None:
        """Free the memory and end the worker threads; runs in progress end first."""
        self._closed = True
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def _context(self) -> Context:
        if self._closed:
            raise RunError(f"the model {self.manifest.name!r} is closed")
        return Context(self._table, self.inputs, self.outputs, self.threads, self._weights)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_idle"):
            self.close()

    def __repr__(self) -> str:
        takes, gives = ", ".join(map(str, self.inputs)), ", ".join(map(str, self.outputs))
        return f"Model({self.manifest.name!r}: {takes} -> {gives}; {self.level})"


def load(folder: str | os.PathLike[str], threads: int = 1) -> Model:
    """Load the artifact in ``folder``, to run each inference with ``threads`` threads (0: one a processor).

    Raises:
        ModelError: it is not an artifact, is broken, or is for another processor.
    """
    return Model(Path(folder), threads)


def check_machine(folder: Path, found: Manifest) -> None:
    """Refuse an artifact for another kind of processor.

    Raises:
        ModelError: the message says what would run it.
    """
    machine = platform.machine()
    if found.arch != ("armv7" if machine.startswith("arm") else machine):
        raise ModelError(
            f"{folder} is compiled for {found.target}, this machine is {machine}: "
            f"run it there, or by an emulator (onyxc run --runner)"
        )


def _library(folder: Path, found: Manifest) -> Path:
    check_machine(folder, found)
    path = folder / found.library
    if not found.library.endswith(".so"):
        raise ModelError(f"{folder} holds a static archive: compile with --library shared to load it from Python")
    if not path.is_file():
        raise ModelError(f"{folder} is broken: {found.library} is missing")
    return path
