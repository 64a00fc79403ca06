"""Running an artifact's ``run`` program by a command: an emulator, or ssh to a board."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onyxc.backends.artifact import manifest
from onyxc.backends.artifact.manifest import Manifest
from onyxc.backends.runtime.groups import flattened, grouped
from onyxc.backends.runtime.library import RunError
from onyxc.backends.runtime.specs import Array, Spec, checked, specs
from onyxc.compiler.errors import ModelError, OptionError


def run_with(folder: str | os.PathLike[str], feeds: Mapping[str, Any], runner: str, *, threads: int = 1) -> list[Any]:
    """The outputs of the artifact in ``folder`` for ``feeds``, computed under ``runner``; as `Model.run` gives them.

    ``runner`` is an emulator, ``"qemu-aarch64 -cpu max"``, which is followed by the program's path; or ``"ssh board"``
    with any options, which gets the files by the same connection, into a temporary folder that is removed at the end.
    An empty ``runner`` starts the program as it is.

    Raises:
        InputError: a name, dtype or shape does not fit.
        RunError: the runner or the program failed.
    """
    found = manifest.read(Path(folder))
    stdin = b"".join(a.tobytes() for a in checked(specs(found.inputs), flattened(found.takes, feeds)))
    outputs = _outputs(specs(found.outputs), start(Path(folder), found, runner, ["-t", str(threads)], stdin))
    return grouped(found.gives, outputs) if found.gives else outputs


def start(folder: Path, found: Manifest, runner: str, options: Sequence[str], stdin: bytes) -> bytes:
    """What the program of the artifact in ``folder`` prints when it gets all inputs as ``stdin``."""
    if not found.runner or not (folder / found.runner).is_file():
        raise ModelError(f"{folder} has no program to run: compile the model again")
    options = ["-s", *options]
    try:
        command = shlex.split(runner)
    except ValueError as error:
        raise OptionError(f"runner {runner!r} is not a command: {error}") from None
    if command and Path(command[0]).name in ("ssh", "dbclient"):
        return _run_remote(command, folder, found, options, stdin)
    return _execute([*command, str(folder / found.runner), *options], stdin)


def _run_remote(ssh: Sequence[str], folder: Path, found: Manifest, options: Sequence[str], stdin: bytes) -> bytes:
    place = _execute([*ssh, "mktemp -d /tmp/onyxc.XXXXXX"], b"").decode().strip()
    if not place.startswith("/tmp/onyxc."):
        raise RunError(f"{shlex.join(ssh)} made no temporary folder; it answered {place[:200]!r}")
    needed = [found.runner, found.weights, found.library if found.library.endswith(".so") else ""]
    try:
        for name in filter(None, needed):
            path = shlex.quote(f"{place}/{name}")
            _execute([*ssh, f"cat > {path} && chmod +x {path}"], (folder / name).read_bytes())
        return _execute([*ssh, shlex.join([f"{place}/{found.runner}", *options])], stdin)
    finally:
        _execute([*ssh, f"rm -r {place}"], b"")


def _execute(command: Sequence[str], stdin: bytes) -> bytes:
    try:
        done = subprocess.run(command, input=stdin, capture_output=True)
    except OSError as error:
        raise RunError(f"cannot start the runner {command[0]!r}: {error.strerror}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-2000:]
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        raise RunError(f"{shlex.join(command)} ended with {how}: {said or 'no message'}")
    return done.stdout


def _outputs(expected: Sequence[Spec], data: bytes) -> list[Array]:
    found, at = [], 0
    try:
        for spec in expected:
            rank = len(spec.shape)
            shape = np.frombuffer(data, np.int64, rank, at)
            at += 8 * rank
            count = int(np.prod(shape))
            found.append(np.frombuffer(data, spec.dtype, count, at).reshape(shape).copy())
            at += count * spec.dtype.itemsize
    except ValueError:
        at = -1
    if at != len(data):
        listed = ", ".join(map(str, expected))
        raise RunError(f"the program wrote {len(data)} bytes, which are not the outputs {listed}")
    return found
