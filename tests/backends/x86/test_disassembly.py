"""Machine code as far as it is read: against bytes from Intel's manual, and against what LLVM prints."""

from __future__ import annotations

import re

import pytest

from onyxc.backends.artifact import elf
from onyxc.backends.cpu import convolution, depthwise, gemm
from onyxc.backends.cpu.convolution import ConvShape
from onyxc.backends.cpu.epilogue import Epilogue
from onyxc.backends.cpu.gemm import GemmShape
from onyxc.backends.cpu.shapes import dense_strides
from onyxc.backends.kernels.codegen import assembly, compile_objects
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target, get
from onyxc.backends.x86.disassembly import Instruction, UnknownCodeError, instructions

CASES = {
    "c3": (1, "", "ret"),
    "55": (1, "", "push rbp"),
    "48 89 e5": (3, "", "mov rbp, rsp"),
    "48 b8 01 02 03 04 05 06 07 08": (10, "", "movabs rax"),
    "b8 01 02 03 04": (5, "", "mov eax, imm32"),
    "66 b8 01 02": (4, "", "mov ax, imm16"),
    "f7 c1 01 02 03 04": (6, "", "test ecx, imm32"),
    "f7 d9": (2, "", "neg ecx"),
    "48 69 c1 01 02 03 04": (7, "", "imul rax, rcx, imm32"),
    "48 6b c1 05": (4, "", "imul rax, rcx, imm8"),
    "4c 8d 84 81 00 10 00 00": (8, "", "lea r8, [rcx + 4 rax + 4096]"),
    "48 8b 05 00 10 00 00": (7, "", "mov rax, [rip + 4096]"),
    "8b 04 25 00 10 00 00": (7, "", "mov eax, [4096]"),
    "48 8b 44 24 08": (5, "", "mov rax, [rsp + 8], no vector"),
    "66 66 2e 0f 1f 84 00 00 00 00 00": (11, "", "nop"),
    "0f b6 44 24 04": (5, "", "movzx eax, byte [rsp + 4], no vector"),
    "0f 28 44 24 10": (5, "stack", "movaps xmm0, [rsp + 16]"),
    "0f 29 44 24 10": (5, "stack", "movaps [rsp + 16], xmm0"),
    "0f 29 47 10": (4, "stores", "movaps [rdi + 16], xmm0"),
    "0f 59 c1": (3, "product", "mulps xmm0, xmm1"),
    "41 0f 59 04 24": (5, "product", "mulps xmm0, [r12], not the stack"),
    "f2 0f 70 c0 1b": (5, "", "pshuflw xmm0, xmm0, 27"),
    "66 0f 38 40 c1": (5, "product", "pmulld xmm0, xmm1"),
    "c5 f8 77": (3, "", "vzeroupper"),
    "c5 fc 28 84 24 80 00 00 00": (9, "stack", "vmovaps ymm0, [rsp + 128]"),
    "c5 fc 11 04 87": (5, "stores", "vmovups [rdi + 4 rax], ymm0"),
    "c4 e2 75 b8 c2": (5, "product", "vfmadd231ps ymm0, ymm1, ymm2"),
    "c4 e2 75 b8 04 24": (6, "product stack", "vfmadd231ps ymm0, ymm1, [rsp]"),
    "c4 c2 75 b8 04 24": (6, "product", "vfmadd231ps ymm0, ymm1, [r12]"),
    "c4 e3 7d 19 c1 01": (6, "", "vextractf128 xmm1, ymm0, 1"),
    "c4 e2 f3 f7 c0": (5, "", "shrx rax, rax, rcx"),
    "62 f1 7c 48 28 44 24 01": (8, "stack", "vmovaps zmm0, [rsp + 64]"),
    "62 f2 75 58 b8 07": (6, "product", "vfmadd231ps zmm0, zmm1, [rdi] {1to16}"),
    "62 f2 75 48 50 c2": (6, "product", "vpdpbusd zmm0, zmm1, zmm2"),
    "62 f2 76 48 52 c2": (6, "product", "vdpbf16ps zmm0, zmm1, zmm2"),
    "62 f3 7d 48 1b c1 01": (7, "", "vextractf32x8 ymm1, zmm0, 1"),
}


