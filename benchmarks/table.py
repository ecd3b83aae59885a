"""The tables of steps, generated from the records: the whole one, and the README's short one."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.records import LoopRecord, Record
from benchmarks.timing import Spread
from benchmarks.workloads import WORKLOADS

BEGIN = "<!-- benchmark table: begin -->"
END = "<!-- benchmark table: end -->"
SUMMARY_BEGIN = "<!-- summary table: begin -->"
SUMMARY_END = "<!-- summary table: end -->"

ABSENT = "-"

# Columns after fastmaml's; a family without a time on any workload gets no column.
FAMILIES = ("JAX", "PyTorch loop", "torch.func", "higher")


def check_one_machine(where: str, records: Sequence[Record | LoopRecord], command: str) -> None:
    """Refuse records that no one table can show.

    Args:
        where: The table that error texts begin with.
        records: Those of a table.
        command: What makes some.

    Raises:
        ValueError: There are none, or they come from different machines.
    """
    if not records:
        raise ValueError(f"{where}: at least one record is needed, got none; run `{command}`.")
    if len({str(record.machine) for record in records}) > 1:
        raise ValueError(f"{where}: all records must come from one machine and set of versions.")


def render(records: list[Record]) -> str:
    """The table and its caption as Markdown.

    Args:
        records: Records of one run (one machine).

    Returns:
        Markdown text without trailing newline; the same records always give the same text.

    Raises:
        ValueError: There are no records, or they come from different machines.
    """
    check_one_machine("table", records, "python -m benchmarks")
    families = [f for f in FAMILIES if any(r.family == f and r.seconds for r in records)]
    memory_families = [f for f in ("JAX", "PyTorch loop") if f in families]
    head = ["workload (GFLOP)", "fastmaml", "share of peak", *families]
    head.append("peak memory: " + " / ".join(["fastmaml", *memory_families]))
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, workload in WORKLOADS.items():
        rows = [r for r in records if r.workload == name]
        if not rows:
            continue
        ours = _best(rows, "fastmaml")
        work = "" if workload.overhead else f" ({workload.necessary_flops / 1e9:.2g})"
        cells = [workload.title + work]
        cells.append(_time(ours.seconds.median) if ours and ours.seconds else ABSENT)
        share = ours.share_of_peak if ours and not workload.overhead else None
        cells.append(f"{share:.0%}" if share else ABSENT)
        cells += [_rival(_best(rows, family)) for family in families]
        cells.append(" / ".join(_memory(_best(rows, f)) for f in ("fastmaml", *memory_families)))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _caption(records)])


def summary(records: list[Record]) -> str:
    """The medians alone; arguments and errors as of `render`."""
    check_one_machine("table", records, "python -m benchmarks")
    families = [f for f in FAMILIES if any(r.family == f and r.seconds for r in records)]
    head = ["one meta-step", "fastmaml", *families]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, workload in WORKLOADS.items():
        rows = [r for r in records if r.workload == name]
        if not rows:
            continue
        ours = _best(rows, "fastmaml")
        cells = [workload.title, _time(ours.seconds.median) if ours and ours.seconds else ABSENT]
        cells += [_median(_best(rows, family)) for family in families]
        lines.append("| " + " | ".join(cells) + " |")
    first = records[0]
    caption = f"float32, {first.threads} threads, {processor(first.machine or {})}."
    return "\n".join([*lines, "", caption])


def replace_between_markers(text: str, table: str, begin: str = BEGIN, end: str = END) -> str:
    """A page with the part between two markers replaced.

    Raises:
        ValueError: The markers are missing or not in order.
    """
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"table: the page must contain `{begin}` and then `{end}`, once each.")
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    return f"{before}{begin}\n{table}\n{end}{after}"


def _best(rows: list[Record], family: str) -> Record | None:
    """The family's fastest form among those timed in turns, else among those timed roughly."""
    known = [r for r in rows if r.family == family and r.seconds]
    timed = [r for r in known if r.rounds] or known
    return min(timed, key=lambda r: r.seconds.median if r.seconds else 0.0, default=None)


def _rival(record: Record | None) -> str:
    if record is None or record.seconds is None:
        return ABSENT
    text = _time(record.seconds.median)
    if not record.rounds:
        text = f"about {text}"
    if record.ratio is not None:
        text = f"{times(record.ratio)}, {text}"
    form = record.contestant.partition("-")[2] if record.family == "JAX" else ""
    return f"{text}, `{form}`" if form else text


def _median(record: Record | None) -> str:
    if record is None or record.seconds is None or record.ratio is None:
        return _rival(record)
    return f"**{_times(record.ratio.median)} x**"


def times(ratio: Spread) -> str:
    """A ratio with its quartiles."""
    return f"**{_times(ratio.median)} x** ({_times(ratio.lower)} to {_times(ratio.upper)})"


def _times(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 20 else f"{ratio:.1f}"


def _time(seconds: float) -> str:
    for scale, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def _memory(record: Record | None) -> str:
    if record is None or record.memory is None:
        return ABSENT
    return (
        f"{record.memory.growth / 2**20:.2g} MiB"
        if record.memory.growth < 100 * 2**20
        else (f"{record.memory.growth / 2**20:.0f} MiB")
    )


def processor(machine: dict[str, str | int]) -> str:
    """A machine in a caption: processor, cores, versions of the contestants."""
    versions = ", ".join(
        f"{p} {machine[p]}" for p in ("fastmaml", "torch", "jax", "higher") if p in machine
    )
    return (
        f"{machine.get('cpu', 'unknown processor')}, {machine.get('cores', '?')} cores; {versions}"
    )


def _caption(records: list[Record]) -> str:
    first = records[0]
    machine = first.machine or {}
    peaks = [r.peak_gflops for r in records if r.peak_gflops]
    rounds = sorted({r.rounds for r in records if r.rounds})
    spread = (
        str(rounds[0]) if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}" if rounds else "no"
    )
    method = "FMA peak" if first.peak_method == "fma" else "matrix product rate"
    refused = [r for r in records if r.verdict.startswith("refused")]
    text = (
        f"float32, {first.threads} threads, {processor(machine)}. "
        f"Times are medians of {spread} rounds in which all contestants take turns; **ratios** are "
        f"medians (quartiles) of the rival's time over fastmaml's in the same round. "
    )
    if peaks:
        text += f"Measured {method}: {max(peaks):.0f} GFLOP/s. "
    text += (
        "Peak memory is the growth of the resident set during the steps, in a process of its own."
    )
    if refused:
        names = ", ".join(f"{r.contestant} on {r.workload}" for r in refused)
        text += f" Refused for a wrong meta-gradient: {names}."
    return text


__all__ = ["BEGIN", "END", "processor", "render", "replace_between_markers", "times"]
