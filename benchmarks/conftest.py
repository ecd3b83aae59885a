"""Shows the rates that the op benchmarks computed below pytest-benchmark's table of times."""

from __future__ import annotations

from typing import Any

from benchmarks.passes import PASSES, SUMS


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    """Print one line per benchmark that left rates in its `extra_info`, a column for each pass."""
    session = getattr(config, "_benchmarksession", None)
    found = [b for b in session.benchmarks if b.extra_info] if session is not None else []
    if not found:
        return
    columns = (*PASSES, SUMS)
    terminalreporter.section("rates of the passes, one thread")
    titles = "".join(f"{title:>17}" for title in columns)
    terminalreporter.line(f"{'':36}{'':12}{titles}")
    for benchmark in found:
        rates = "".join(f"{benchmark.extra_info.get(column, ''):>17}" for column in columns)
        terminalreporter.line(f"{benchmark.name:36}{benchmark.extra_info['unit']:12}{rates}")
