"""Work in a forked process: a fault inside TVM or LLVM costs the user an error message, not a core dump.

The child inherits everything by fork, sends pickled progress and one result through a pipe, and never returns.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO, Generic, Self, TypeVar

from onyxc.compiler.errors import BuildError, OnyxcError

T = TypeVar("T")
Report = Callable[[str, int, int], None]  # stage, done, total


class InternalError(Exception):
    """Our fault; carries the child's traceback."""


def quiet(stage: str, done: int, total: int) -> None:
    """A report that goes nowhere."""


def run(work: Callable[[Report], T], report: Report = quiet) -> T:
    """``work(report)`` in a forked child; its result or error comes back.

    Raises:
        OnyxcError: as the child raised it.
        BuildError: the child was killed by a signal.
        InternalError: any other exception of the child.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(work, writer)
    os.close(writer)
    stage, result = "starting", None
    try:
        with os.fdopen(reader, "rb") as pipe:
            while (message := _receive(pipe)) is not None:
                kind, payload = message
                if kind == "progress":
                    stage = payload[0]
                    report(*payload)
                else:
                    result = (kind, payload)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(pid, 0)
    if result is None:
        reason = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {status}"
        raise BuildError(f"the compiling process died ({reason}) while {stage}; please report the model")
    kind, payload = result
    if kind == "error":
        raise payload
    if kind == "fault":
        raise InternalError(payload)
    made: T = payload
    return made


def _child(work: Callable[[Report], Any], writer: int) -> None:
    code = 1
    gc.freeze()  # what is inherited stays: to search it for garbage would copy its pages
    try:
        with os.fdopen(writer, "wb") as pipe:

            def send(kind: str, payload: Any) -> None:
                data = pickle.dumps((kind, payload))
                pipe.write(len(data).to_bytes(8, "little") + data)
                pipe.flush()

            try:
                send("result", work(lambda *progress: send("progress", progress)))
                code = 0
            except OnyxcError as error:
                send("error", error.with_traceback(None))
            except BaseException:
                send("fault", traceback.format_exc())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _receive(pipe: BinaryIO) -> tuple[str, Any] | None:
    head = pipe.read(8)
    if len(head) < 8:
        return None
    data = pipe.read(int.from_bytes(head, "little"))
    message: tuple[str, Any] = pickle.loads(data)  # our own child wrote it
    return message


def map_forked(work: Callable[[T], Any], items: list[T], jobs: int) -> list[Any]:
    """``work`` over ``items`` in up to ``jobs`` forked children at a time; results in order."""
    if jobs <= 1 or len(items) <= 1:
        return [work(item) for item in items]
    with Background(work, jobs) as side:
        for item in items:
            side.add(item)
        return side.finish()


class Background(Generic[T]):
    """``work`` on one item after the other in forked children, beside the caller; a context that leaves none behind.

    Children see the caller's memory as it was when theirs began. ``jobs`` cores: one is the caller's until `finish`.
    """

    def __init__(self, work: Callable[[T], Any], jobs: int) -> None:
        self._work, self._jobs = work, jobs
        self._items: list[T] = []
        self._running: dict[int, tuple[int, int, BinaryIO]] = {}  # by a pipe that ends: item, process, file of the result
        self._results: dict[int, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for pipe, (_index, pid, file) in self._running.items():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(pipe)
            file.close()

    def add(self, item: T) -> None:
        """Work on ``item`` as soon as a core is free."""
        self._items.append(item)
        self._collect(0)
        self._begin(max(self._jobs - 1, 1))

    def finish(self) -> list[Any]:
        """The results of all items, in order.

        Raises:
            OnyxcError: as a child raised it.
            BuildError: a child was killed by a signal.
            InternalError: any other exception of a child.
        """
        self._begin(self._jobs)
        while self._running:
            self._collect(None)
            self._begin(self._jobs)
        return [self._results[index] for index in range(len(self._items))]

    def _begin(self, most: int) -> None:
        begun = len(self._results) + len(self._running)
        for index in range(begun, min(len(self._items), begun + most - len(self._running))):
            # a pipe would hold a large result up until it is read
            file = tempfile.TemporaryFile()  # noqa: SIM115
            pid, pipe = _start(partial(self._work, self._items[index]), file)
            self._running[pipe] = index, pid, file

    def _collect(self, seconds: float | None) -> None:
        """Take the results of children that have ended, for the first of which it waits so long (None: any time)."""
        for pipe in select.select(list(self._running), [], [], seconds)[0] if self._running else ():
            index, pid, file = self._running.pop(pipe)
            os.close(pipe)
            os.waitpid(pid, 0)
            with file:
                file.seek(0)
                message = _receive(file)
            if message is None:
                raise BuildError("a code generating process died; please report the model")
            kind, payload = message
            if kind != "result":
                raise payload if kind == "error" else InternalError(payload)
            self._results[index] = payload


def _start(work: Callable[[], Any], file: BinaryIO) -> tuple[int, int]:
    """A child whose result goes to ``file``: its process, and a pipe that ends when it does."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _child(lambda report: work(), os.dup(file.fileno()))
    os.close(writer)
    return pid, reader
