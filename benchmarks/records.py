"""The results' format: JSON lines, one record per workload and contestant."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.check import Errors
from benchmarks.memory import Memory
from benchmarks.timing import Spread

T = TypeVar("T", bound="Stored")

RESULTS = Path(__file__).parent / "results"
# `run` writes LATEST unless told otherwise; COMMITTED is what the tables show.
LATEST = RESULTS / "latest.jsonl"
COMMITTED = RESULTS / "cpu.jsonl"
# The same of `loops`.
LATEST_LOOPS = RESULTS / "latest-loops.jsonl"
COMMITTED_LOOPS = RESULTS / "loops.jsonl"


class Stored:
    """A record's way to its line and back; the subclasses are dataclasses."""

    __slots__ = ()

    def to_json(self) -> str:
        """The record as one line."""
        return json.dumps(_rounded(asdict(self)))  # type: ignore[call-overload]

    @classmethod
    def from_json(cls: type[T], line: str) -> T:
        """The record of one line."""
        fields = json.loads(line)
        for key, kind in PARTS.items():
            if fields.get(key) is not None:
                fields[key] = kind(**fields[key])
        return cls(**fields)


# Fields that are dataclasses themselves.
PARTS: dict[str, type[Any]] = {
    "seconds": Spread,
    "ratio": Spread,
    "errors": Errors,
    "memory": Memory,
}


@dataclass(frozen=True, slots=True)
class Record(Stored):
    """One contestant on one workload.

    Attributes:
        workload: Name of the workload.
        contestant: Name of the contestant.
        family: Its library.
        verdict: "timed", "screened out" (a slower form of a library that has a faster one, or too
            slow for the time of the run; its time is rough, or absent if a step takes minutes), or
            why it was refused or is missing.
        gflop: Necessary arithmetic of the step, dense count, in units of 1e9.
        threads: Threads of the run; JAX always uses all cores.
        rounds: Rounds of the interleaved timing, 0 when not timed.
        seconds: Seconds per step over the rounds.
        ratio: This contestant's time over fastmaml's in the same round; more than 1 is slower than
            fastmaml.
        share_of_peak: gflop over median seconds over the measured peak.
        peak_gflops: The measured float32 peak of all threads in GFLOP/s.
        peak_method: How it was measured.
        errors: Relative errors of the meta-gradient to the float64 truth.
        memory: Resident memory, in bytes.
        machine: Processor, cores, versions.
    """

    workload: str
    contestant: str
    family: str
    verdict: str
    gflop: float
    threads: int
    rounds: int = 0
    seconds: Spread | None = None
    ratio: Spread | None = None
    share_of_peak: float | None = None
    peak_gflops: float | None = None
    peak_method: str | None = None
    errors: Errors | None = None
    memory: Memory | None = None
    machine: dict[str, str | int] | None = None


@dataclass(frozen=True, slots=True)
class LoopRecord(Stored):
    """One contestant's training loop.

    Attributes:
        workload: Name of the loop.
        contestant: Name of the contestant.
        family: Forms of one loop share it; slow ones are not timed.
        verdict: "timed", "screened out" (a slower form), or why it was refused or is missing.
        busy: Whether a busy process ran beside it.
        threads: Of its gradients; JAX always uses all cores.
        rounds: Visits, in turns with the others, 0 when not timed.
        seconds: Seconds per step over the rounds.
        ratio: This contestant's time per step over fastmaml's in the same round.
        errors: Worst relative errors of its steps' meta-gradients.
        machine: Processor, cores, versions.
    """

    workload: str
    contestant: str
    family: str
    verdict: str
    busy: bool = False
    threads: int | None = None
    rounds: int = 0
    seconds: Spread | None = None
    ratio: Spread | None = None
    errors: Errors | None = None
    machine: dict[str, str | int] | None = None


def write(path: Path, records: Sequence[Stored]) -> None:
    """Write records to a file, replacing it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(record.to_json() + "\n" for record in records))


def read(path: Path) -> list[Record]:
    """Read a file of records."""
    return [Record.from_json(line) for line in path.read_text().splitlines() if line]


def read_loops(path: Path) -> list[LoopRecord]:
    """Read a file of loops' records."""
    return [LoopRecord.from_json(line) for line in path.read_text().splitlines() if line]


def _rounded(value: Any) -> Any:
    """Floats to five significant digits: more would be noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return value
