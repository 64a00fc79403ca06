"""Names of ONNX as C identifiers, strings and comments."""

from __future__ import annotations

import re
from collections.abc import Iterable

# prefix_create and others would be functions of libc
_TAKEN = {"pthread", "thrd", "mtx", "cnd", "tss", "timer", "epoll", "sem", "shm", "io", "wcs", "mem", "str", "onyxc"}


def identifier(name: str) -> str:
    """``name`` as a C identifier of at most 48 characters that is safe as a prefix of public functions."""
    made = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")[:48]
    if not made or made[0].isdigit() or made in _TAKEN:
        made = f"model_{made}".rstrip("_")
    return made


def identifiers(names: Iterable[str]) -> list[str]:
    """Upper-case identifiers for ``names``, made distinct by a number where needed."""
    made: list[str] = []
    for name in names:
        base = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").upper()[:48] or "TENSOR"
        fresh, number = base, 2
        while fresh in made:
            fresh, number = f"{base}_{number}", number + 1
        made.append(fresh)
    return made


def string(text: str) -> str:
    """``text`` as a C string literal in ASCII."""
    plain = (chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in text.encode())
    return f'"{"".join(plain)}"'


def comment(text: str) -> str:
    """``text`` fit for the inside of a C comment."""
    return re.sub(r"[\r\n]+", " ", text).replace("*/", "* /").replace("/*", "/ *")
