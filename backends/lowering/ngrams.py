"""TfIdfVectorizer over numbers: how often the n-grams of a pool occur in each row.

Each n-gram is a row of comparisons with constants, so that the pool needs no memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from tvm.tirx.script import builder as T

from onyxc.backends.kernels.imperative import Imperative
from onyxc.backends.lowering.code import Code, kernel
from onyxc.backends.lowering.registry import const, imperative, static
from onyxc.backends.lowering.words import every, fill, fix, when
from onyxc.compiler.errors import UnsupportedError
from onyxc.compiler.ir.graph import Node

LARGEST = 4096  # numbers in a pool

Gram = tuple[tuple[int, ...], int, float]  # its numbers, its place in a row of the output, its weight


@imperative("TfIdfVectorizer")
def tf_idf_vectorizer(node: Node) -> Imperative:
    """A task is a row: at every position and every distance, compare with all n-grams of one length."""
    grams, mode = _grams(node), node.attrs["mode"]
    *batch, length = static(node, 0).dims
    rows, places, kind = prod(batch), node.output.dims[-1], static(node, 0).dtype
    farthest = node.integer("max_skip_count") + 1
    shortest, longest = node.integer("min_gram_length"), node.integer("max_gram_length")

    def emit(code: Code) -> None:
        x, y = code.ins[0], code.outs[0]
        start, first = code.task * length, code.task * places
        fill(y, first, places, 0.0)

        def compare(distance: int, size: int) -> None:
            with T.serial(0, length - (size - 1) * distance) as position:
                found = [fix(x[start + position + k * distance]) for k in range(size)]
                for numbers, place, weight in grams.get(size, ()):
                    with when(every(*(a == const(b, kind) for a, b in zip(found, numbers, strict=True)))):
                        if mode == "IDF":
                            y[first + place] = const(weight, "float32")
                        else:
                            y[first + place] += const(weight if mode == "TFIDF" else 1.0, "float32")

        for size in range(shortest, longest + 1):
            for distance in range(1, farthest + 1 if size > 1 else 2):
                if grams.get(size) and length >= (size - 1) * distance + 1:
                    compare(distance, size)

    work = rows * length * farthest * sum(map(len, grams.values()))
    return kernel(node, None, emit, tasks=rows, work=work)


def _grams(node: Node) -> dict[int, list[Gram]]:
    """The n-grams by length."""
    pool, places = node.integers("pool_int64s"), node.integers("ngram_indexes")
    if not pool or len(pool) > LARGEST:
        raise UnsupportedError(f"{node.label()}: the pool must be of 1 to {LARGEST} numbers, and not of strings")
    given = node.attrs.get("weights")
    weights = iter(given if isinstance(given, tuple) and given else (1.0,) * len(places))
    found: dict[int, list[Gram]] = {}
    order = iter(places)
    for numbers in _split(pool, node.integers("ngram_counts")):
        found.setdefault(len(numbers), []).append((numbers, next(order), float(next(weights))))
    return found


def _split(pool: tuple[int, ...], starts: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The n-grams of the pool, which lists all of length 1, then all of length 2 ..."""
    for size, (start, end) in enumerate(zip(starts, (*starts[1:], len(pool)), strict=True), 1):
        for at in range(start, end, size):
            yield pool[at : at + size]
