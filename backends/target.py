"""Targets: what a processor can do, as frozen data. Nothing here imports TVM.

A target's numbers are those of a typical processor of its level, never this machine's: the same target gives the
same bytes wherever it is compiled. So ``host`` is the name of the best preset that this machine runs, and its own
caches, which `host_caches` tells, decide nothing.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from onyxc.compiler.errors import OptionError


@dataclass(frozen=True)
class Target:
    """One processor level.

    ``vector_bytes``: width of a vector register; ``registers``: how many there are; ``l1``, ``l2``: data-cache
    bytes of a core, ``l3`` of all; ``cores``: for how many a plan should have work; ``options``: the TVM target's
    fields; ``triple``: the linker's target. ``features``: what the artifact asks of the processor when it is loaded
    (runtime/features.c knows how).
    ``exact``: no algorithm that rounds more often than the plain sum (Winograd, Strassen); ``favor`` size:
    none that needs weights larger than the model's.
    """

    name: str
    arch: str  # x86_64, aarch64, armv7, cuda
    vector_bytes: int
    registers: int
    features: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    triple: str = ""
    l1: int = 32 << 10
    l2: int = 1 << 20
    l3: int = 32 << 20
    cores: int = 4
    description: str = ""
    exact: bool = False
    favor: Literal["speed", "size"] = "speed"

    @property
    def kind(self) -> str:
        """``cpu`` or ``cuda``."""
        return "cuda" if self.arch == "cuda" else "cpu"

    def lanes(self, dtype_bytes: int = 4) -> int:
        """Elements of ``dtype_bytes`` in one vector register."""
        return self.vector_bytes // dtype_bytes

    def tvm_options(self) -> dict[str, object]:
        """The dictionary from which ``tvm.target.Target`` is made."""
        made: dict[str, object] = dict(self.options)
        if "mattr" in made:
            made["mattr"] = str(made["mattr"]).split(",")
        return made


def _x86(name: str, vector: int, registers: int, features: tuple[str, ...], cpu: str, description: str) -> Target:
    options = (("kind", "llvm"), ("mtriple", "x86_64-linux-gnu"), ("mcpu", cpu))
    l2, l3 = {16: (256 << 10, 8 << 20), 32: (512 << 10, 16 << 20), 64: (1 << 20, 32 << 20)}[vector]
    return Target(
        name, "x86_64", vector, registers, features, options, "x86_64-linux-gnu", l2=l2, l3=l3, description=description
    )  # fmt: skip


def _arm(name: str, features: tuple[str, ...], attributes: str, description: str) -> Target:
    options: tuple[tuple[str, str], ...] = (("kind", "llvm"), ("mtriple", "aarch64-linux-gnu"))
    if attributes:
        options += (("mattr", attributes),)
    return Target(
        name, "aarch64", 16, 32, features, options, "aarch64-linux-musl", l3=4 << 20, description=description
    )  # fmt: skip


_AVX2 = ("sse4.2", "avx2", "fma")
_AVX512 = (*_AVX2, "avx512")
_VNNI = (*_AVX512, "vnni")

PRESETS: dict[str, Target] = {
    t.name: t
    for t in (
        _x86("x86-64-v2", 16, 16, ("sse4.2",), "x86-64-v2", "SSE4.2"),
        _x86("x86-64-v3", 32, 16, _AVX2, "x86-64-v3", "AVX2 and FMA"),
        _x86("x86-64-v4", 64, 32, _AVX512, "x86-64-v4", "AVX-512"),
        _x86("x86-64-v4+vnni", 64, 32, _VNNI, "cascadelake", "AVX-512 with VNNI: 8-bit products"),
        _x86("x86-64-v4+bf16", 64, 32, (*_VNNI, "bf16"), "cooperlake", "AVX-512 with VNNI and BF16: 16-bit products"),
        _arm("aarch64", (), "+neon", "ARMv8-A, NEON"),
        _arm("aarch64+dotprod", ("dotprod",), "+neon,+dotprod", "ARMv8.2-A with dot products"),
        Target(
            "armv7",
            "armv7",
            16,
            16,
            options=(
                ("kind", "llvm"),
                ("mtriple", "armv7a-linux-gnueabihf"),
                ("mattr", "+neon,+vfp4"),
                ("mcpu", "cortex-a7"),
                ("mfloat-abi", "hard"),
            ),
            triple="arm-linux-musleabihf",
            l2=512 << 10,
            l3=0,
            description="ARMv7-A, hard float, NEON",
        ),
        *(
            Target(
                f"cuda:sm_{sm}",
                "cuda",
                16,
                255,
                options=(("kind", "cuda"), ("arch", f"sm_{sm}")),
                triple="x86_64-linux-gnu",
                l1=0,
                l2=0,
                l3=0,
                cores=0,
                description=text,
            )
            for sm, text in ((75, "Turing"), (80, "Ampere"), (86, "Ampere, consumer"), (89, "Ada"), (90, "Hopper"))
        ),
    )
}


@lru_cache(maxsize=1)
def _cpu_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    line = next((x for x in text.splitlines() if x.startswith(("flags", "Features"))), ":")
    return frozenset(line.partition(":")[2].split())


def host() -> Target:
    """The preset that fits this machine best."""
    flags, machine = _cpu_flags(), platform.machine()
    if machine == "aarch64":
        return PRESETS["aarch64+dotprod" if "asimddp" in flags else "aarch64"]
    if machine.startswith("arm"):
        return PRESETS["armv7"]
    if {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd"} <= flags:
        if "avx512_vnni" not in flags:
            return PRESETS["x86-64-v4"]
        return PRESETS["x86-64-v4+bf16" if "avx512_bf16" in flags else "x86-64-v4+vnni"]
    return PRESETS["x86-64-v3" if {"avx2", "fma"} <= flags else "x86-64-v2"]


def get(name: str) -> Target:
    """The target called ``name``; ``host`` means this machine.

    Raises:
        OptionError: no target has that name.
    """
    if name == "host":
        return host()
    if name not in PRESETS:
        raise OptionError(f"unknown target {name!r}; known are host, {', '.join(PRESETS)}")
    return PRESETS[name]


Names = str | Target | Sequence[str | Target]


def levels(wanted: Names) -> tuple[Target, ...]:
    """The targets of one artifact, best first and each once, whatever the order of ``wanted``.

    ``wanted``: a target, its name, several names with commas between them, or a list of these.

    Raises:
        OptionError: a name is unknown, there is none, or they are not levels of one kind of processor.
    """
    parts = [wanted] if isinstance(wanted, str | Target) else list(wanted)
    names = [name for part in parts for name in (part.split(",") if isinstance(part, str) else [part])]
    found = [name if isinstance(name, Target) else get(name.strip()) for name in names]
    if not found:
        raise OptionError("no target is given; `onyxc targets` lists them")
    made = sorted(dict.fromkeys(found), key=lambda t: (t.vector_bytes, t.registers, len(t.features)), reverse=True)
    if len({t.arch for t in made}) > 1:
        kinds = ", ".join(f"{t.name} ({t.arch})" for t in made)
        raise OptionError(f"an artifact can hold levels of one architecture only, not {kinds}: compile one for each")
    if made[0].kind == "cuda" and len(made) > 1:
        raise OptionError(f"an artifact can hold one CUDA target only, not {', '.join(t.name for t in made)}")
    return tuple(made)


def host_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def host_caches(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> dict[str, int]:
    """Bytes of this machine's data caches, ``{"l1": ..., "l2": ..., "l3": ...}``; what Linux does not tell is left out."""
    found = {}
    for index in sorted(folder.glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            if kind in ("Data", "Unified"):
                found[f"l{level}"] = int(size.rstrip("KM")) << (20 if size.endswith("M") else 10)
        except (OSError, ValueError):
            continue
    return found
