"""Artifacts used from C and C++ by their header, and by the program `run`."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from artifact_tools import chain, object_code, vector

from onyxc.backends.artifact.level import Level
from onyxc.backends.artifact.write import write
from onyxc.backends.target import get

EXAMPLE = r"""
#include "first.h"
#include "second.h"
#include <stdio.h>
#include <string.h>

static int show(float *x, const float *y, const int64_t *shape) {
    for (int i = 0; i < shape[0]; i++) printf("%g ", y[i]);
    (void)x;
    return 0;
}

int main(void) {
    first_context *a = first_create(2);
    second_context *b = second_create(1);
    float x[FIRST_INPUT_X_BYTES / sizeof(float)];
    if (!a || !b || first_input(a, 1) || second_output(b, -1) || first_run(NULL) != ONYXC_ERROR_ARGUMENT) return 1;
    if (first_table()->inputs != FIRST_INPUTS || strcmp(second_table()->output[SECOND_OUTPUT_Y].name, "y")) return 2;
    for (int i = 0; i < 16; i++) x[i] = (float)i;
    memcpy(first_input(a, FIRST_INPUT_X), x, sizeof x);
    if (first_run(a)) return 3;
    memcpy(second_input(b, SECOND_INPUT_X), first_output(a, FIRST_OUTPUT_Y), SECOND_INPUT_X_BYTES);
    if (second_run(b)) return 4;
    show(x, (const float *)second_output(b, SECOND_OUTPUT_Y), second_output_shape(b, SECOND_OUTPUT_Y));
    static float y[32]; /* 64 bytes behind the end may be read */
    memcpy(first_input(a, FIRST_INPUT_X), first_output(a, FIRST_OUTPUT_Y), SECOND_INPUT_X_BYTES);
    if (second_bind_input(b, SECOND_INPUT_X, first_output(a, FIRST_OUTPUT_Y))) return 5;
    if (second_bind_output(b, SECOND_OUTPUT_Y, y + 1) || first_run(a) || second_run(b)) return 6;
    for (int i = 0; i < 16; i++)
        if (y[1 + i] != ((const float *)first_output(a, FIRST_OUTPUT_Y))[i] + 6 * i) return 7;
    if (second_bind_input(b, SECOND_INPUT_X, NULL) || second_bind_output(b, SECOND_OUTPUT_Y, NULL)) return 8;
    if (second_bind_input(b, 1, y) != ONYXC_ERROR_ARGUMENT || second_bind_output(NULL, 0, y) == ONYXC_OK) return 9;
    first_destroy(a);
    second_destroy(b);
    first_destroy(NULL);
    return 0;
}
"""
EXPECTED = "".join(f"{i + 3 * i + 6 * i:g} " for i in range(16))  # x + 3 w, then + 3 (2 w)


@pytest.mark.parametrize("compiler", ["cc", "c++"])
@pytest.mark.parametrize("weights", ["embedded", "beside"])
@pytest.mark.parametrize("library", ["shared", "static"])
def test_two_models_in_one_program(
    tmp_path: Path, library: Literal["shared", "static"], weights: Literal["embedded", "beside"], compiler: str
) -> None:
    arguments, suffix = [], "so" if library == "shared" else "a"
    for name, step in (("first", 1), ("second", 2)):
        folder = tmp_path / name
        write([Level(get("host"), chain(name, step=step), [object_code()])], folder, library=library, weights=weights)
        arguments += [f"-I{folder}", str(folder / f"lib{name}.{suffix}"), f"-Wl,-rpath,{folder}"]
    (tmp_path / "main.c").write_text(EXAMPLE)
    warnings = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
    language = ["-x", "c++"] if compiler == "c++" else ["-std=c99"]
    source = [*language, "main.c", "-x", "none"]
    command = [compiler, *warnings, *source, *arguments, "-lpthread", "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True)
    if library == "static" and weights == "beside":  # each looks for weights.bin beside the program
        done = subprocess.run([tmp_path / "main"])
        assert done.returncode == 1
        return
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True)
    assert done.stdout == EXPECTED


@pytest.mark.parametrize("library", ["shared", "static"])
def test_the_program_on_files(tmp_path: Path, library: Literal["shared", "static"]) -> None:
    folder = tmp_path / "m"
    write([Level(get("host"), chain(), [object_code()])], folder, library=library)
    np.save(tmp_path / "in.npy", vector())
    vector().tofile(tmp_path / "in.raw")
    for name in ("in.npy", "in.raw"):
        command = [folder / "run", "-t", "2", "-n", "3", "-o", f"{name}-", f"x={name}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stderr.endswith(" ms\n")
        expected = vector() + np.float32(3) * np.arange(16, dtype="f4")
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}-0.npy"), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give every input"),
        (["y=in.npy"], "name of an input: y=in.npy"),
        (["x=none.npy"], "cannot open none.npy"),
        (["x=long.raw"], "too many bytes in long.raw"),
        (["x=short.raw"], "too few bytes for input x"),
        (["-z"], "usage: run"),
        (["-s"], "too few bytes for input x"),
    ],
)
def test_wrong_use_of_the_program(tmp_path: Path, arguments: list[str], message: str) -> None:
    write([Level(get("host"), chain(), [object_code()])], tmp_path / "m")
    (tmp_path / "long.raw").write_bytes(bytes(65))
    (tmp_path / "short.raw").write_bytes(bytes(63))
    command = [tmp_path / "m/run", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert message in done.stderr
