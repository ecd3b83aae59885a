"""The process of one contestant: it checks its loop, or times it whenever it is told to.

Run by `benchmarks.loops.processes` as `python -m benchmarks.loops.worker LOOP CONTESTANT TASK`.
`check` prints one JSON line. `time` prints one when it is ready; then it answers each line with a
number of seconds by one with the steps that it made and the time that they took, until its input
ends.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from typing import Any

from benchmarks.check import RefusedError, UnavailableError
from benchmarks.loops import check
from benchmarks.loops.base import Loop
from benchmarks.loops.contestants import Contestant, contestants
from benchmarks.loops.workloads import LOOPS, LoopWorkload

# A batch of steps between two looks at the clock lasts at least this long.
BATCH_SECONDS = 0.02
# A visit starts with untimed steps for so long: caches are another contestant's, threads asleep.
WARM_SECONDS = 0.1


def checked(contestant: Contestant, loop: LoopWorkload) -> dict[str, Any]:
    """A contestant's verdict, errors and rough seconds per step."""
    try:
        ready, errors = check.admit(contestant, loop)
    except UnavailableError as reason:
        return {"verdict": f"missing: {reason}"}
    except RefusedError as reason:
        return {"verdict": f"refused: {reason}"}
    rough = min(seconds_of(ready, check.STEPS) for _ in range(3)) / check.STEPS
    return {"verdict": "timed", "errors": asdict(errors), "seconds": rough}


def seconds_of(loop: Loop, steps: int) -> float:
    """Time of some steps."""
    start = time.perf_counter()
    loop.run(steps)
    return time.perf_counter() - start


def batch_of(loop: Loop) -> int:
    """Steps of a batch that lasts `BATCH_SECONDS`."""
    batch = loop.grain
    loop.run(batch)
    while seconds_of(loop, batch) < BATCH_SECONDS:
        batch *= 2
    return batch


def visit(loop: Loop, batch: int, seconds: float) -> tuple[int, float]:
    """Train for a while.

    Args:
        loop: A prepared loop.
        batch: Steps between two looks at the clock.
        seconds: Time to train for, at least.

    Returns:
        Steps and the seconds that they took.
    """
    _batches(loop, batch, WARM_SECONDS)
    return _batches(loop, batch, seconds)


def _batches(loop: Loop, batch: int, seconds: float) -> tuple[int, float]:
    steps, passed, start = 0, 0.0, time.perf_counter()
    while passed < seconds:
        loop.run(batch)
        steps += batch
        passed = time.perf_counter() - start
    return steps, passed


def main() -> None:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loops.worker", description=__doc__)
    parser.add_argument("loop", choices=LOOPS)
    parser.add_argument("contestant")
    parser.add_argument("task", choices=("check", "time"))
    args = parser.parse_args()
    loop = LOOPS[args.loop]
    contestant = contestants(loop)[args.contestant]
    if args.task == "check":
        print(json.dumps(checked(contestant, loop)), flush=True)
        return
    ready = contestant.make()
    ready.prepare(loop, "float32")
    batch = batch_of(ready)
    print(json.dumps({"threads": ready.threads()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(visit(ready, batch, float(line))), flush=True)


if __name__ == "__main__":
    main()
