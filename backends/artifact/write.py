"""Writing an artifact: a folder that holds a compiled model and all that is needed to run it.

    manifest.json   what it is (`manifest.Manifest`)
    steps.json      table of the steps of a run (`steps.Step`)
    lib<name>.so    shared library, or lib<name>.a, a static archive
    <name>.h        C header
    weights.bin     only if the weights lie beside the library
    run             executable: the model on files or streams, for emulators and boards (runtime/main.c)

The folder is built under a temporary name and renamed at the end: a failure leaves nothing behind and damages nothing.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from onyxc.backends.artifact import elf, elf_data, link, manifest, source, steps
from onyxc.backends.artifact import weights as weights_
from onyxc.backends.artifact.describe import describe
from onyxc.backends.artifact.header import RUNTIME, header
from onyxc.backends.artifact.level import Level
from onyxc.backends.artifact.manifest import Manifest, Tensor
from onyxc.backends.artifact.names import identifier
from onyxc.backends.artifact.source import Body
from onyxc.backends.program import Buffer
from onyxc.compiler.errors import BuildError, OptionError, UnsupportedError

WEIGHTS = "weights.o"
_PACKAGES = {"onyxc": "onyxc", "tvm": "apache-tvm", "onnx": "onnx"}


def write(
    levels: Sequence[Level],
    out: Path,
    *,
    library: Literal["shared", "static"] = "shared",
    weights: Literal["embedded", "beside"] = "embedded",
    info: dict[str, Any] | None = None,
    body: Body | None = None,
    compiler: str = "",
    runner: bool = True,
) -> Manifest:
    """Write one model as an artifact to the folder ``out``: for one target, or for several, the best first.

    The programs of all ``levels`` have the same inputs and outputs. ``info`` (over ``program.info``): ``digest``,
    ``passes`` and ``takes`` fill the manifest's fields, ``versions`` adds to its versions, everything else is kept as
    it is and must be JSON. ``body`` computes in place of the CPU's entry function (see `source`); ``compiler`` names a
    C compiler (see `link`). ``runner``: also build the program ``run``.

    Raises:
        OptionError: ``out`` exists and is not an artifact, or an option has an unknown value.
        UnsupportedError: an input or output holds strings.
        BuildError: a kernel has no object code, there is no compiler, or it failed.
    """
    _check_choice("library", library, ("shared", "static"))
    _check_choice("weights", weights, ("embedded", "beside"))
    out = Path(os.path.realpath(out))
    check_replaceable(out)
    program, target = levels[0].program, levels[0].target
    toolchain = link.find(target, compiler)
    constants = weights_.collect(*(level.program for level in levels))
    prefix = identifier(program.name)
    objects: list[bytes] = []
    if body is None:
        for level in levels:
            _check_symbols(level)
            objects += elf.prefix_symbols(level.objects, f"{prefix}__{level.identifier}__")
        body = source.cpu_body(levels, constants, f"{prefix}__")
    facts = {**program.info, **(info or {})}
    beside = bool(constants.nbytes) and (weights == "beside" or constants.nbytes > weights_.EMBED_LIMIT)
    made = Manifest(
        name=program.name,
        prefix=prefix,
        target=",".join(level.target.name for level in levels),
        arch=link.host_arch(target),
        inputs=tuple(_tensor(b, dynamic=False) for b in program.inputs),
        outputs=tuple(_tensor(b, dynamic=b.name in program.counts) for b in program.outputs),
        arena_bytes=body.arena_bytes,
        weight_bytes=constants.nbytes,
        kernels=sum(len(level.program.kernels()) for level in levels),
        levels=tuple(_facts(level, body) for level in levels),
        library=f"lib{prefix}.{'so' if library == 'shared' else 'a'}",
        header=f"{prefix}.h",
        weights=weights_.FILE if beside else "",
        runner="run" if runner else "",
        steps=steps.FILE,
        digest=str(facts.pop("digest", "")),
        passes=tuple(map(str, facts.pop("passes", ()))),
        versions={**_versions(), **facts.pop("versions", {})},
        takes=tuple(facts.pop("takes", ())),
        gives=tuple(program.gives),
        info=facts,
    )
    with _replacing(out) as temporary:
        _Build(made, toolchain, temporary, body).run(constants, objects)
        steps.write(temporary, {level.target.name: describe(level.program) for level in levels})
    return made


@dataclass
class _Build:
    manifest: Manifest
    toolchain: link.Toolchain
    folder: Path  # holds the finished files; those in between are in folder/build
    body: Body

    @property
    def work(self) -> Path:
        return self.folder / "build"

    @property
    def is_shared(self) -> bool:
        return self.manifest.library.endswith(".so")

    def run(self, constants: weights_.Weights, objects: Sequence[bytes]) -> None:
        self.work.mkdir()
        for path in (*RUNTIME.glob("*.c"), *RUNTIME.glob("*.h")):
            shutil.copy(path, self.work)
        for name, data in self.body.files.items():
            (self.work / name).write_bytes(data)
        text = source.translation_unit(self.manifest, self.body)
        (self.work / "model.c").write_text(text)
        (self.work / self.manifest.header).write_text(header(self.manifest))
        prefix = self.manifest.prefix
        macros = f"#define TABLE {prefix}_table\n#define PROFILE {prefix}_profile\n"
        (self.work / "run.c").write_text(f'#include "{self.manifest.header}"\n{macros}#include "main.c"\n')
        names = [f"kernels{i}.o" for i in range(len(objects))]
        for name, data in zip(names, objects, strict=True):
            (self.work / name).write_bytes(data)
        with ThreadPoolExecutor(2) as pool:  # the C compilers run at the same time
            compiled = [pool.submit(self.model), *([pool.submit(self.main)] if self.manifest.runner else [])]
            names += self.constants(constants)
            for done in compiled:
                done.result()
        self.library(names)
        if self.manifest.runner:
            self.runner(names)
        kept = [self.manifest.library, self.manifest.header, self.manifest.runner, self.manifest.weights]
        for name in filter(None, kept):
            (self.work / name).rename(self.folder / name)
        self.manifest.write(self.folder)
        shutil.rmtree(self.work)

    def constants(self, block: weights_.Weights) -> list[str]:
        """Write the weights, beside the library or as an object file, whose name comes back."""
        if self.manifest.weights or not block.nbytes:
            with (self.work / weights_.FILE).open("wb") as file:
                block.write(file)
            return []
        head, tail = elf_data.wrap(self.manifest.arch, f"{self.manifest.prefix}_weights", block.nbytes)
        with (self.work / WEIGHTS).open("wb") as file:
            file.write(head)
            block.write(file)
            file.write(tail)
        return [WEIGHTS]

    def model(self) -> None:
        """The object file of the generated C source."""
        flags = ["-DSHARED_LIBRARY"] if self.is_shared else []
        self.toolchain.compile(self.work, "model.c", "model.o", *flags)

    def library(self, objects: list[str]) -> None:
        """Link, or archive."""
        make = self.toolchain.shared if self.is_shared else self.toolchain.archive
        make(self.work, ["model.o", *objects], self.manifest.library)

    def main(self) -> None:
        """The program's own object file."""
        self.toolchain.compile(self.work, "run.c", "run.o", static=not self.toolchain.native)

    def runner(self, objects: list[str]) -> None:
        """For this machine the program uses the library; for another it is static and needs nothing there."""
        tools, static = self.toolchain, not self.toolchain.native
        if static:
            if tools.zig:  # another C library than the shared library's
                tools.compile(self.work, "model.c", "model.o", static=True)
            tools.program(self.work, ["run.o", "model.o", *objects], "run", static=True)
        else:
            tools.program(self.work, ["run.o"], "run", static=False, library=f"./{self.manifest.library}")


