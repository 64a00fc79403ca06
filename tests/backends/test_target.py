"""Targets: presets, this machine, and the levels of one artifact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from onyxc.backends import target
from onyxc.backends.target import PRESETS, get, levels
from onyxc.compiler.errors import OptionError

V4 = {"avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd"}


def names(wanted: target.Names) -> list[str]:
    return [t.name for t in levels(wanted)]


def test_levels_are_ordered_by_what_they_need() -> None:
    assert names("x86-64-v3, x86-64-v4") == ["x86-64-v4", "x86-64-v3"]
    assert names("x86-64-v4+vnni,x86-64-v2,x86-64-v4+bf16,x86-64-v4,x86-64-v3") == [
        "x86-64-v4+bf16", "x86-64-v4+vnni", "x86-64-v4", "x86-64-v3", "x86-64-v2",
    ]  # fmt: skip
    assert names("aarch64,aarch64+dotprod") == ["aarch64+dotprod", "aarch64"]


def test_levels_are_kept_once() -> None:
    assert names(f"host,{target.host().name}") == [target.host().name]
    assert names(["x86-64-v3", get("x86-64-v3"), "x86-64-v2,x86-64-v3"]) == ["x86-64-v3", "x86-64-v2"]


def test_a_target_of_ones_own_is_a_level() -> None:
    own = replace(get("x86-64-v3"), name="mine", l2=123)
    assert levels([own, "x86-64-v4"])[1] is own
    assert levels(own) == (own,)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("x86-64-v3,aarch64", r"one architecture only, not x86-64-v3 \(x86_64\), aarch64 \(aarch64\)"),
        ("x86-64-v4,cuda:sm_80", "one architecture only"),
        ("cuda:sm_80,cuda:sm_90", "one CUDA target only"),
        ("x86-64-v3,", "unknown target ''; known are host, x86-64-v2"),
        ("x86-64-v5", "unknown target 'x86-64-v5'"),
        ([], "no target"),
    ],
)
def test_wrong_levels(wanted: target.Names, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        levels(wanted)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (set[str](), "x86-64-v2"),
        ({"avx2"}, "x86-64-v2"),
        ({"avx2", "fma"}, "x86-64-v3"),
        (V4 - {"avx512vl"}, "x86-64-v3"),
        (V4 | {"avx_vnni"}, "x86-64-v4"),
        (V4 | {"avx512_vnni"}, "x86-64-v4+vnni"),
        (V4 | {"avx512_bf16"}, "x86-64-v4"),
        (V4 | {"avx512_vnni", "avx512_bf16"}, "x86-64-v4+bf16"),
    ],
)
def test_the_host_is_the_best_preset(monkeypatch: pytest.MonkeyPatch, flags: set[str], expected: str) -> None:
    monkeypatch.setattr(target, "_cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert get("host") == PRESETS[expected]


def test_every_feature_is_one_that_the_artifact_can_ask_for() -> None:
    text = (Path(target.__file__).parent / "runtime/features.c").read_text()
    for preset in PRESETS.values():
        assert all(f'strcmp(name, "{feature}")' in text for feature in preset.features)


def test_caches_of_this_machine(tmp_path: Path) -> None:
    for index, (level, kind, size) in enumerate(
        [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2048K"), ("3", "Unified", "36M")]
    ):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(value + "\n")
    (tmp_path / "index9").mkdir()  # says nothing
    assert target.host_caches(tmp_path) == {"l1": 48 << 10, "l2": 2 << 20, "l3": 36 << 20}
    assert target.host_caches(tmp_path / "none") == {}
