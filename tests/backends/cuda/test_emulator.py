"""The emulator itself: barriers, warps and shared memory behave as on a GPU, and errors are reported."""

from __future__ import annotations

import numpy as np
import pytest

from onyxc.backends.cuda.emulator.device import Device, DeviceError
from onyxc.backends.program import Kernel

HEAD = 'extern "C" __global__ void __launch_bounds__(64)'

REVERSE = (
    HEAD
    + """ reverse(float* __restrict__ x, float* __restrict__ y) {
  __shared__ alignas(64) float tile[64];
  tile[threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
  __syncthreads();
  y[blockIdx.x * 64 + threadIdx.x] = tile[63 - threadIdx.x];
}"""
)
UNSET = (
    HEAD
    + """ unset(float* __restrict__ y) {
  __shared__ float tile[64];
  if (threadIdx.x > 8) tile[threadIdx.x] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x];
}"""
)
TOTAL = (
    HEAD
    + """ total(float* __restrict__ x, float* __restrict__ y) {
  float v = x[threadIdx.x];
  for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
  y[threadIdx.x] = v;
}"""
)
DIVERGENT = (
    HEAD
    + """ divergent(float* __restrict__ y) {
  if (threadIdx.x < 9)
    __syncthreads();
  else {
    y[threadIdx.x] = 1.0f;
    __syncthreads();
  }
}"""
)
OUTSIDE = HEAD + " outside(float* __restrict__ y) { y[threadIdx.x * 4096] = 1.0f; }"
DYNAMIC = (
    HEAD
    + """ dynamic(float* __restrict__ y) {
  extern __shared__ unsigned char memory[];
  ((float *)memory)[threadIdx.x] = threadIdx.x;
  __syncthreads();
  y[threadIdx.x] = ((float *)memory)[threadIdx.x ^ 1];
}"""
)


def launch(name: str, source: str, *arrays: np.ndarray, blocks: int = 1, shared: int = 0) -> np.ndarray:  # type: ignore[type-arg]
    kernel = Kernel(name, source=source, grid=(blocks, 1, 1), block=(64, 1, 1), shared_bytes=shared)
    device = Device([kernel])
    places = [device.upload(a) for a in arrays]
    device.launch(kernel, places)
    return device.download(places[-1], np.empty_like(arrays[-1]))


def test_shared_memory() -> None:
    x = np.arange(128, dtype=np.float32)
    y = launch("reverse", REVERSE, x, np.zeros_like(x), blocks=2)
    np.testing.assert_array_equal(y, x.reshape(2, 64)[:, ::-1].ravel())


def test_unset_shared_memory_is_nan() -> None:
    y = launch("unset", UNSET, np.zeros(64, np.float32))
    assert np.isnan(y[:9]).all()
    assert (y[9:] == 1).all()


def test_shuffles() -> None:
    x = np.arange(64, dtype=np.float32)
    y = launch("total", TOTAL, x, np.zeros_like(x))
    np.testing.assert_array_equal(y, x.reshape(2, 32).sum(1).repeat(32))


def test_dynamic_shared_memory() -> None:
    y = launch("dynamic", DYNAMIC, np.zeros(64, np.float32), shared=256)
    np.testing.assert_array_equal(y, np.arange(64) ^ 1)


def test_divergent_barrier() -> None:
    with pytest.raises(DeviceError, match="LAUNCH_FAILED"):
        launch("divergent", DIVERGENT, np.zeros(64, np.float32))


def test_illegal_address() -> None:
    with pytest.raises(DeviceError, match="ILLEGAL_ADDRESS"):
        launch("outside", OUTSIDE, np.zeros(64, np.float32))


def test_launch_limits() -> None:
    with pytest.raises(DeviceError, match="INVALID_VALUE"):
        launch("reverse", REVERSE, np.zeros(64, np.float32), np.zeros(64, np.float32), blocks=0)
