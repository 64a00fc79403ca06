"""C compilers: the system's for this machine, zig's (extra ``onyxc[cross]``) or a named one for the others.

Which one, first found wins:

    1. the option ``compiler``                       e.g. "aarch64-linux-gnu-gcc"
    2. $ONYXC_CC_X86_64, $ONYXC_CC_AARCH64, $ONYXC_CC_ARMV7
    3. for this machine: $CC, cc, gcc, clang
    4. ``python -m ziglang cc -target ...``, its cache in ~/.cache/onyxc/zig (the first link of a target builds a libc)

Everything runs in the build folder with relative names, so that results do not depend on where that folder is.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from onyxc.backends.target import Target
from onyxc.compiler.errors import BuildError

# zig's name of an architecture, and of its C library's ABI; glibc 2.17 is the oldest that aarch64 has
_ZIG = {"x86_64": ("x86_64", ""), "aarch64": ("aarch64", ""), "armv7": ("arm", "eabihf")}

_COMPILE = (
    "-std=gnu11", "-O1", "-g0", "-fPIC", "-fvisibility=hidden", "-ffunction-sections", "-fno-strict-aliasing",
    "-fno-asynchronous-unwind-tables", "-Wall", "-Wno-unused-function",
)  # fmt: skip
_LINK = ("-s", "-Wl,--build-id=none", "-Wl,--gc-sections", "-Wl,-z,noexecstack", "-Wl,--as-needed")
_LIBRARIES = ("-lm", "-lpthread", "-ldl")


@dataclass(frozen=True)
class Toolchain:
    """A C compiler for one architecture. ``zig``: the architecture's names, or None for another compiler."""

    command: tuple[str, ...]
    native: bool
    zig: tuple[str, str] | None = None

    def compile(self, folder: Path, source: str, output: str, *flags: str, static: bool = False) -> None:
        """Compile the C file ``source`` of ``folder``; ``static``: for a program without shared libraries."""
        quiet = ("-fno-sanitize=all", "-Wno-unknown-warning-option") if self.zig else ()
        self._run(folder, *self._cc(static), *_COMPILE, *quiet, *flags, "-c", source, "-o", output)

    def shared(self, folder: Path, objects: Sequence[str], output: str) -> None:
        """Link a shared library without unresolved symbols."""
        libgcc = () if self.zig else ("-static-libgcc",)
        name = f"-Wl,-z,defs,-soname,{output}"
        self._run(folder, *self._cc(), "-shared", *libgcc, name, *objects, "-o", output, *_LINK, *_LIBRARIES)

    def program(self, folder: Path, objects: Sequence[str], output: str, *, static: bool, library: str = "") -> None:
        """Link an executable; ``library``: a shared library that will lie beside it."""
        how: tuple[str, ...] = ("-static",) if static else ()
        if library:
            how = ("-Wl,-rpath,$ORIGIN", library)
        self._run(folder, *self._cc(static), *objects, *how, "-o", output, *_LINK, *_LIBRARIES)

    def archive(self, folder: Path, objects: Sequence[str], output: str) -> None:
        """Make a static archive, without dates or owners."""
        if self.zig:
            tool: tuple[str, ...] = (*self.command[:-1], "ar")
        else:
            found = self._run(folder, *self.command, "-print-prog-name=ar").strip()
            tool = (found or "ar",)
        self._run(folder, *tool, "rcsD", output, *objects)

    def _cc(self, static: bool = False) -> tuple[str, ...]:
        if self.zig is None:
            return self.command
        arch, abi = self.zig
        system = f"musl{abi}" if static else f"gnu{abi}.2.17"
        return (*self.command, "-target", f"{arch}-linux-{system}")

    def _run(self, folder: Path, *command: str) -> str:
        environment = dict(os.environ, LC_ALL="C", SOURCE_DATE_EPOCH="0")
        if self.zig:
            cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onyxc" / "zig"
            environment.setdefault("ZIG_GLOBAL_CACHE_DIR", str(cache))
            environment["ZIG_LOCAL_CACHE_DIR"] = str(folder / ".zig-cache")
        try:
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        except OSError as error:
            raise BuildError(f"cannot run the compiler {command[0]!r}: {error}") from None
        if done.returncode:
            output = (done.stderr or done.stdout).strip()
            raise BuildError(f"{shlex.join(command)} failed with exit code {done.returncode}:\n{output[-4000:]}")
        return done.stdout


def find(target: Target, compiler: str = "") -> Toolchain:
    """The toolchain for ``target``; ``compiler`` names one.

    Raises:
        BuildError: there is none; the message says what to install.
    """
    arch = host_arch(target)
    native = arch == _machine()
    named = compiler or os.environ.get(f"ONYXC_CC_{arch.upper()}", "")
    if named:
        return _named(named, native)
    if native:
        if os.environ.get("CC"):
            return _named(os.environ["CC"], native)
        for name in ("cc", "gcc", "clang"):
            if shutil.which(name):
                return Toolchain((name,), native)
    if find_spec("ziglang"):
        return Toolchain((sys.executable, "-m", "ziglang", "cc"), native, _ZIG[arch])
    wanted = "install a C compiler (apt-get install gcc) or" if native else "install"
    raise BuildError(
        f"no C compiler for {arch}: {wanted} zig by `pip install 'onyxc[cross]'`, "
        f"or name a compiler by the environment variable ONYXC_CC_{arch.upper()}"
    )


def host_arch(target: Target) -> str:
    """The architecture that the artifact's C code runs on: for CUDA, that of the target's triple."""
    return target.triple.partition("-")[0] if target.kind == "cuda" else target.arch


def _named(command: str, native: bool) -> Toolchain:
    words = tuple(shlex.split(command))
    if not words or not shutil.which(words[0]):
        raise BuildError(f"the C compiler {command!r} is not there: check its name, or $CC and $ONYXC_CC_*")
    return Toolchain(words, native)


def _machine() -> str:
    machine = os.uname().machine
    return "armv7" if machine.startswith("arm") else machine
