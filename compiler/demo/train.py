"""Trains the demo model: handwritten digits of 8 x 8 pixels, a data set that scikit-learn ships.

    pip install torch scikit-learn onnx && python compiler/demo/train.py

Writes digits.onnx (a residual network of 27,000 weights, batch size free) and digits.npz (360 test images and labels)
beside this file. Seeded: running it again gives the same accuracy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

HERE = Path(__file__).parent
EPOCHS = 30


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch normalization."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = convolution(channels, channels), convolution(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x + second(relu(first(x))), rectified."""
        return torch.relu(x + self.second(torch.relu(self.first(x))))


def network() -> nn.Module:
    """8x8 image in 0..1 -> ten logits."""
    return nn.Sequential(
        convolution(1, 16), nn.ReLU(), Residual(16), convolution(16, 32, 2), nn.ReLU(), Residual(32),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def main() -> None:
    """Train, report, export."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = load_digits()
    images = (data.images[:, None] / 16).astype(np.float32)
    parts = train_test_split(images, data.target, test_size=360, random_state=0, stratify=data.target)
    x, test_x, y, test_y = (torch.from_numpy(np.asarray(p)) for p in parts)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=1e-2)
    batches = -(-len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=EPOCHS * batches)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(64):
            shift = torch.randint(-1, 2, (2,)).tolist()
            loss = nn.functional.cross_entropy(model(torch.roll(x[rows], shift, (2, 3))), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    accuracy = (model(test_x).argmax(1) == test_y).float().mean().item()
    print(f"accuracy on {len(test_x)} test images: {accuracy:.4f}")
    torch.onnx.export(
        model, (test_x[:1],), HERE / "digits.onnx", input_names=["image"], output_names=["logits"], dynamo=False,
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}}, opset_version=17, do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
    )  # fmt: skip
    pixels = (test_x.numpy() * 16).astype(np.uint8)
    np.savez_compressed(HERE / "digits.npz", x=pixels, y=test_y.numpy().astype(np.uint8))


if __name__ == "__main__":
    main()
