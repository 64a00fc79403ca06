"""TE groups: the CUDA source, emulated, against numpy; and as machine code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_cases import CASES, Case

from onyxc.backends import target
from onyxc.backends.cuda import nvrtc
from onyxc.backends.cuda.emulator.device import Device, run
from onyxc.backends.cuda.generic import build_all

TARGET = target.get("cuda:sm_80")


@pytest.fixture(scope="module")
def built() -> dict[str, Any]:
    return {c.name: build_all(f"k_{c.name}", c.inputs, c.outputs, TARGET) for c in CASES}


@pytest.fixture(scope="module")
def device(built: dict[str, Any]) -> Device:
    return Device([p.kernel for pieces, _ in built.values() for p in pieces])


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_emulated(case: Case, built: dict[str, Any], device: Device) -> None:
    pieces, between = built[case.name]
    arrays = case.arrays()
    found = run(pieces, list(zip(case.inputs, arrays, strict=True)), case.outputs, device)
    expected = case.reference(*arrays)
    for array, reference in zip(found, expected if len(found) > 1 else [expected], strict=True):
        np.testing.assert_allclose(array, reference, rtol=2e-5, atol=2e-5)
    assert len(pieces) == case.kernels
    assert len(between) == sum(len(p.args) - p.reads for p in pieces) - len(case.outputs)


@pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed (extra onyxc[cuda])")
@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_90"])
def test_cubin(arch: str, built: dict[str, Any]) -> None:
    kernels = [p.kernel for pieces, _ in built.values() for p in pieces]
    made = nvrtc.compile_source("\n".join(k.source for k in kernels), arch)
    assert made.image[:4] == b"\x7fELF"
    assert made.usage.keys() == {k.name for k in kernels}
    assert all(u.stack_bytes == 0 and u.spill_bytes == 0 for u in made.usage.values())
    assert all(u.registers * np.prod(k.block) <= 65536 for k in kernels for u in [made.usage[k.name]])


def test_same_input_same_source(built: dict[str, Any]) -> None:
    case = next(c for c in CASES if c.name == "conv")
    again, _ = build_all("k_conv", case.inputs, case.outputs, TARGET)
    assert [p.kernel.source for p in again] == [p.kernel.source for p in built["conv"][0]]
