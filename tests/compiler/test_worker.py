"""Forked work: results in order, beside the caller; errors come back, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import time

import pytest

from onyxc.compiler import worker
from onyxc.compiler.errors import BuildError, OptionError

LARGE = 1 << 20  # bytes, more than a pipe holds


def result(item: int) -> tuple[int, int, bytes]:
    return item, os.getpid(), bytes(LARGE)


def fail(item: int) -> int:
    if item == 1:
        raise OptionError("not this one")
    if item == 2:
        raise KeyError("a fault")
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_results_are_in_order(jobs: int) -> None:
    assert [i for i, _, _ in worker.map_forked(result, list(range(7)), jobs)] == list(range(7))
    with worker.Background(result, jobs) as side:
        for item in range(7):
            side.add(item)
        made = side.finish()
    assert [i for i, _, _ in made] == list(range(7))
    assert os.getpid() not in {pid for _, pid, _ in made}


def test_nothing_to_do() -> None:
    assert worker.map_forked(result, [], 4) == []
    with worker.Background(result, 2) as side:
        assert side.finish() == []


@pytest.mark.parametrize(
    ("item", "error", "text"),
    [(1, OptionError, "not this one"), (2, worker.InternalError, "KeyError"), (3, BuildError, "died")],
)
def test_errors_come_back(item: int, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        worker.map_forked(fail, [0, item, 0], 2)


def test_the_context_ends_its_children() -> None:
    with worker.Background(lambda item: time.sleep(1000), 3) as side:
        side.add(1)
        side.add(2)
        children = [pid for _, pid, _ in side._running.values()]
        assert len(children) == 2
    for pid in children:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
