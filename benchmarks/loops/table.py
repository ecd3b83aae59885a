"""The table of the loops, generated from their records."""

from __future__ import annotations

import math

from benchmarks.contestants import OURS
from benchmarks.loops.contestants import DEFAULTS, JAX, JAX_SCAN, ONE_THREAD, REGIONS
from benchmarks.loops.workloads import LOOPS
from benchmarks.records import LoopRecord
from benchmarks.table import ABSENT, check_one_machine, processor, times

BEGIN = "<!-- loop table: begin -->"
END = "<!-- loop table: end -->"

# Columns after fastmaml's, by family.
RIVALS = (JAX, JAX_SCAN, "PyTorch loop", "torch.func")
HEAD = (
    "loop",
    "machine",
    "fastmaml",
    "one thread",
    "threads over one",
    "with torch's defaults",
    "JAX, a step per call",
    "JAX, many steps per call",
    *RIVALS[2:],
)


def render(records: list[LoopRecord]) -> str:
    """The loops' table and its caption; arguments and errors as of `benchmarks.table.render`."""
    check_one_machine("loops", records, "python -m benchmarks loops")
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    for name in LOOPS:
        for busy in (False, True):
            rows = [r for r in records if r.workload == name and r.busy == busy and r.seconds]
            if rows:
                lines.append("| " + " | ".join(_cells(name, busy, rows)) + " |")
    return "\n".join([*lines, "", _caption(records)])


def _cells(name: str, busy: bool, rows: list[LoopRecord]) -> list[str]:
    found = {r.contestant: r for r in rows}
    # Of a family's forms the fastest.
    families = {r.family: r for r in sorted(rows, key=_median, reverse=True)}
    one = found.get(ONE_THREAD)
    cells = [LOOPS[name].title, "a busy process beside" if busy else "idle"]
    cells += [_rate(found.get(OURS)), _rate(one)]
    cells.append(times(one.ratio) if one and one.ratio else ABSENT)
    cells.append(_rate(found.get(DEFAULTS)))
    return cells + [_rival(families.get(family)) for family in RIVALS]


def _median(record: LoopRecord) -> float:
    return record.seconds.median if record.seconds else math.inf


def _rate(record: LoopRecord | None) -> str:
    return f"{_per_second(1 / record.seconds.median)}/s" if record and record.seconds else ABSENT


def _rival(record: LoopRecord | None) -> str:
    if record is None:
        return ABSENT
    return f"{times(record.ratio)}, {_rate(record)}" if record.ratio else _rate(record)


def _per_second(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _caption(records: list[LoopRecord]) -> str:
    timed = [r for r in records if r.rounds]
    rounds = sorted({r.rounds for r in timed})
    spread = f"{rounds[0]} to {rounds[-1]}" if len(rounds) > 1 else str(rounds[0] if rounds else 0)
    threads = next((r.threads for r in timed if r.contestant == OURS), None)
    scans = sorted({LOOPS[r.workload].scan for r in timed if r.family == JAX_SCAN})
    text = (
        f"Whole training steps (drawing tasks, meta-gradient, Adam) a second, float32, fastmaml on "
        f"{_threads(threads)} unless it says one, {processor(records[0].machine or {})}. Every "
        f"contestant in a process of its own, medians of {spread} rounds in turns; **ratios** are "
        f"medians (quartiles) of fastmaml's rate over the other's in the same round."
    )
    if scans:
        text += f" JAX's many steps are {' or '.join(map(str, reversed(scans)))} in one `lax.scan`."
    alone = [
        f"{r.seconds.median * 1e3:.2g} ms ({_where(r)})"
        for r in timed
        if r.contestant == REGIONS and r.seconds
    ]
    if alone:
        text += f" The large operations alone take {', '.join(alone)} a step."
    refused = [r for r in records if r.verdict.startswith("refused")]
    if refused:
        names = ", ".join(f"{r.contestant} on {r.workload}" for r in refused)
        text += f" Refused for a wrong step: {names}."
    return text


def _where(record: LoopRecord) -> str:
    count = _threads(record.threads)
    return f"{count}, a busy process beside" if record.busy else count


def _threads(count: int | None) -> str:
    return "one thread" if count == 1 else f"{count or 'no'} threads"
