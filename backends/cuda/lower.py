"""From a schedule to CUDA C: the s_tir passes, one function a launch, arguments in the order of `Call.args`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.tirx import register_intrin_lowering

from onyxc.backends.program import Kernel
from onyxc.backends.target import Target
from onyxc.compiler.errors import BuildError

_HOST = {"kind": "llvm"}
_CONFIG = {
    "s_tir.HoistIfThenElse": {"support_block_scope_hoisting": True},
    "tirx.UnrollLoop": {"explicit_unroll": False},  # write #pragma unroll
}

register_intrin_lowering(
    "tirx.fma", target="cuda", f=lambda call: tirx.call_pure_extern(call.ty.dtype, "fmaf", *call.args[:3]), level=120
)
register_intrin_lowering(
    "tirx.exp2",
    target="cuda",
    f=lambda call: tirx.call_pure_extern(call.ty.dtype, "exp2f", call.args[0]) if len(call.args) == 2 else call,
    level=120,
)


def _passes() -> list[Any]:
    s, t = s_tir.transform, tirx.transform
    return [
        *(s.CanonicalizeLoop(), s.LowerCrossThreadReduction(), s.LowerInitBlock()),
        *(s.PlanAndUpdateBufferAllocationLocation(), s.ConvertBlocksToOpaque(), s.LiftThreadBinding()),
        *(s.ManifestSharedMemoryLocalStage(), s.CompactBufferAllocation(), s.LowerAutoCopy()),
        *(s.UnifyThreadBinding(), s.LowerMatchBuffer(), s.StmtSimplify(), s.InjectSoftwarePipeline()),
        *(s.LowerOpaqueBlock(), t.FlattenBuffer(), t.BF16ComputeLegalize(), t.NarrowDataType(32)),
        *(s.LoopPartition(), t.VectorizeLoop(True), s.InjectVirtualThread(), s.InjectDoubleBuffer()),
        *(t.StorageRewrite(), s.HoistIfThenElse(), t.UnrollLoop(), s.RenormalizeSplitPattern()),
        *(t.StmtSimplify(), t.RemoveNoOp(), s.RewriteUnsafeSelect()),
        *(t.VerifyMemory(), t.AnnotateEntryFunc(), s.ThreadSync("shared"), s.ThreadSync("warp")),
        *(s.LowerThreadAllreduce(), s.MergeSharedMemoryAllocations(), t.SplitHostDevice()),
    ]


def _finish() -> Any:
    t = tirx.transform
    return tvm.ir.transform.Sequential([t.LowerWarpMemory(), t.StmtSimplify(), t.LowerIntrin()])


@dataclass(frozen=True)
class Launch:
    """One device function, as the host half of a lowered function calls it."""

    function: tirx.PrimFunc
    arguments: tuple[int, ...]  # which parameter of the whole function each argument is
    extents: dict[str, int]  # blockIdx.x ... threadIdx.z, and dynamic shared bytes

    def dims(self, what: str) -> tuple[int, int, int]:
        """Three extents, of ``blockIdx`` or ``threadIdx``."""
        x, y, z = (self.extents.get(f"{what}.{axis}", 1) for axis in "xyz")
        return x, y, z


def launches(function: tirx.PrimFunc, target: Target) -> Iterator[Launch]:
    """Lower ``function`` and yield its launches in order."""
    tvm_target = tvm.target.Target(target.tvm_options()).with_host(tvm.target.Target(_HOST))
    function = function.with_attr({"target": tvm_target, "global_symbol": "group"})
    with tvm.transform.PassContext(config=_CONFIG):
        module = tvm.ir.transform.Sequential(_passes())(tvm.IRModule({"group": function}))
    host, calls = module["group"], []
    places = {buffer: i for i, buffer in enumerate(host.params)}

    def visit(node: Any) -> None:
        if isinstance(node, tirx.DeclBuffer):  # a flat view of a parameter
            places[node.buffer] = places[node.data.args[0]]
        elif getattr(node.op, "name", "") == "tirx.call_ffi_kernel":
            calls.append(node)

    tvm_ffi.structural_walk(host.body, ((tvm.ir.Call, tirx.DeclBuffer), visit))
    for call in calls:
        device = module[call.args[0].value]
        count = len(device.params)
        names, values = call.attrs.launch_params, call.args[1 + count :]
        extents = {str(name): int(value) for name, value in zip(names, values, strict=True)}
        yield Launch(device, tuple(places[a.args[0]] for a in call.args[1 : 1 + count]), extents)


def symbol(name: str) -> str:
    """The kernel's C name: ``tanh`` and its like are taken."""
    return f"k_{name}"


def source(function: tirx.PrimFunc, name: str, target: Target) -> str:
    """The CUDA C of one device function, without TVM's prelude."""
    tvm_target = tvm.target.Target(target.tvm_options())
    module = _finish()(tvm.IRModule({name: function.with_attr({"global_symbol": name, "target": tvm_target})}))
    text = str(tvm.get_global_func("target.build.cuda")(module, tvm_target).inspect_source())
    start = text.rfind('extern "C" __global__')
    if start < 0:
        raise BuildError(f"kernel {name}: TVM made no CUDA function")
    # every thread of a block comes to its reductions, so say it: what is active after a branch is up to the compiler
    return text[start:].strip().replace("__activemask()", "0xffffffffu") + "\n"


def kernel(launch: Launch, order: list[int], name: str, target: Target) -> Kernel:
    """The kernel of ``launch``; ``order``: the parameters of the whole function in the order wanted."""
    by_place = dict(zip(launch.arguments, launch.function.params, strict=True))
    old = launch.function
    function = tirx.PrimFunc([by_place[i] for i in order], old.body, old.ret_type, old.attrs)
    grid, block = launch.dims("blockIdx"), launch.dims("threadIdx")
    shared = launch.extents.get("tirx.use_dyn_shared_memory", 0)
    return Kernel(name, source=source(function, name, target), grid=grid, block=block, shared_bytes=shared)
