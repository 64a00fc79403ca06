"""How a length is cut into vectors."""

from __future__ import annotations

from onyxc.backends.kernels.schedule import BLOCK


def pieces(length: int, lanes: int) -> list[tuple[int, int, int]]:
    """``length`` in (start, width, repeat): whole blocks of ``lanes``, then powers of two below."""
    made, start = [], 0
    width = lanes
    while width and start < length:
        repeat = (length - start) // width
        if repeat:
            made.append((start, width, repeat))
            start += repeat * width
        width //= 2
    return made


def blocks(length: int, lanes: int, most: int, whole: bool) -> list[tuple[int, int, int]]:
    """``length`` in (start, width, repeat): blocks of ``most`` vectors, of one vector, and what is left.

    ``whole``: a length of a few vectors, odd or not, is one block.
    """
    if lanes == 1:
        return [(0, 1, length)]
    if whole and lanes * most < length <= lanes * BLOCK:
        return [(0, length, 1)]
    made, start = [], 0
    for width in dict.fromkeys((lanes * most, lanes)):
        repeat = (length - start) // width
        if repeat:
            made.append((start, width, repeat))
            start += repeat * width
    return [*made, (start, length - start, 1)] if start < length else made
