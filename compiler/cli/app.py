"""The typer application, and the entry point with its exit codes."""

from __future__ import annotations

import sys
import traceback

import typer

from onyxc.compiler.errors import OnyxcError

DONE, USER, USAGE, OURS = 0, 1, 2, 3
PLEASE_REPORT = "onyxc: internal error, our fault; please report it with the model"

app = typer.Typer(
    name="onyxc",
    help="Ahead-of-time compiler and compressor for ONNX models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Exit codes: 0 done, 1 the model or an option is at fault, 2 wrong usage, 3 our fault."""
    from onyxc.compiler.cli import build, demo, inspect, look, profile, use  # noqa: F401 - they register commands
    from onyxc.compiler.worker import InternalError

    try:
        app(arguments, prog_name="onyxc")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else DONE
    except OnyxcError as error:
        return _stop(USER, f"onyxc: {error}")
    except MemoryError as error:
        return _stop(USER, f"onyxc: the model needs more memory than there is ({error or 'out of memory'})")
    except OSError as error:
        return _stop(USER, f"onyxc: {error}")
    except InternalError as error:
        return _stop(OURS, f"{error}\n{PLEASE_REPORT}")
    except Exception:
        return _stop(OURS, f"{traceback.format_exc()}\n{PLEASE_REPORT}")
    return DONE


def _stop(code: int, message: str) -> int:
    print(message, file=sys.stderr)
    return code
