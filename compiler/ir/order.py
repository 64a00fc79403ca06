"""The order of a graph's nodes: a doubly linked list that may change while it is walked."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Order(Generic[T]):
    """Items in a circle through None, which comes before the first and behind the last one."""

    def __init__(self) -> None:
        self._next: dict[T | None, T | None] = {None: None}
        self._previous: dict[T | None, T | None] = {None: None}

    def __iter__(self) -> Iterator[T]:
        """From the first item on; items may come and go meanwhile (one that goes must be the current)."""
        return self._walk(self._next)

    def __reversed__(self) -> Iterator[T]:
        return self._walk(self._previous)

    def _walk(self, links: dict[T | None, T | None]) -> Iterator[T]:
        item = links[None]
        while item is not None:
            following = links[item]
            yield item
            item = links.get(item, following)

    def __len__(self) -> int:
        return len(self._next) - 1

    def __contains__(self, item: T) -> bool:
        return item in self._next

    def after(self, item: T | None) -> T | None:
        """The item behind ``item`` (None: the first), None behind the last."""
        return self._next[item]

    def before(self, item: T | None) -> T | None:
        """The item in front of ``item`` (None: the last), None in front of the first."""
        return self._previous[item]

    def insert(self, item: T, before: T | None = None) -> None:
        """Put ``item`` in front of ``before`` (None: at the end)."""
        previous = self._previous[before]
        self._next[previous] = self._previous[before] = item
        self._previous[item], self._next[item] = previous, before

    def remove(self, item: T) -> None:
        """Take ``item`` out."""
        previous, following = self._previous.pop(item), self._next.pop(item)
        self._next[previous], self._previous[following] = following, previous
