"""CUDA without a GPU: the very source of the kernels compiled for the CPU, behind a libcuda.so.1 of ours.

    build_driver([host.source(program)], folder)      -> folder/libcuda.so.1
    ONYXC_LIBCUDA=folder/libcuda.so.1                 the artifact's host program loads it in place of the driver

`device.Device` calls it from Python, to run single kernels in tests.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from onyxc.compiler.errors import BuildError

ENVIRONMENT = "ONYXC_LIBCUDA"  # the variable that the host program honours
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-w", "-ffp-contract=off", "-fno-strict-aliasing")

_FOLDER = Path(__file__).parent
_KERNEL = re.compile(r'(?:extern "C" )?__global__ void (?:__launch_bounds__\([\d, ]+\) )?(\w+)\(')
_BARRIER = re.compile(r"__(syncthreads|syncwarp|shfl\w*|activemask|ballot\w*|any_sync|all_sync)\b")


def _translated(index: int, source: str) -> tuple[str, list[str]]:
    """One source as C++, and its entries of the kernel table; its shared variables have a section of their own."""
    section = f"onyxc_shared_{index}"
    names = list(dict.fromkeys(_KERNEL.findall(source)))
    barriers = "true" if _BARRIER.search(source) else "false"
    text = re.sub(r"extern __shared__ (?:alignas\(\d+\) )?([\w ]+?) (\w+)\[\];", r"\1 *\2 = (\1 *)dynamic_shared;", source)
    text = re.sub(r"__shared__ alignas\(\d+\)", "__shared__", text.replace('extern "C" __global__', "static"))
    head = [
        f'extern unsigned char __start_{section}[] __attribute__((weak, visibility("hidden")));',
        f'extern unsigned char __stop_{section}[] __attribute__((weak, visibility("hidden")));',
        "#undef __shared__",
        f'#define __shared__ static __attribute__((section("{section}"), aligned(64)))',
    ]
    entries = [f'emulated<{name}>("{name}", {barriers}, __start_{section}, __stop_{section}, {name}),' for name in names]
    return "\n".join([*head, text]), entries


def driver_source(sources: Sequence[str]) -> str:
    """C++ source of a libcuda.so.1 with the kernels of ``sources``."""
    kernels = [part for source in sources for part in re.split(r'^(?=extern "C" __global__)', source, flags=re.M)]
    parts = [_translated(i, source) for i, source in enumerate(kernels) if source.strip()]
    table = [entry for _, entries in parts for entry in entries]
    return "\n".join(
        [
            '#include "cuda.h"',
            *(text for text, _ in parts),
            "static const Emulated kernels[] = {",
            *table,
            "{}};",
            f"static const size_t kernel_count = {len(table)};",
            '#include "driver.h"',
            "",
        ]
    )


def build_driver(sources: Sequence[str], out: Path) -> Path:
    """Compile the driver into the file ``out``, or as ``libcuda.so.1`` into the folder ``out``.

    Never rebuild under a path that this process has loaded: dlopen would return the old library.

    Raises:
        BuildError: there is no C++ compiler, or it refuses the kernels.
    """
    compiler = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    if compiler is None:
        raise BuildError("the CUDA emulator needs a C++ compiler: install g++")
    out = out / "libcuda.so.1" if out.is_dir() else out
    command = [compiler, *FLAGS, f"-I{_FOLDER}", "-x", "c++", "-", "-o", str(out)]
    done = subprocess.run(command, input=driver_source(sources), capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"the CUDA emulator does not compile:\n{done.stderr[-4000:]}")
    return out
