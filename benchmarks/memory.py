"""Peak memory of a contestant, measured in a process of its own.

The process first runs the contestant on a workload of one parameter or one pixel, so that
libraries, code and thread stacks are in place; then it prepares the workload (data, model,
compilation), notes the resident set, resets the kernel's high-water mark and runs steps. The growth
is the high-water mark minus the note. Then it goes on stepping, to see whether memory stays flat.

Run by `measure` as `python -m benchmarks.memory CONTESTANT WORKLOAD ...`, which prints one JSON
line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from benchmarks.contestants import CONTESTANTS
from benchmarks.networks import Conv, Linear, Mean, Network
from benchmarks.workloads import ONE_PARAMETER, WORKLOADS, ImageWorkload, make_problem

# A form over patches of images takes nothing without a convolution.
ONE_PIXEL = ImageWorkload(
    name="one-pixel",
    title="one pixel",
    architecture=Network((1, 1, 1), (Conv(1, size=1), Mean(), Linear(1))),
    loss="cross_entropy",
    tasks=1,
    support_rows=1,
    query_rows=1,
    inner_steps=1,
    inner_lr=0.01,
)
# Enough for allocators to reach their working size.
STEPS = 3


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in bytes.

    Attributes:
        growth: Peak over the first steps above the prepared process.
        later_growth: Peak over the `calls` that follow, above the peak of the first steps; 0 is
            flat.
        calls: Steps of the flatness check.
    """

    growth: int
    later_growth: int
    calls: int


def measure(
    contestant: str, workload: str, *, threads: int, calls: int = 1000, seconds: float = 1.0
) -> Memory | None:
    """Memory of a contestant; None where there is no /proc or the contestant cannot take part.

    Args:
        contestant: Its name.
        workload: The workload's name.
        threads: Threads of the run.
        calls: Steps of the flatness check, at most.
        seconds: Time of the flatness check, at most.
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, "-m", "benchmarks.memory", contestant, workload]
    command += ["--threads", str(threads), "--calls", str(calls), "--seconds", str(seconds)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        return None
    return Memory(**json.loads(done.stdout.splitlines()[-1]))


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"memory: /proc/self/status must have {field}, got none")


def resident_bytes() -> int:
    """The resident set of this process now."""
    return _status("VmRSS")


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def observe(contestant: str, workload: str, *, calls: int, seconds: float) -> Memory:
    """Measure this very process; meant for a fresh one."""
    warm = CONTESTANTS[contestant]()
    convolutional = WORKLOADS[workload].network.is_convolutional
    small = ONE_PIXEL if convolutional else ONE_PARAMETER
    # Two inner steps, since a form that scans over them takes no fewer.
    warm.prepare(make_problem(replace(small, inner_steps=2), "float32"))
    warm.step()
    rival = CONTESTANTS[contestant]()
    rival.prepare(make_problem(WORKLOADS[workload], "float32"))
    before = resident_bytes()
    _reset_peak()
    for _ in range(STEPS):
        rival.step()
    first_peak = _status("VmHWM")
    _reset_peak()
    end = time.perf_counter() + seconds
    done = 0
    while done < calls and time.perf_counter() < end:
        rival.step()
        done += 1
    return Memory(max(0, first_peak - before), max(0, _status("VmHWM") - first_peak), done)


def main() -> None:
    """Entry point of the measuring process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=1.0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    memory = observe(args.contestant, args.workload, calls=args.calls, seconds=args.seconds)
    print(json.dumps(asdict(memory)))


if __name__ == "__main__":
    main()
