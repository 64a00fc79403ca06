"""The typer application, and the entry point with its exit codes."""

from __future__ import annotations

import sys
import traceback

import typer

from onyxc.compiler.cli import build, demo, inspect, look, profile, use
from onyxc.compiler.cli.exits import DONE, OURS, USER
from onyxc.compiler.errors import OnyxcError
from onyxc.compiler.worker import InternalError

PLEASE_REPORT = "onyxc: internal error, our fault; please report it with the model"

app = typer.Typer(
    name="onyxc",
    help="Ahead-of-time compiler and compressor for ONNX models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("compile")(build.compile_)
for command in (
    build.optimize, demo.demo, inspect.inspect, look.show, look.passes, look.targets, use.run, use.verify, use.bench,
    profile.profile,
):  # fmt: skip
    app.command()(command)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Exit codes: 0 done, 1 the model or an option is at fault, 2 wrong usage, 3 our fault."""
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
