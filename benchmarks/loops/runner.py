"""A run of the loops: check, drop slow forms, time in turns, idle and beside a busy process.

Every contestant is checked in a process of its own and then timed in another, which waits while the
others have their turns. A round visits everybody, from another first one each time.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

from benchmarks import machine
from benchmarks.check import Errors
from benchmarks.contestants import OURS
from benchmarks.loops.contestants import Contestant, contestants
from benchmarks.loops.processes import Worker, busy_process, checked
from benchmarks.loops.workloads import LoopWorkload
from benchmarks.records import LoopRecord
from benchmarks.timing import Spread

Times = dict[bool, dict[str, list[float]]]
# A form that takes longer than this many times its family's fastest in the check is not timed.
DOUBT = 1.7


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of a run.

    Attributes:
        rounds: Visits per contestant and condition.
        seconds: Length of a visit, at least.
        busy: Whether there are as many rounds again with a busy process beside them.
        names: Contestants, None for all.
    """

    rounds: int = 7
    seconds: float = 1.0
    busy: bool = True
    names: tuple[str, ...] | None = None


def run(loop: LoopWorkload, options: Options) -> list[LoopRecord]:
    """Benchmark one loop.

    Args:
        loop: The loop.
        options: Settings.

    Returns:
        A record per contestant and condition; of those that were not timed, one.
    """
    everybody = contestants(loop)
    if options.names is not None:
        everybody = {n: c for n, c in everybody.items() if n in options.names}
    found = {name: _checked(loop, c) for name, c in everybody.items()}
    timed = fastest([everybody[n] for n, f in found.items() if f["verdict"] == "timed"], found)
    times, threads = _times(loop, timed, options)
    return [
        LoopRecord(
            workload=loop.name,
            contestant=name,
            family=contestant.family,
            verdict=_verdict(name, found, timed),
            busy=busy,
            threads=threads.get(name),
            rounds=len(times[busy].get(name, ())),
            seconds=Spread.of(times[busy][name]) if name in timed else None,
            ratio=ratio(name, times[busy]),
            errors=Errors(**found[name]["errors"]) if found[name].get("errors") else None,
            machine=machine.describe(),
        )
        for name, contestant in everybody.items()
        for busy in (times if name in timed else (False,))
    ]


def fastest(ready: list[Contestant], found: dict[str, dict[str, Any]]) -> list[str]:
    """Names of the forms that may be their family's fastest, by the rough times of the check."""
    best: dict[str, float] = {}
    for contestant in ready:
        seconds = found[contestant.name]["seconds"]
        best[contestant.family] = min(seconds, best.get(contestant.family, seconds))
    return [c.name for c in ready if found[c.name]["seconds"] <= DOUBT * best[c.family]]


def ratio(name: str, times: dict[str, list[float]]) -> Spread | None:
    """A contestant's time over ours, round by round; None for ours and those not timed."""
    if name not in times or OURS not in times or name == OURS:
        return None
    pairs = zip(times[name], times[OURS], strict=True)
    return Spread.of([theirs / ours for theirs, ours in pairs])


def _checked(loop: LoopWorkload, contestant: Contestant) -> dict[str, Any]:
    if not contestant.trains:
        return {"verdict": "timed", "seconds": 0.0}
    found = checked(loop.name, contestant.name)
    errors = found.get("errors")
    text = f"relative errors {errors['float64']:.1e}, {errors['float32']:.1e}" if errors else ""
    _say(f"{loop.name}: {contestant.name}: {text or found['verdict']}")
    return found


def _times(loop: LoopWorkload, names: list[str], options: Options) -> tuple[Times, dict[str, int]]:
    """Seconds per step of every round, by condition and contestant; threads of each."""
    times: Times = {
        busy: {name: [] for name in names} for busy in ([False, True] if options.busy else [False])
    }
    with ExitStack() as stack:
        workers = {n: stack.enter_context(Worker(loop.name, n)) for n in names}
        # One condition after the other: who adapts to the machine finds it as it was last time.
        for busy, lists in times.items():
            with busy_process() if busy else nullcontext():
                for turn in range(options.rounds):
                    where = ", a busy process beside" if busy else ""
                    _say(f"{loop.name}: round {turn + 1} of {options.rounds}{where}")
                    first = turn % max(1, len(names))
                    for name in (*names[first:], *names[:first]):
                        lists[name].append(workers[name].seconds_per_step(options.seconds))
        return times, {name: worker.threads for name, worker in workers.items()}


def _verdict(name: str, found: dict[str, dict[str, Any]], timed: list[str]) -> str:
    verdict = str(found[name]["verdict"])
    return "screened out" if verdict == "timed" and name not in timed else verdict


def _say(text: str) -> None:
    """Progress goes to stderr; stdout belongs to the table."""
    print(text, file=sys.stderr, flush=True)
