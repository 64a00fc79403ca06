"""The exit codes of every command."""

from __future__ import annotations

DONE = 0
USER = 1  # the model or an option is at fault, or results differ
USAGE = 2  # the command line cannot be read
OURS = 3  # a fault of onyxc
