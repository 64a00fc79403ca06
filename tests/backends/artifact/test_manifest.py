"""The manifest: written and read back, the same bytes, clear errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from onyxc.backends.artifact import manifest
from onyxc.backends.artifact.manifest import Manifest, Tensor
from onyxc.compiler.errors import ModelError

MADE = Manifest(
    name="modèle", prefix="model", target="x86-64-v3", arch="x86_64", inputs=(Tensor("x", "float32", (1, 3), 12),),
    outputs=(Tensor("y", "int64", (9,), 72, dynamic=True), Tensor("z", "bool", (), 1)), arena_bytes=640, weight_bytes=0,
    kernels=2, library="libmodel.so", header="model.h", weights="", runner="run", digest="ab" * 32,
    passes=("fold-constants", "fuse"), versions={"onyxc": "0.1.0"}, info={"accuracy": 0.9, "list": [1, 2]},
)  # fmt: skip


def test_round_trip(tmp_path: Path) -> None:
    MADE.write(tmp_path)
    assert manifest.read(tmp_path) == MADE
    first = (tmp_path / manifest.FILE).read_bytes()
    manifest.read(tmp_path).write(tmp_path)
    assert (tmp_path / manifest.FILE).read_bytes() == first


def test_fields_of_a_later_minor_change_are_ignored(tmp_path: Path) -> None:
    MADE.write(tmp_path)
    path = tmp_path / manifest.FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "novelty": 1}))
    assert manifest.read(tmp_path) == MADE


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    replace(MADE, version=99).write(tmp_path)
    with pytest.raises(ModelError, match="version 99, this onyxc knows 1: upgrade"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", '{"version": 1}', '{"version": "x"}', "nul\0"])
def test_broken_text(tmp_path: Path, text: str) -> None:
    (tmp_path / manifest.FILE).write_text(text)
    with pytest.raises(ModelError, match=r"manifest\.json"):
        manifest.read(tmp_path)
    assert not manifest.is_artifact(tmp_path)


def test_not_an_artifact(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ModelError, match="not an onyxc artifact"):
            manifest.read(folder)
