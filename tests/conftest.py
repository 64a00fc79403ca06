"""Says what is missing when onyxc is not installed, and what several folders of tests share."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

if find_spec("onyxc") is None:
    pytest.exit('install onyxc first: pip install -e ".[dev,cross,cuda]"', returncode=2)
