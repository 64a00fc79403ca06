"""Cross-compiled artifacts, run by an emulator."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

from onyxc.backends import runtime
from onyxc.compiler import compile
from onyxc.compiler.compare import difference
from onyxc.compiler.engines import OnnxRuntime
from onyxc.compiler.inputs import random_inputs

Build = Callable[[str], tuple[onnx.ModelProto, Path]]

RUNNERS = {
    "aarch64": "qemu-aarch64 -cpu cortex-a53",
    "aarch64+dotprod": "qemu-aarch64 -cpu max",
    "armv7": "qemu-arm -cpu cortex-a7",
}
CASES = [
    ("aarch64", "residual"), ("aarch64", "transformer"), ("aarch64", "quantized"), ("aarch64+dotprod", "integers"),
    ("armv7", "residual"), ("armv7", "lstm"), ("armv7", "quantized"), ("armv7", "integers"),
]  # fmt: skip

pytestmark = pytest.mark.skipif(not find_spec("ziglang"), reason='no cross compiler: pip install -e ".[cross]"')


@pytest.mark.parametrize(("target", "name"), CASES)
def test_in_an_emulator(built: Build, tmp_path: Path, target: str, name: str) -> None:
    runner = RUNNERS[target]
    if not shutil.which(runner.split()[0]):
        pytest.skip(f"{runner.split()[0]} is not installed: apt-get install qemu-user")
    model, native = built(name)
    compile(model, name=name, out=tmp_path / name, target=target)
    here = runtime.load(native)
    feeds = random_inputs(here.inputs)
    there = runtime.run_with(tmp_path / name, feeds, runner, threads=2)
    for label, wanted, got in zip(OnnxRuntime(model).outputs, here.run(feeds), there, strict=True):
        if name in ("quantized", "integers"):
            np.testing.assert_array_equal(got, wanted)  # integers are exact on every processor
        else:
            assert difference(label, wanted, got).ok
