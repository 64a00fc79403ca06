"""CUDA C -> cubin by NVRTC through ctypes: a wheel, no GPU and no toolkit."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from onyxc.compiler.errors import BuildError

PRELUDE = """\
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#define CUDART_INF __longlong_as_double(0x7ff0000000000000LL)
#define CUDART_INF_F __int_as_float(0x7f800000)
#define CUDART_NAN __longlong_as_double(0x7ff8000000000000LL)
#define CUDART_NAN_F __int_as_float(0x7fffffff)
"""
HALF = """\
#include <cuda_fp16.h>
#define WIDENED(name, function) \\
  static __device__ half name(half x) { return __float2half_rn(function(__half2float(x))); }
WIDENED(herf, erff)
WIDENED(htan, tanf)
WIDENED(hatan, atanf)
static __device__ half hpow(half x, half y) { return __float2half_rn(powf(__half2float(x), __half2float(y))); }
"""
BFLOAT = "#include <cuda_bf16.h>\n"
INSTALL = 'run: pip install "onyxc[cuda]"'
OPTIONS = ("--std=c++17", "--ptxas-options=-v")


@dataclass(frozen=True)
class Usage:
    """What one kernel takes of the processor, as ptxas tells it."""

    registers: int
    stack_bytes: int
    spill_bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class Cubin:
    """Machine code of a translation unit; ``usage`` by kernel name."""

    image: bytes
    usage: dict[str, Usage]


@lru_cache(maxsize=1)
def _root() -> Path:
    """The folder of the wheels: ``lib`` with NVRTC, ``include`` with the headers."""
    spec = importlib.util.find_spec("nvidia")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for library in sorted(Path(place).glob("cu*/lib/libnvrtc.so.*"), reverse=True):
            return library.parent.parent
    raise BuildError(f"CUDA: NVRTC is not installed (package nvidia-cuda-nvrtc); {INSTALL}")


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    lib = _root() / "lib"
    try:
        for builtins in sorted(lib.glob("libnvrtc-builtins.so.*")):
            ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
        library = ctypes.CDLL(str(next(iter(sorted(lib.glob("libnvrtc.so.*"))))))
    except OSError as error:
        raise BuildError(f"CUDA: NVRTC does not load: {error}; {INSTALL}") from error
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    return library


def available() -> bool:
    """Whether NVRTC is installed and loads."""
    try:
        _library()
    except BuildError:
        return False
    return True


def _check(code: int, what: str, log: str = "") -> None:
    if code:
        text = _library().nvrtcGetErrorString(code).decode()
        raise BuildError(f"CUDA: {what}: {text}" + (f"\n{log.strip()}" if log else ""))


def _text(program: ctypes.c_void_p, what: str) -> bytes:
    """The program's ``ProgramLog`` or ``CUBIN``."""
    nvrtc, size = _library(), ctypes.c_size_t()
    _check(getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), f"size of the {what}")
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(nvrtc, f"nvrtcGet{what}")(program, buffer), f"reading the {what}")
    return buffer.raw


def compile_source(source: str, arch: str) -> Cubin:
    """Compile kernels for ``arch`` (``sm_80``); the prelude is added.

    Raises:
        BuildError: NVRTC is missing, or the source does not compile; the message holds its log.
    """
    nvrtc, program = _library(), ctypes.c_void_p()
    whole = PRELUDE
    whole += HALF if re.search(r"\bhalf\d?\b", source) else ""
    whole += BFLOAT if "nv_bfloat16" in source else ""
    whole += source
    options = [f"--gpu-architecture={arch}", f"--include-path={_root() / 'include'}", *OPTIONS]
    array = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    created = nvrtc.nvrtcCreateProgram(ctypes.byref(program), whole.encode(), b"model.cu", 0, None, None)
    _check(created, "nvrtcCreateProgram")
    try:
        code = nvrtc.nvrtcCompileProgram(program, len(options), array)
        log = _text(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
        _check(code, f"the kernels do not compile for {arch}", log)
        return Cubin(_text(program, "CUBIN"), _usage(log))
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def cubin(source: str, arch: str) -> bytes:
    """Machine code of ``source`` for ``arch``."""
    return compile_source(source, arch).image


def _usage(log: str) -> dict[str, Usage]:
    usage = {}
    for part in re.split(r"Compiling entry function ", log)[1:]:
        name = re.match(r"'(\w+)'", part)

        def number(pattern: str, part: str = part) -> int:
            found = re.search(rf"(\d+) {pattern}", part)
            return int(found[1]) if found else 0

        if name:
            stores, loads = number("bytes spill stores"), number("bytes spill loads")
            frame, shared = number("bytes stack frame"), number("bytes smem")
            usage[name[1]] = Usage(number("registers"), frame, stores + loads, shared)
    return usage
