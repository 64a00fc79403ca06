"""What schedules teach TVM is not taken back when the process ends."""

from __future__ import annotations

import subprocess
import sys


def test_a_process_that_used_schedules_ends_well() -> None:
    subprocess.run([sys.executable, "-c", "import onyxc.backends.cuda.schedule"], check=True)