def _tensor(buffer: Buffer, *, dynamic: bool) -> Tensor:
    if buffer.dtype == "string":
        raise UnsupportedError(f"{buffer.name!r} holds strings, which compiled models cannot take or give")
    return Tensor(buffer.name, buffer.dtype, buffer.shape, buffer.nbytes, dynamic)


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise OptionError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")


def _facts(level: Level, body: Body) -> manifest.Level:
    is_cpu = level.target.kind == "cpu"
    arena = level.plan.arena_bytes if is_cpu else body.arena_bytes
    return manifest.Level(level.target.name, len(level.program.kernels()), arena, tuple(level.notes))


def _check_symbols(level: Level) -> None:
    defined = {name for data in level.objects for name in elf.defined_symbols(data)}
    missing = [k.name for k in level.program.kernels() if k.name not in defined]
    if missing:
        raise BuildError(f"no object code defines the kernel {missing[0]!r} ({len(missing)} are missing)")


def _versions() -> dict[str, str]:
    found = {}
    for name, package in _PACKAGES.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            continue
    return found


def check_replaceable(out: Path) -> None:
    """Refuse to write over what onyxc did not make.

    Raises:
        OptionError: ``out`` exists and is neither an artifact nor an empty folder.
    """
    if out.is_dir():
        if any(out.iterdir()) and not manifest.is_artifact(out):
            raise OptionError(f"{out} is not empty and not an onyxc artifact: give another folder or empty it")
    elif out.exists():
        raise OptionError(f"{out} exists and is not a folder")


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out`` that takes its place if the block succeeds."""
    missing = [p for p in out.parents if not p.exists()]
    temporary = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        new = temporary / "new"
        new.mkdir()  # by the umask; mkdtemp's own folder is private
        yield new
        _exchange(new, out, temporary / "old")
    except OSError as error:
        _undo(missing, temporary)
        raise OptionError(f"cannot write {out}: {error}") from error
    except BaseException:
        _undo(missing, temporary)
        raise
    shutil.rmtree(temporary, ignore_errors=True)


def _exchange(new: Path, out: Path, old: Path) -> None:
    if not out.exists():
        new.rename(out)
        return
    out.rename(old)
    try:
        new.rename(out)
    except OSError:
        old.rename(out)
        raise
    for name in {p.name for p in old.iterdir()} - manifest.files(old):  # what the user put there stays there
        if not (out / name).exists():
            (old / name).rename(out / name)


def _undo(made: list[Path], temporary: Path | None) -> None:
    if temporary:
        shutil.rmtree(temporary, ignore_errors=True)
    for folder in made:  # innermost first
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
