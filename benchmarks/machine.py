"""The first line of every result: the processor, and how many threads worked."""

from __future__ import annotations

import platform
from pathlib import Path

from onyxc.backends.target import host, host_cores


def describe(threads: int) -> str:
    """For example "AMD EPYC (x86-64-v4, 2 usable cores), 1 thread"."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = named[0] if named else platform.machine()
    cores = f"{host_cores()} usable core{'s' * (host_cores() > 1)}"
    return f"{name} ({host().name}, {cores}), {threads} thread{'s' * (threads > 1)}"
