"""A benchmark run: check, screen, time in turns, measure memory."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import torch

from benchmarks import machine, memory, timing
from benchmarks.check import Checker, Errors, RefusedError, TooSlowError
from benchmarks.contestants import OURS
from benchmarks.records import Record
from benchmarks.rivals.base import Rival, UnavailableError
from benchmarks.workloads import Workload

# A form of a library this much slower than the library's fastest form is not worth the rounds.
SCREEN_FACTOR = 1.3
# A measurement is a process of its own and costs seconds.
MEMORY_FAMILIES = ("fastmaml", "JAX", "PyTorch loop")


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of a run.

    Attributes:
        rounds: Rounds of the interleaved timing, at most.
        threads: Threads of torch and fastmaml.
        workload_seconds: Time for the rounds of one workload, None for what the workload names;
            fewer rounds are run where they would take longer.
        memory: Whether memory is measured.
        flat_calls: Steps of the memory's flatness check, at most.
        flat_seconds: Time of the flatness check, at most.
    """

    rounds: int = 25
    threads: int = 2
    workload_seconds: float | None = None
    memory: bool = True
    flat_calls: int = 1000
    flat_seconds: float = 1.0


MINIMUM_ROUNDS = 3


def run(workload: Workload, contestants: list[type[Rival]], options: Options) -> list[Record]:
    """Benchmark one workload.

    Args:
        workload: The workload.
        contestants: Classes that take part.
        options: Settings.

    Returns:
        One record per contestant.
    """
    torch.set_num_threads(options.threads)
    budget = workload.seconds if options.workload_seconds is None else options.workload_seconds
    peak = machine.measure_peak(options.threads)
    verdicts, ready, errors = admit(workload, contestants)
    rough = timing.screen({name: rival.step for name, rival in ready.items()})
    timed = worth_timing(ready, rough, budget / MINIMUM_ROUNDS)
    per_round = sum(max(timing.VISIT_SECONDS, rough[name]) + rough[name] for name in timed)
    affordable = int(budget / max(per_round, timing.VISIT_SECONDS))
    rounds = min(options.rounds, max(MINIMUM_ROUNDS, affordable))
    times = timing.interleave({name: ready[name].step for name in timed}, rough, rounds)
    peak = max(peak, machine.measure_peak(options.threads), key=lambda p: p.gflops)
    weighed = _memory_matters(ready, times) if options.memory and not workload.overhead else []
    return [
        Record(
            workload=workload.name,
            contestant=contestant.name,
            family=contestant.family,
            verdict=verdict(contestant.name, verdicts, timed),
            gflop=workload.necessary_flops / 1e9,
            threads=options.threads,
            rounds=rounds if contestant.name in timed else 0,
            seconds=seconds(contestant.name, times, rough),
            ratio=ratio(contestant.name, times),
            peak_gflops=peak.gflops,
            peak_method=peak.method,
            errors=errors.get(contestant.name),
            memory=_memory(contestant.name, workload, options)
            if contestant.name in weighed
            else None,
            machine=machine.describe(),
        )
        for contestant in contestants
    ]


def with_common_peak(records: list[Record]) -> list[Record]:
    """Records of one run with their shares of the highest peak that the run saw.

    A busy machine shows a peak below its own; the highest is the nearest to the truth.
    """
    peaks = [r.peak_gflops for r in records if r.peak_gflops]
    peak = max(peaks, default=None)
    if peak is None:
        return records
    return [
        replace(
            record,
            peak_gflops=peak,
            share_of_peak=record.gflop / record.seconds.median / peak if record.seconds else None,
        )
        for record in records
    ]


def verdict(name: str, verdicts: dict[str, str], timed: list[str]) -> str:
    """What became of a contestant, see `Record`."""
    screened = verdicts[name] == "timed" and name not in timed
    return "screened out" if screened else verdicts[name]


def seconds(
    name: str, times: dict[str, list[float]], rough: dict[str, float]
) -> timing.Spread | None:
    """A contestant's seconds per step: of the rounds, else rough ones, else None."""
    values = times[name] if name in times else [rough[name]] if name in rough else []
    return timing.Spread.of(values) if values else None


def ratio(name: str, times: dict[str, list[float]]) -> timing.Spread | None:
    """A contestant's time over ours, round by round; None for ours and those not timed."""
    if name not in times or OURS not in times or name == OURS:
        return None
    pairs = zip(times[name], times[OURS], strict=True)
    return timing.Spread.of([theirs / ours for theirs, ours in pairs])


def admit(
    workload: Workload, contestants: list[type[Rival]], device: str = "cpu"
) -> tuple[dict[str, str], dict[str, Rival], dict[str, Errors]]:
    """Check contestants.

    Returns:
        Each one's verdict; those that passed, prepared; their errors.
    """
    _say(f"{workload.name}: checking")
    checker = Checker(workload, device)
    verdicts: dict[str, str] = {}
    ready: dict[str, Rival] = {}
    errors: dict[str, Errors] = {}
    for contestant in contestants:
        name = contestant.name
        try:
            ready[name], errors[name] = checker.admit(contestant)
            verdicts[name] = "timed"
            _say(
                f"  {name}: relative errors {errors[name].float64:.1e} in float64, "
                f"{errors[name].float32:.1e} in float32"
            )
        except UnavailableError as reason:
            verdicts[name] = f"missing: {reason}"
            _say(f"  {name}: {reason}")
        except TooSlowError as reason:
            verdicts[name] = f"screened out: {reason}"
            _say(f"  {name}: {reason}")
        except RefusedError as reason:
            verdicts[name] = f"refused: {reason}"
            _say(f"  REFUSED {reason}")
    return verdicts, ready, errors


def worth_timing(ready: dict[str, Rival], rough: dict[str, float], limit: float) -> list[str]:
    """Names within SCREEN_FACTOR of their family's best, and at most `limit` seconds a step."""
    best: dict[str, float] = {}
    for name, rival in ready.items():
        best[rival.family] = min(rough[name], best.get(rival.family, rough[name]))
    bounds = {n: min(limit, SCREEN_FACTOR * best[rival.family]) for n, rival in ready.items()}
    return [name for name in ready if name == OURS or rough[name] <= bounds[name]]


def _memory_matters(ready: dict[str, Rival], times: dict[str, list[float]]) -> list[str]:
    """Names whose memory the table shows: the fastest form of every family named there."""
    fastest: dict[str, str] = {}
    for name in times:
        family = ready[name].family
        best = fastest.setdefault(family, name)
        if timing.Spread.of(times[name]).median < timing.Spread.of(times[best]).median:
            fastest[family] = name
    return [name for family, name in fastest.items() if family in MEMORY_FAMILIES]


def _memory(name: str, workload: Workload, options: Options) -> memory.Memory | None:
    _say(f"  memory of {name}")
    return memory.measure(
        name,
        workload.name,
        threads=options.threads,
        calls=options.flat_calls,
        seconds=options.flat_seconds,
    )


def _say(text: str) -> None:
    """Progress goes to stderr; stdout belongs to the table."""
    print(text, file=sys.stderr, flush=True)
