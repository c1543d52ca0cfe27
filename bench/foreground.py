"""What an owner's programs are in a benchmark: a fixed computation in processes of ordinary priority."""

from __future__ import annotations

import subprocess
import sys

_COMPUTE = """
import sys, time
end, rounds, value = time.perf_counter() + float(sys.argv[1]), 0, 0
while time.perf_counter() < end:
    for _ in range(20000):
        value = (value * 1103515245 + 12345) & 0x7FFFFFFF
    rounds += 1
print(rounds)
"""


def computed_per_s(processes: int, seconds: float) -> float:
    """Rounds per second of all processes together.

    They run in the interpreter behind this environment's: a path with peerllm's name in it would make them its own in
    the eyes of those who count the load of others.
    """
    interpreter = getattr(sys, "_base_executable", sys.executable)
    command = [interpreter, "-I", "-c", _COMPUTE, str(seconds)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/") for _ in range(processes)]
    return sum(int(process.communicate()[0]) for process in running) / seconds
