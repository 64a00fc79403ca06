"""Single kernels on the emulated driver, from Python: arrays in, arrays out. For tests."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onyxc.backends.cuda.emulator import build_driver
from onyxc.backends.cuda.stages import key
from onyxc.backends.kernels.generic import Piece
from onyxc.backends.program import Kernel

Array = np.ndarray[Any, Any]


class DeviceError(RuntimeError):
    """A call of the emulated driver failed."""


class Device:
    """The emulated processor with some kernels loaded."""

    def __init__(self, kernels: Sequence[Kernel]):
        with tempfile.TemporaryDirectory(prefix="onyxc-emulator-") as folder:  # stays mapped when its file is gone
            self._driver = ctypes.CDLL(str(build_driver([k.source for k in kernels], Path(folder))))

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorName(code, ctypes.byref(text))
            raise DeviceError(f"{name}: {(text.value or b'').decode()}")

    def upload(self, array: Array) -> ctypes.c_uint64:
        """Allocate memory on the device and copy ``array`` there."""
        address, data = ctypes.c_uint64(), np.ascontiguousarray(array)
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, data.nbytes)))
        if data.nbytes:
            source = ctypes.c_void_p(data.ctypes.data)
            self._call("cuMemcpyHtoD_v2", address, source, ctypes.c_size_t(data.nbytes))
        return address

    def download(self, address: ctypes.c_uint64, array: Array) -> Array:
        """Fill ``array`` from ``address`` and free that."""
        if array.nbytes:
            target = ctypes.c_void_p(array.ctypes.data)
            self._call("cuMemcpyDtoHAsync_v2", target, address, ctypes.c_size_t(array.nbytes), None)
        self._call("cuMemFree_v2", address)
        return array

    def launch(self, kernel: Kernel, arguments: Sequence[ctypes.c_uint64]) -> None:
        """Run ``kernel`` on device addresses."""
        function = ctypes.c_void_p()
        self._call("cuModuleGetFunction", ctypes.byref(function), None, kernel.name.encode())
        if kernel.shared_bytes > 48 << 10:
            self._call("cuFuncSetAttribute", function, 8, kernel.shared_bytes)
        values = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
        dims = (ctypes.c_uint(n) for n in (*kernel.grid, *kernel.block, kernel.shared_bytes))
        self._call("cuLaunchKernel", function, *dims, None, values, None)


def run(
    pieces: Sequence[Piece], inputs: Sequence[tuple[Any, Array]], outputs: Sequence[Any], device: Device | None = None
) -> list[Array]:
    """Run what `generic.build_all` made: arrays for the input tensors, arrays of the output tensors back.

    ``device`` has the kernels loaded; by default one is made for them.
    """
    device = device or Device([piece.kernel for piece in pieces])
    places = {key(tensor): device.upload(array) for tensor, array in inputs}
    for piece in pieces:
        for tensor in piece.args:
            if key(tensor) not in places:
                places[key(tensor)] = device.upload(np.full(_empty(tensor).nbytes, 255, np.uint8))
        device.launch(piece.kernel, [places[key(t)] for t in piece.args])
    return [device.download(places[key(t)], _empty(t)) for t in outputs]


def _empty(tensor: Any) -> Array:
    return np.empty(tuple(int(d) for d in tensor.shape), str(tensor.dtype))
