"""Shows the rates that the op benchmarks computed below pytest-benchmark's table of times."""

from __future__ import annotations

from typing import Any


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    """Print one line per benchmark that left a rate in its `extra_info`."""
    session = getattr(config, "_benchmarksession", None)
    found = [b for b in session.benchmarks if b.extra_info] if session is not None else []
    if not found:
        return
    terminalreporter.section("rates")
    for benchmark in found:
        rates = ", ".join(f"{value} {unit}" for unit, value in benchmark.extra_info.items())
        terminalreporter.line(f"{benchmark.name:40}{rates}")
