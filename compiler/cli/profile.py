"""`onyxc profile`: where the time goes, step by step, and how far each step is from what the machine can do."""

from __future__ import annotations

from typing import Annotated

import typer

from onyxc.compiler.cli import options, report, steps
from onyxc.compiler.cli.use import Inputs, inputs_of


def profile(
    folder: options.Folder,
    input: Inputs = [],  # noqa: B006
    threads: options.Threads = 1,
    runs: Annotated[int, typer.Option(min=0, help="Pairs of a plain and a timed run; 0: for two seconds.")] = 0,
    runner: options.Runner = "",
    svg: Annotated[str, typer.Option("--svg", metavar="FILE", help="Draw the roofline into an SVG file.")] = "",
    json: options.JsonFile = "",
) -> None:
    """Time every step of a run, beside the roofline of this machine.

    A step is one kernel call: a fused group of the model's nodes, or a copy. Times are medians of warm runs; what the
    clock itself takes is subtracted, and normal runs have no clock at all.

    FLOPs are those of the model's operators: a multiply-add is two, and a convolution counts as the direct one, padding
    included. So kernels that need fewer (Winograd; Strassen in matrix products) can be above 100 % of the roofline.

    The roofline is min(peak, intensity x bandwidth), measured on the machine that runs the model: the peak in
    registers, with the vectors of the artifact; the bandwidth of reading from so large a block as the step's operands
    are, for weights so large a block as all weights are.
    """
    from onyxc.backends.runtime.profile import profile as measure

    found = measure(folder, inputs_of(folder, input), threads=threads, runs=runs, runner=runner)
    if svg:
        from onyxc.compiler.roofline import to_svg

        report.write_file(svg, to_svg(found))
    if json:
        report.write_json(found.as_dict(), json)
    if json != "-":
        steps.show_profile(found)
