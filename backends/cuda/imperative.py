"""Imperative operators (TopK, NonZero, recurrent networks, ...): one thread a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from onyxc.backends.cuda import lower
from onyxc.backends.kernels.codegen import attributes
from onyxc.backends.kernels.floats import memory_dtype
from onyxc.backends.kernels.imperative import Emitter, Imperative, Spec
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target
from onyxc.compiler.errors import BuildError, OnyxcError

THREADS = 64


def build(name: str, input_specs: Sequence[Spec], imp: Imperative, target: Target) -> Kernel:
    """The kernel with arguments (inputs..., outputs..., scratch...); the counterpart of `build_imperative`."""
    name = lower.symbol(name)
    threads = min(THREADS, max(1, imp.tasks))
    blocks = -(-imp.tasks // threads)
    try:
        source = lower.source(_lowered(_function(name, input_specs, imp, target, blocks, threads)), name, target)
    except OnyxcError:
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        raise BuildError(f"CUDA kernel {name}: {error}") from error
    return Kernel(name, source=source, grid=(max(1, blocks), 1, 1), block=(threads, 1, 1), work=imp.work)


def _function(name: str, input_specs: Sequence[Spec], imp: Imperative, target: Target, blocks: int, threads: int) -> Any:
    with IRBuilder() as builder, T.prim_func():
        T.func_name(name)
        T.func_attr({**attributes(name, target), "calling_conv": 2, "tirx.is_global_func": True})
        specs = [*input_specs, *imp.outputs, *imp.scratch]
        pointers = [T.arg(f"p{i}", T.ptr(memory_dtype(dtype), "global")) for i, (_, dtype) in enumerate(specs)]
        emitter = Emitter(target)
        arrays = [emitter.array(p, *spec) for p, spec in zip(pointers, specs, strict=True)]
        reads, writes = len(input_specs), len(input_specs) + len(imp.outputs)
        emitter.scratch = arrays[writes:]
        with T.launch_thread("blockIdx.x", max(1, blocks)) as block, T.launch_thread("threadIdx.x", threads) as thread:
            task = T.bind(block * threads + thread)
            with T.If(task < imp.tasks), T.Then():
                T.evaluate(tirx.const(0, "int32"))  # a task may write nothing
                imp.emit(task, arrays[:reads], arrays[reads:writes], emitter)
    return builder.get()


def _lowered(function: Any) -> Any:
    t = tirx.transform
    passes = [
        *(t.FlattenBuffer(), t.BF16ComputeLegalize(), t.VectorizeLoop(), t.RemoveNoOp()),
        *(t.FP8ComputeLegalize(), t.FP8StorageLegalize(), t.BF16StorageLegalize()),
    ]
    return tvm.transform.Sequential(passes)(tvm.IRModule({"main": function}))["main"]