@pytest.mark.parametrize("code", CASES)
def test_single_instructions(code: str) -> None:
    size, wanted, text = CASES[code]
    data = bytes.fromhex(code)
    assert len(data) == size, text
    first, second = instructions(data + b"\x90")
    assert (first.at, second.at, first.target) == (0, size, -1), text
    assert [f for f in ("product", "stack", "stores") if getattr(first, f)] == wanted.split(), text


def test_jumps() -> None:
    code = bytes.fromhex("90 75 fd 0f 8c f7 ff ff ff eb 00 e9 00 00 00 00 e8 00 00 00 00 c3")
    assert [(i.at, i.target) for i in instructions(code)] == [
        (0, -1), (1, 0), (3, 0), (9, 11), (11, 16), (16, -1), (21, -1),
    ]  # fmt: skip


@pytest.mark.parametrize("code", ["48", "0f", "e9 00 00", "62 f1 7c 48 28 44 24", "c5", "48 b8 01"])
def test_cut_off(code: str) -> None:
    with pytest.raises(UnknownCodeError):
        list(instructions(bytes.fromhex(code)))


def kernels(target: Target) -> list[Kernel]:
    """Kernels of many instructions: edges, tails, strides, divisions, masks."""
    size, channels, out = 13, 6, 37
    shape = ConvShape(
        1, channels, out, 1, (size, size), (7, 7), (3, 3), (2, 2), (1, 1), (1, 1, 1, 1),
        dense_strides(size, size, channels), dense_strides(7, 7, out)[:3],
    )  # fmt: skip
    thin = ConvShape(
        2, 21, 21, 21, (size, size), (size, size), (5, 5), (1, 1), (1, 1), (2, 2, 2, 2),
        dense_strides(size, size, 21), dense_strides(size, size, 21)[:3],
    )  # fmt: skip
    product = GemmShape((4, 2), 13, 37, 19, (2000, 500, 19, 1), (2000, 1000, 37, 1), (1000, 500, 37))
    return [
        convolution.emit("direct", convolution.plan(shape, target), Epilogue(), target),
        depthwise.emit("thin", depthwise.plan(thin, target), Epilogue(), target),
        gemm.emit("product", gemm.plan(product, target), Epilogue(), target),
    ]


VECTOR = r"%[xyz]mm"
STACK = re.compile(rf"{VECTOR}.*\(%rsp|\(%rsp.*{VECTOR}")
PRODUCT = re.compile(r"^v?f?n?m(add|ul)\w*[ps][sd]\b")


@pytest.mark.parametrize("level", ["x86-64-v2", "x86-64-v3", "x86-64-v4+bf16"])
def test_against_llvm(level: str) -> None:
    target = get(level)
    for kernel in kernels(target):
        text = assembly(kernel, target).partition(f"\n{kernel.name}:")[2].partition(".Lfunc_end")[0]
        lines = [line.split("#")[0].strip() for line in text.splitlines()]
        wanted = [x for x in lines if x and not x.startswith(".") and not x.endswith(":")]
        code = elf.functions(compile_objects([kernel], target)[0])[kernel.name]
        found = [i for i in instructions(code) if not is_padding(i, code)]
        assert len(found) == len(wanted) > 100
        assert sum(bool(STACK.search(x)) for x in wanted) == sum(i.stack for i in found)
        assert sum(bool(PRODUCT.search(x)) for x in wanted) == sum(i.product for i in found) > 0
        assert sum(x.startswith("j") for x in wanted) == sum(i.target >= 0 for i in found)


def is_padding(instruction: Instruction, code: bytes) -> bool:
    """Whether it is a nop in front of an aligned loop, which the text does not list."""
    rest = code[instruction.at :].lstrip(b"\x66\x2e")
    return rest[:2] == b"\x0f\x1f" or rest[:1] == b"\x90"
