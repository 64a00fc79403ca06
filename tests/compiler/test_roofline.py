"""The roofline picture."""

from __future__ import annotations

import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from onyxc.backends.artifact.steps import Step
from onyxc.backends.runtime.profile import Profile, Row
from onyxc.backends.runtime.roofline import Machine
from onyxc.compiler import roofline
from onyxc.compiler.errors import OptionError

MACHINE = Machine(2, {"float32": 1e11, "int8": 4e11}, {1 << 14: 2e11, 1 << 16: 1.9e11, 1 << 22: 1e11, 1 << 26: 2e10})


def row(name: str, flops: int, seconds: float, dtype: str = "float32") -> Row:
    step = Step("k", (f"Conv {name}",), "", flops, 100, 200, 300, dtype)
    return Row(step, 1, seconds, 0.5, 0.9, "compute")


def made(*rows: Row) -> Profile:
    return Profile("net", "x86-64-v3", 10, 1e-3, rows, MACHINE)


def test_it_is_an_svg_with_names_and_roofs() -> None:
    rows = [row("first", 10**6, 1e-5), row("bytes", 10**7, 2e-5, "uint8"), row("idle", 0, 1e-6)]
    text = roofline.to_svg(made(*rows))
    words = " ".join(e.text or "" for e in ElementTree.fromstring(text).iter() if e.tag.endswith("text"))
    assert "Conv first" in words
    assert "Conv bytes" in words
    assert "idle" not in words
    assert "float32: 100 GFLOP/s" in words
    assert "int8: 400 GOP/s" in words
    assert "4 MiB: 100 GB/s" in words
    assert "16 KiB" not in words  # as fast as 64 KiB
    assert "net: 1 ms on x86-64-v3, 2 threads" in words


def test_the_same_profile_gives_the_same_bytes() -> None:
    profile = made(row("a", 10**6, 1e-5), row("b", 10**6, 2e-5))
    assert roofline.to_svg(profile) == roofline.to_svg(profile)


def test_names_do_not_lie_over_each_other() -> None:
    rows = [row(f"twin{i}", 10**6, 1e-5) for i in range(5)]
    assert roofline.to_svg(made(*rows)).count(b">Conv twin") == 1


def test_an_unknown_machine() -> None:
    profile = replace(made(row("a", 10**6, 1e-5)), machine=Machine(1, {}, {1 << 14: 1e9}))
    assert b"GFLOP/s" in roofline.to_svg(profile)


def test_nothing_to_draw() -> None:
    with pytest.raises(OptionError, match="nothing to draw"):
        roofline.to_svg(made(row("a", 0, 1e-5)))


def test_matplotlib_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OptionError, match=r"pip install 'onyxc\[plot\]'"):
        roofline.to_svg(made(row("a", 10**6, 1e-5)))
