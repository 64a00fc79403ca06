"""An order that changes while it is walked, against a plain list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onyxc.compiler.ir.order import Order


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 99)), max_size=40))
def test_like_a_list(steps: list[tuple[bool, int]]) -> None:
    order, expected = Order[int](), list[int]()
    for number, (adds, place) in enumerate(steps):
        at = place % (len(expected) + 1)
        if adds:
            order.insert(number, expected[at] if at < len(expected) else None)
            expected.insert(at, number)
        elif at < len(expected):
            order.remove(expected.pop(at))
        assert list(order) == expected
        assert list(reversed(order)) == expected[::-1]
        assert len(order) == len(expected)
    for number in range(len(steps)):
        assert (number in order) == (number in expected)
    ends = [None, *expected, None]
    for before, item, after in zip(ends, expected, ends[2:], strict=False):
        assert (order.before(item), order.after(item)) == (before, after)
    assert (order.after(None), order.before(None)) == (ends[1], ends[-2])


def test_changes_while_walked() -> None:
    order, seen = Order[str](), list[str]()
    for item in "abc":
        order.insert(item)
    for item in order:
        seen.append(item)
        if item == "a":
            order.remove("a")
            order.insert("x", "b")
        if item == "c":
            order.insert("y")
    assert seen == ["a", "b", "c", "y"]
    assert list(order) == ["x", "b", "c", "y"]
