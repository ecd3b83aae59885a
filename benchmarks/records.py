"""The results' format: JSON lines, one record per workload and contestant."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.check import Errors
from benchmarks.memory import Memory
from benchmarks.timing import Spread

RESULTS = Path(__file__).parent / "results"
# `run` writes LATEST unless told otherwise; COMMITTED is what the README's table shows.
LATEST = RESULTS / "latest.jsonl"
COMMITTED = RESULTS / "cpu.jsonl"


@dataclass(frozen=True, slots=True)
class Record:
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

    def to_json(self) -> str:
        """The record as one line."""
        return json.dumps(_rounded(asdict(self)))

    @staticmethod
    def from_json(line: str) -> Record:
        """The record of one line."""
        fields = json.loads(line)
        for key, kind in (
            ("seconds", Spread),
            ("ratio", Spread),
            ("errors", Errors),
            ("memory", Memory),
        ):
            if fields[key] is not None:
                fields[key] = kind(**fields[key])
        return Record(**fields)


def write(path: Path, records: list[Record]) -> None:
    """Write records to a file, replacing it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(record.to_json() + "\n" for record in records))


def read(path: Path) -> list[Record]:
    """Read a file of records."""
    return [Record.from_json(line) for line in path.read_text().splitlines() if line]


def _rounded(value: Any) -> Any:
    """Floats to five significant digits: more would be noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return value
