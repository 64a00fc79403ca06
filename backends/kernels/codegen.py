"""From TIR to machine code: the only place that calls TVM's code generators for a CPU.

A kernel is a tirx.PrimFunc over plain pointers (``T.ptr`` arguments made into buffers by ``T.decl_buffer``)
and two int32, ``begin`` and ``end``. `plain` brings it into the form that LLVM code generation takes, and
`compile_objects` turns many of them into object files whose functions are ordinary C functions: no packed
calls, no runtime, position independent, nothing undefined but memcpy and libm.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import tvm
from tvm import tirx

from onyxc.backends.kernels import lets, mathematics
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target
from onyxc.compiler.errors import BuildError

BATCH = 16  # kernels an object: few enough to spread over processes, many enough to hide LLVM's start-up


@lru_cache(maxsize=32)
def tvm_target(target: Target) -> Any:
    """The ``tvm.target.Target`` of ``target``, without a host."""
    return tvm.target.Target(target.tvm_options())


def attributes(name: str, target: Target) -> dict[str, Any]:
    """Attributes of every kernel function: its C symbol, its target, and that its arguments do not overlap."""
    return {"global_symbol": name, "tirx.noalias": True, "target": tvm_target(target)}


@lru_cache(maxsize=1)
def _passes() -> Any:
    t = tirx.transform
    return tvm.transform.Sequential(
        [
            t.FlattenBuffer(),
            t.BF16ComputeLegalize(),
            t.VectorizeLoop(),
            t.UnrollLoop(),
            t.StmtSimplify(),
            t.RemoveNoOp(),
            t.FP8ComputeLegalize(),
            t.FP8StorageLegalize(),
            t.BF16StorageLegalize(),
            t.LowerIntrin(),  # last: the simplifier would undo the polynomials' rounding tricks
        ]
    )


def plain(func: Any, target: Target) -> Any:
    """``func``, as IRBuilder made it, in code-generation form: flat buffers, vectors, lowered intrinsics."""
    mathematics.register()
    name = str(func.attrs["global_symbol"]) if func.attrs and "global_symbol" in func.attrs else "kernel"
    func = func.with_attrs(attributes(name, target))
    with lets.instructions(target.arch, target.features):
        return _passes()(tvm.IRModule({name: func}))[name]


def _generate(kernels: Sequence[Kernel], target: Target) -> Any:
    module = tvm.IRModule({k.name: k.func for k in kernels})
    try:
        return tvm.get_global_func("target.build.llvm")(module, tvm_target(target))
    except Exception as error:
        names = ", ".join(k.name for k in kernels)
        raise BuildError(f"LLVM refused the kernels {names} for {target.name}: {error}") from error


def compile_objects(kernels: Sequence[Kernel], target: Target) -> list[bytes]:
    """ELF object files that define every kernel as a C function of its name.

    ``kernels`` have distinct names and functions that went through `plain`. Same input, same bytes.
    """
    objects = []
    with tempfile.TemporaryDirectory(prefix="onyxc-") as folder:
        for start in range(0, len(kernels), BATCH):
            path = Path(folder) / f"{start}.o"
            _generate(kernels[start : start + BATCH], target).write_to_file(os.fspath(path))
            objects.append(path.read_bytes())
    return objects


def assembly(kernel: Kernel, target: Target, form: str = "asm") -> str:
    """The kernel's assembly, or with ``form="ll"`` its LLVM IR, to look at."""
    return str(_generate([kernel], target).inspect_source(form))
