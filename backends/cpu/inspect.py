"""What the machine code of a kernel's inner loops looks like: are the accumulators still in registers?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from onyxc.backends.kernels.codegen import assembly
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target

_LABEL = re.compile(r"^(\.L\w+):")
_X86 = (
    re.compile(r"^v?f?n?m(add|ul)\w*p[sd]|^vpmulld|^pmulld|^vpdp|^vdpbf16"),
    re.compile(r"%[xyz]mm.*\(%rsp|\(%rsp.*%[xyz]mm"),
    re.compile(r"^v?movn?t?[audlhq]\w*\s+%[xyz]mm\d+,.*\((?!%rsp)"),
)
_ARM = (
    re.compile(r"^(fmla|fmul|mla|mul|vmla|vmul|vfma)\b"),
    re.compile(r"^(v?ldr|v?str|ldp|stp|ldur|stur|v?ld1|v?st1|vldmia|vstmia)\b.*\b[qvd]\d.*\[sp\b"),
    re.compile(r"^(v?str|stp|stur|v?st1|vstmia)\b.*\b[qvds]\d(?!.*\[sp\b)"),
)


@dataclass(frozen=True)
class Loop:
    """An innermost loop: vector multiplications, vector moves from or to the stack, other vector stores."""

    products: int
    spills: int
    instructions: int
    stores: int

    @property
    def is_sum(self) -> bool:
        """Whether it adds products up (see `spills`)."""
        return not self.stores or 2 * self.products >= self.instructions - self.spills


def loops(kernel: Kernel, target: Target) -> list[Loop]:
    """The innermost loops of ``kernel`` that multiply."""
    found = []
    for body in _innermost(assembly(kernel, target)):
        patterns = _X86 if target.arch == "x86_64" else _ARM
        products, spilled, stores = (sum(bool(p.search(line)) for line in body) for p in patterns)
        if products:
            found.append(Loop(products, spilled, len(body), stores))
    return found


def spills(kernel: Kernel, target: Target) -> int:
    """Vector moves from or to the stack in the sums of ``kernel``; 0 is as it should be."""
    return sum(loop.spills for loop in loops(kernel, target) if loop.is_sum)


def _innermost(text: str) -> Iterator[list[str]]:
    """Instructions of each loop that holds no other loop: from a label to the jump back to it."""
    lines = [line.split("#")[0].split("//")[0].strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not (line.startswith(".") and not _LABEL.match(line))]
    labels = {match[1]: i for i, line in enumerate(lines) if (match := _LABEL.match(line))}
    spans = []
    for i, line in enumerate(lines):
        target = line.split()[-1] if line[0] in "jbct" else ""
        if labels.get(target, i) < i:
            spans.append((labels[target], i))
    for start, stop in spans:
        if not any(start <= a and b <= stop and (a, b) != (start, stop) for a, b in spans):
            yield [line for line in lines[start : stop + 1] if not _LABEL.match(line)]
