"""`onyxc demo`: the main job on a model that comes with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from onyxc.compiler.cli import report
from onyxc.compiler.cli.exits import USER

SEEDS = 3


def demo(
    out: Annotated[str, typer.Option("-o", "--out", metavar="DIR", help="Folder of the artifact.")] = "digits",
) -> None:
    """Compile, verify, run and time a small digit classifier against onnxruntime."""
    from onyxc.compiler import bench, demo, driver, verification
    from onyxc.compiler.inputs import random_inputs

    folder = Path(demo.__file__).parent
    model, data = folder / "digits.onnx", np.load(folder / "digits.npz")
    print(f"model     {model} (trained by train.py beside it)")
    with report.progress() as show:
        artifact = driver.compile(model, out=out, input_dims={"batch": 1}, report=show)
    made = artifact.model.manifest
    size = (artifact.folder / made.library).stat().st_size
    print(f"compiled  {artifact.folder / made.library}: {size / 1024:.0f} KiB for {made.target}, weights and all")
    feeds = [random_inputs(artifact.model.inputs, seed) for seed in range(SEEDS)]
    found = verification.outputs(str(model), artifact.folder, feeds, lambda _, feed: artifact.run(feed))
    worst = max(d.relative for d in found)
    good = sum(d.ok for d in found)
    print(f"verified  {good} of {len(found)} runs agree with onnxruntime, largest error {worst:.1e} of the range")
    scores = [artifact.run({"image": image[None].astype(np.float32) / 16})[0] for image in data["x"]]
    hits = sum(int(s.argmax()) == int(y) for s, y in zip(scores, data["y"], strict=True))
    print(f"ran       {hits} of {len(scores)} test images right")
    ours, theirs = bench.compare(artifact.folder, str(model), ["onnxruntime"], feeds[0], seconds=1)
    print(
        f"timed     {ours.median_ms * 1e3:.1f} us an image; onnxruntime {theirs.median_ms * 1e3:.1f} us "
        f"(one thread, ratio {theirs.ratio:.2f})"
    )
    raise typer.Exit(0 if all(d.ok for d in found) else USER)
