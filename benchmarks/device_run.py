"""A benchmark run on a device: check in float64, time in turns, and a text to paste into an issue.

The contestants and their check are those of the CPU's run; the truth is the CPU's. Torch's
contestants and fastmaml are timed between events of the device; JAX, whose streams are its own, by
the wall clock around steps that end in `block_until_ready`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import device_kernels, runner, timing
from benchmarks.check import Errors
from benchmarks.contestants import OURS
from benchmarks.device_kernels import Share
from benchmarks.devices import PEAK_SIZE, Device
from benchmarks.rivals.base import Rival
from benchmarks.timing import Spread
from benchmarks.workloads import Workload

FAMILIES = ("fastmaml", "PyTorch loop", "torch.func", "JAX")
BY_WALL_CLOCK = ("JAX",)


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant on one workload.

    Attributes:
        workload: The workload.
        contestant: Its name.
        verdict: As in `benchmarks.records.Record`.
        seconds: Seconds per step over the rounds, or rough ones when it was screened out.
        ratio: Its time over fastmaml's in the same round.
        errors: Relative errors of the meta-gradient to the float64 truth.
        memory: Bytes that steps allocate, None where torch's allocator does not know.
        executor: What ran fastmaml's step on the device.
        kernels: What the kernels of fastmaml's step take, by what they do.
    """

    workload: Workload
    contestant: str
    verdict: str
    seconds: Spread | None = None
    ratio: Spread | None = None
    errors: Errors | None = None
    memory: int | None = None
    executor: str = ""
    kernels: tuple[Share, ...] = ()


def run(
    workload: Workload, contestants: list[type[Rival]], rounds: int, seconds: float, device: Device
) -> list[Row]:
    """Benchmark one workload.

    Args:
        workload: The workload.
        contestants: Classes that take part.
        rounds: Rounds of the interleaved timing, at most.
        seconds: Time for the rounds.
        device: Where.

    Returns:
        One row per contestant.
    """
    # JAX would take most of the device's memory for itself; it reads this when it starts.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    verdicts, ready, errors = runner.admit(workload, contestants, device.place)
    steps = {name: rival.step for name, rival in ready.items()}
    visits = {
        name: timing.wall_clock if rival.family in BY_WALL_CLOCK else device.visit
        for name, rival in ready.items()
    }
    rough = timing.screen(steps, visits)
    timed = runner.worth_timing(ready, rough, seconds / runner.MINIMUM_ROUNDS)
    per_round = sum(max(timing.VISIT_SECONDS, rough[name]) + rough[name] for name in timed)
    affordable = int(seconds / max(per_round, timing.VISIT_SECONDS))
    count = min(rounds, max(runner.MINIMUM_ROUNDS, affordable))
    times = timing.interleave({name: steps[name] for name in timed}, rough, count, visits)
    return [
        Row(
            workload=workload,
            contestant=contestant.name,
            verdict=runner.verdict(contestant.name, verdicts, timed),
            seconds=runner.seconds(contestant.name, times, rough),
            ratio=runner.ratio(contestant.name, times),
            errors=errors.get(contestant.name),
            memory=_memory(ready.get(contestant.name), device),
            executor=_executor(contestant.name, steps),
            kernels=_kernels(contestant.name, steps, device),
        )
        for contestant in contestants
    ]


def _memory(rival: Rival | None, device: Device) -> int | None:
    if rival is None or rival.family in BY_WALL_CLOCK:
        return None
    return device.peak_memory(rival.step)


def _executor(name: str, steps: dict[str, Callable[[], Any]]) -> str:
    return str(steps[name]().executor) if name == OURS and name in steps else ""


def _kernels(name: str, steps: dict[str, Callable[[], Any]], device: Device) -> tuple[Share, ...]:
    return tuple(device.kernels(steps[name])) if name == OURS and name in steps else ()


def render(rows: list[Row], facts: dict[str, str], peak_gflops: float) -> str:
    """The run as Markdown.

    Args:
        rows: Of all workloads.
        facts: `Device.facts`.
        peak_gflops: `Device.peak_gflops`.

    Returns:
        Text without trailing newline.
    """
    head = ["workload (GFLOP)", "contestant", "median (quartiles)", "over fastmaml's"]
    head += ["share of peak", "memory", "error f64", "error f32"]
    lines = [head, ["---"] * len(head), *(_cells(row, peak_gflops) for row in rows)]
    refused = [r for r in rows if r.verdict.startswith(("refused", "missing"))]
    notes = [
        f"- time of {r.contestant}'s step on {r.workload.name}, "
        f"{device_kernels.render(list(r.kernels))}"
        for r in rows
        if r.kernels
    ]
    notes += [f"- {r.contestant} on {r.workload.name}: {r.verdict}" for r in refused]
    return "\n".join(
        [
            *(f"- {name}: {value}" for name, value in facts.items()),
            "",
            *("| " + " | ".join(line) + " |" for line in lines),
            "",
            _caption(peak_gflops),
            *(["", *notes] if notes else []),
        ]
    )


def _cells(row: Row, peak_gflops: float) -> list[str]:
    gflop = row.workload.necessary_flops / 1e9
    name = f"{row.contestant} ({row.executor})" if row.executor else row.contestant
    cells = [f"{row.workload.name} ({gflop:.2g})", name]
    if row.seconds is None:
        return [*cells, row.verdict.partition(":")[0], *["-"] * 5]
    spread = row.seconds
    if row.verdict == "timed":
        cells.append(f"{_ms(spread.median)} ms ({_ms(spread.lower)} to {_ms(spread.upper)})")
    else:
        cells.append(f"about {_ms(spread.median)} ms, screened out")
    cells.append(f"{row.ratio.median:.2f} x" if row.ratio else "-")
    share = gflop / spread.median / peak_gflops
    cells.append("-" if row.workload.overhead else f"{share:.1%}")
    cells.append("-" if row.memory is None else f"{row.memory / 2**20:.1f} MiB")
    errors = (row.errors.float64, row.errors.float32) if row.errors else (None, None)
    return cells + ["-" if error is None else f"{error:.0e}" for error in errors]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}"


def _caption(peak_gflops: float) -> str:
    return (
        "float32, TF32 off for everyone. Contestants take turns round by round; times are medians "
        "(quartiles), between CUDA events for torch and fastmaml, by the wall clock around "
        "`block_until_ready` for JAX. Ratios are medians of the rival's time over fastmaml's in "
        "the same round. Share of peak: the step's necessary arithmetic over its time, against "
        f"the measured {peak_gflops:.0f} GFLOP/s of a large `torch.mm` ({PEAK_SIZE} rows). Memory: "
        "growth of `torch.cuda.max_memory_allocated` over a few steps; JAX has an allocator of "
        "its own. Errors are of the meta-gradient, relative to the float64 reference on the CPU; "
        "nobody was timed who was not right."
    )


__all__ = ["FAMILIES", "Row", "render", "run"]
