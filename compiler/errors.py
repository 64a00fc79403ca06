"""Every error that a user can cause. The command line prints the message and exits with 1."""

from __future__ import annotations


class OnyxcError(Exception):
    """Root of the errors that name what the user can change."""


class ModelError(OnyxcError):
    """The model file or graph is broken; the message names the node or tensor."""


class OptionError(OnyxcError):
    """An option or argument does not fit; the message names it and what is allowed."""


class UnsupportedError(OnyxcError):
    """A valid model needs something that onyxc lacks; the message names the node."""


class InputError(OnyxcError):
    """A run-time input has a wrong name, dtype or shape."""


class PassError(OnyxcError):
    """A pass failed or broke the graph; the message names the pass, the node and what ran before."""


class BuildError(OnyxcError):
    """Compiling or linking failed; the message names the kernel or the command."""
