"""How long `import gsr_core` and `gsr --help` take: wall-clock and processor time, median of 10.

Run it with `python benchmarks/startup.py`. Both should stay under 0.5 s.
"""

import os
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "an empty program": ["-c", ""],
    "import gsr_core": ["-c", "import gsr_core"],
    "gsr --help": ["-m", "gsr_core.cli", "--help"],
}
REPEATS = 10


def measure(arguments: list[str]) -> tuple[float, float]:
    """Return wall-clock and processor seconds of one start."""
    before, begun = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - begun, os.times()
    return wall, sum(after[2:4]) - sum(before[2:4])


if __name__ == "__main__":
    for name, arguments in COMMANDS.items():
        measure(arguments)  # Fills the file system's cache.
        times = [measure(arguments) for _ in range(REPEATS)]
        wall, processor = (statistics.median(each) for each in zip(*times, strict=True))
        print(f"{name:18} {wall:6.3f} s wall clock, {processor:6.3f} s of processor time")
