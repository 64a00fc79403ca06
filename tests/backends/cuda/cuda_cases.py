"""TE groups as the lowerings make them, each with its reference in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, topi

from onyxc.backends.lowering.activations import gelu
from onyxc.compiler.ir.graph import Node

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """``reference(*arrays)`` gives the arrays of ``outputs``; ``kernels``: how many launches are expected."""

    name: str
    inputs: list[Any]
    outputs: list[Any]
    reference: Callable[..., Any]
    kernels: int

    def arrays(self) -> list[Array]:
        """Reproducible inputs."""
        random = np.random.default_rng(len(self.name))
        made = []
        for tensor in self.inputs:
            shape = tuple(int(d) for d in tensor.shape)
            is_float = str(tensor.dtype).startswith("float")
            made.append(random.normal(size=shape) if is_float else random.integers(0, 5, shape))
        return [a.astype(str(t.dtype)) for a, t in zip(made, self.inputs, strict=True)]


def tensor(*shape: int, dtype: str = "float32", name: str = "x") -> Any:
    """A placeholder."""
    return te.placeholder(shape, dtype, name=name)


def conv2d(x: Array, w: Array, stride: int, pad: int) -> Array:
    """Convolution of NCHW by OIHW in float64."""
    kernel, height = w.shape[2], (x.shape[2] + 2 * pad - w.shape[2]) // stride + 1
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    total = np.zeros((x.shape[0], w.shape[0], height, height))
    for i in range(kernel):
        for j in range(kernel):
            part = padded[:, :, i : i + stride * height : stride, j : j + stride * height : stride]
            total += np.einsum("nchw,oc->nohw", part[:, :, :height, :height], w[:, :, i, j])
    return total


def softmax(x: Array, axis: int = -1) -> Array:
    """Softmax in float64."""
    e = np.exp(x.astype(np.float64) - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def _elementwise() -> Case:
    x, b = tensor(3, 5, 7), tensor(5, 1, name="b")
    y = te.compute((3, 5, 7), lambda i, j, k: te.tanh(x[i, j, k] * 2.0 + b[j, 0]))
    z = te.compute((3, 5, 7), lambda i, j, k: te.sigmoid(y[i, j, k]))
    return Case("elementwise", [x, b], [z], lambda x, b: 1 / (1 + np.exp(-np.tanh(x * 2 + b))), 1)


def _gelu() -> Case:
    x, node = tensor(3, 70), Node("Gelu", "", (), (), {"approximate": "none"})
    y = te.compute((3, 70), lambda i, j: gelu(node, x[i, j].asobject()))
    return Case("gelu", [x], [y], lambda x: 0.5 * x * np.vectorize(math.erfc)(-x / math.sqrt(2)), 1)


def _scalar() -> Case:
    x, k = tensor(1000), te.reduce_axis((0, 1000), "k")
    y = te.compute((), lambda: te.sum(x[k], axis=k), name="total")
    return Case("scalar", [x], [y], lambda x: x.sum(dtype=np.float64), 1)


def _columns() -> Case:
    x = tensor(70, 300)
    return Case("columns", [x], [topi.max(x, axis=0)], lambda x: x.max(0), 1)


def _rows() -> Case:
    x = tensor(70, 300)
    return Case("rows", [x], [topi.sum(x, axis=1)], lambda x: x.sum(1, dtype=np.float64), 1)


def _argmax() -> Case:
    x = tensor(9, 50)
    return Case("argmax", [x], [topi.argmax(x, axis=1)], lambda x: x.argmax(1), 1)


def _softmax() -> Case:
    x = tensor(6, 200)
    return Case("softmax", [x], [topi.nn.softmax(x, axis=1)], softmax, 1)


def _softmax_channels() -> Case:
    x = tensor(2, 40, 7)
    return Case("softmax_channels", [x], [topi.nn.softmax(x, axis=1)], lambda x: softmax(x, 1), 3)


def _softmax_wide() -> Case:
    x = tensor(3, 2, 700)
    return Case("softmax_wide", [x], [topi.nn.softmax(x, axis=-1)], softmax, 1)


def _layer_norm() -> Case:
    x, g = tensor(6, 96), tensor(96, name="g")
    k, l = te.reduce_axis((0, 96), "k"), te.reduce_axis((0, 96), "l")  # noqa: E741
    mean = te.compute((6,), lambda i: te.sum(x[i, k] / 96.0, axis=k), name="mean")
    var = te.compute((6,), lambda i: te.sum((x[i, l] - mean[i]) * (x[i, l] - mean[i]) / 96.0, axis=l), name="var")
    y = te.compute((6, 96), lambda i, j: (x[i, j] - mean[i]) / te.sqrt(var[i] + 1e-5) * g[j], name="norm")

    def reference(x: Array, g: Array) -> Array:
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * g

    return Case("layer_norm", [x, g], [y], reference, 1)


def _conv(name: str, n: int, c: int, o: int, size: int, kernel: int, stride: int) -> Case:
    x, w, b = tensor(n, c, size, size), tensor(o, c, kernel, kernel, name="w"), tensor(o, name="b")
    conv = topi.nn.conv2d_nchw(x, w, stride, kernel // 2, 1)
    y = te.compute(conv.shape, lambda n, f, h, w: conv[n, f, h, w] + b[f])
    out = topi.nn.relu(y)

    def reference(x: Array, w: Array, b: Array) -> Array:
        return np.maximum(conv2d(x, w, stride, kernel // 2) + b[:, None, None], 0)

    return Case(name, [x, w, b], [out], reference, 1)


def _depthwise() -> Case:
    x, w = tensor(1, 12, 11, 11), tensor(12, 1, 3, 3, name="w")

    def reference(x: Array, w: Array) -> Array:
        return np.concatenate([conv2d(x[:, i : i + 1], w[i : i + 1], 1, 1) for i in range(12)], 1)

    return Case("depthwise", [x, w], [topi.nn.depthwise_conv2d_nchw(x, w, 1, 1, 1)], reference, 1)


def _matmul(name: str, m: int, k: int, n: int, transposed: bool, batch: int = 0) -> Case:
    lead = (batch,) if batch else ()
    x = tensor(*lead, m, k)
    w = tensor(*lead, *((n, k) if transposed else (k, n)), name="w")
    r = te.reduce_axis((0, k), "r")

    def product(*index: Any) -> Any:
        *b, i, j = index
        return te.sum(x[(*b, i, r)] * (w[(*b, j, r)] if transposed else w[(*b, r, j)]), axis=r)

    y = te.compute((*lead, m, n), product, name="product")

    def reference(x: Array, w: Array) -> Array:
        return x.astype(np.float64) @ (np.swapaxes(w, -1, -2) if transposed else w)

    return Case(name, [x, w], [y], reference, 1)


def _integers() -> Case:
    x, w = tensor(33, 40, dtype="uint8"), tensor(24, 40, dtype="int8", name="w")
    k = te.reduce_axis((0, 40), "k")
    acc = te.compute(
        (33, 24), lambda i, j: te.sum((x[i, k].astype("int32") - 3) * w[j, k].astype("int32"), axis=k), name="acc"
    )

    def reference(x: Array, w: Array) -> Array:
        return (x.astype(np.int32) - 3) @ w.astype(np.int32).T

    return Case("integers", [x, w], [acc], reference, 1)


def _residual() -> Case:
    x, w, r = tensor(1, 16, 8, 8), tensor(16, 16, 1, 1, name="w"), tensor(1, 16, 8, 8, name="r")
    conv = topi.nn.conv2d_nchw(x, w, 1, 0, 1)
    y = topi.nn.relu(topi.add(conv, r))
    return Case("residual", [x, w, r], [y], lambda x, w, r: np.maximum(conv2d(x, w, 1, 0) + r, 0), 1)


def _pool() -> Case:
    x = tensor(2, 3, 9, 9)
    y = topi.nn.pool2d(x, [3, 3], [2, 2], [1, 1], [1, 1, 1, 1], "max")

    def reference(x: Array) -> Array:
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
        return np.max([padded[:, :, i : i + 9 : 2, j : j + 9 : 2] for i in range(3) for j in range(3)], 0)

    return Case("pool", [x], [y], reference, 1)


def _concat() -> Case:
    x, y = tensor(2, 3, 4), tensor(2, 5, 4, name="y")
    return Case("concat", [x, y], [topi.concatenate([x, y], axis=1)], lambda x, y: np.concatenate([x, y], 1), 1)


def _gather() -> Case:
    x, i = tensor(20, 6), tensor(7, dtype="int64", name="i")
    return Case("gather", [x, i], [topi.take(x, i, axis=0)], lambda x, i: x[i], 1)


def _several() -> Case:
    x = tensor(40, 33)
    y = topi.exp(x)
    z = topi.sum(y, axis=1)
    return Case("several", [x], [y, z], lambda x: (np.exp(x), np.exp(x).sum(1)), 2)


CASES = [
    *(
        _elementwise(),
        _gelu(),
        _scalar(),
        _columns(),
        _rows(),
        _argmax(),
        _softmax(),
        _softmax_channels(),
        _softmax_wide(),
        _layer_norm(),
        _depthwise(),
        _integers(),
    ),
    *(_residual(), _pool(), _concat(), _gather(), _several()),
    _conv("conv", 1, 16, 24, 14, 3, 1),
    _conv("conv_ragged", 2, 3, 20, 15, 3, 2),
    _conv("conv_pointwise", 1, 40, 64, 12, 1, 1),
    _matmul("matmul", 70, 50, 90, transposed=False),
    _matmul("gemm", 64, 128, 64, transposed=True),
    _matmul("batched", 24, 16, 33, transposed=False, batch=3),
    _matmul("vector", 1, 300, 40, transposed=True),
]
