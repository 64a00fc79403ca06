"""The typer application, and the entry point with its exit codes."""

from __future__ import annotations

import sys
import traceback

import click
import typer

from onyxc.compiler.errors import OnyxcError

DONE, USER, USAGE, OURS = 0, 1, 2, 3

app = typer.Typer(
    name="onyxc",
    help="Ahead-of-time compiler and compressor for ONNX models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Exit codes: 0 done, 1 the model or an option is at fault, 2 wrong usage, 3 our fault."""
    from onyxc.compiler.cli import build, demo, look, use  # noqa: F401 - they register commands
    from onyxc.compiler.worker import InternalError

    try:
        code = app(arguments, standalone_mode=False)
        return code if isinstance(code, int) else DONE
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return USAGE
    except click.Abort:
        print("aborted", file=sys.stderr)
        return USER
    except OnyxcError as error:
        print(f"onyxc: {error}", file=sys.stderr)
        return USER
    except InternalError as error:
        print(f"{error}\nonyxc: internal error, our fault; please report it with the model", file=sys.stderr)
        return OURS
    except Exception:
        traceback.print_exc()
        print("onyxc: internal error, our fault; please report it with the model", file=sys.stderr)
        return OURS
