"""Work in a forked process: a fault inside TVM or LLVM costs the user an error message, not a core dump.

The child inherits everything by fork, sends pickled progress and one result through a pipe, and never returns.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar

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
    return payload  # type: ignore[no-any-return]


def _child(work: Callable[[Report], Any], writer: int) -> None:
    code = 1
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
    """``work`` over ``items`` in up to ``jobs`` forked children, round robin; results in order."""
    if jobs <= 1 or len(items) <= 1:
        return [work(item) for item in items]
    pending = [(i, *_start(work, items[i::jobs])) for i in range(jobs) if items[i::jobs]]
    results: list[Any] = [None] * len(items)
    for first, pid, reader in pending:
        with os.fdopen(reader, "rb") as pipe:
            message = _receive(pipe)
        os.waitpid(pid, 0)
        if message is None:
            raise BuildError("a code generating process died; please report the model")
        kind, payload = message
        if kind != "result":
            raise payload if kind == "error" else InternalError(payload)
        results[first::jobs] = payload
    return results


def _start(work: Callable[[T], Any], items: list[T]) -> tuple[int, int]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(lambda report: [work(item) for item in items], writer)
    os.close(writer)
    return pid, reader
