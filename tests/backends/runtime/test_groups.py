"""Lists and missing values at the border of a compiled model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onyxc.backends.interface import Group
from onyxc.backends.runtime.groups import arrays, flattened, gathered, grouped
from onyxc.compiler.errors import InputError

A, B, C = (np.full(2, n) for n in range(3))
GROUPS = [Group("x", "sequence", 2), Group("o", "nothing", 0)]


@pytest.mark.parametrize("feeds", [{"x": [A, B], "y": C, "o": None}, {"x": (A, B), "y": C}, {"x.0": A, "x.1": B, "y": C}])
def test_feeds_by_tensor(feeds: dict[str, Any]) -> None:
    flat = flattened(GROUPS, feeds)
    assert flat == {"x.0": A, "x.1": B, "y": C}
    assert gathered(GROUPS, flat) == {"x": [A, B], "y": C, "o": None}


@pytest.mark.parametrize(
    ("value", "message"), [([A], "sequence of 2, not of 1"), (None, "sequence of 2, not of 0"), (A, "give a list of 2")]
)
def test_a_sequence_of_another_kind(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        flattened(GROUPS, {"x": value})


def test_outputs_as_the_model_gives_them() -> None:
    groups = [Group("y", "tensor"), *GROUPS, Group("z", "sequence", 0)]
    found = grouped(groups, [C, A, B])
    assert found[1:] == [[A, B], None, []]
    assert found[0] is C
    assert arrays(found) == [C, A, B]
