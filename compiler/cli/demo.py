"""`onyxc demo`: the main job on a model that comes with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from onyxc.compiler.cli import options, report
from onyxc.compiler.cli.app import USER, app

SEEDS = 3


@app.command()
def demo(
    out: Annotated[str, typer.Option("-o", "--out", metavar="DIR", help="Folder of the artifact.")] = "digits",
    target: options.TargetName = "host",
) -> None:
    """Compile, verify, run and time a small digit classifier against onnxruntime."""
    from onyxc.compiler import bench, demo, driver, verification
    from onyxc.compiler.engines import random_inputs

    folder = Path(demo.__file__).parent
    model, data = folder / "digits.onnx", np.load(folder / "digits.npz")
    print(f"model     {model} (trained by {(folder / 'train.py').name}, {len(data['y'])} test images)")
    with report.progress() as show:
        artifact = driver.compile(model, out=out, target=target, input_dims={"batch": 1}, report=show)
    size = sum(f.stat().st_size for f in Path(out).glob("*.so"))
    print(f"compiled  {out}: {size / 1024:.0f} KiB library for {artifact.model.manifest.target}, nothing else to ship")
    feeds = [random_inputs(artifact.model.inputs, seed) for seed in range(SEEDS)]
    found = verification.outputs(str(model), Path(out), feeds, lambda _, feed: artifact.run(feed))
    worst = max(d.relative for d in found)
    print(f"verified  {sum(d.ok for d in found)} of {len(found)} runs agree with onnxruntime, max relative error {worst:.1e}")
    scores = [artifact.run({"image": image[None].astype(np.float32) / 16})[0] for image in data["x"]]
    hits = sum(int(s.argmax()) == int(y) for s, y in zip(scores, data["y"], strict=True))
    print(f"accuracy  {hits} of {len(scores)} test images right")
    ours, theirs = bench.compare(Path(out), str(model), ["onnxruntime"], feeds[0], 1, 1.0)
    print(
        f"timed     {ours['median_ms'] * 1e3:.1f} us; onnxruntime {theirs['median_ms'] * 1e3:.1f} us "
        f"({theirs['ratio']:.2f} of its time, one thread)"
    )
    raise typer.Exit(0 if all(d.ok for d in found) else USER)
