"""The processes of a run: the contestants', each alone while it is timed, and the busy one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]
END_SECONDS = 10.0

# It ends with its parent, however that ends.
BUSY = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(10**6):
        pass
"""


class Worker:
    """A contestant's process that waits to be timed; as a context it ends with the block."""

    def __init__(self, loop: str, contestant: str) -> None:
        """Start the process and wait until the loop is prepared.

        Raises:
            RuntimeError: The process ended instead.
        """
        self._name = f"{contestant} on {loop}"
        self._process = subprocess.Popen(
            command(loop, contestant, "time"),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.threads: int = self._answer()["threads"]
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> Worker:
        """The worker."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        self.end()

    def seconds_per_step(self, seconds: float) -> float:
        """Let it train for a while.

        Raises:
            RuntimeError: The process ended.
        """
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(f"{seconds}\n")
        stdin.flush()
        steps, passed = self._answer()
        return float(passed) / int(steps)

    def end(self) -> None:
        """Close its input, which ends it, or kill it."""
        try:
            self._process.communicate(timeout=END_SECONDS)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.communicate()

    def _answer(self) -> Any:
        stdout = self._process.stdout
        assert stdout is not None
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"loops: the process of {self._name} ended before it answered.")
        return json.loads(line)


def checked(loop: str, contestant: str) -> dict[str, Any]:
    """The check of a contestant, see `benchmarks.loops.worker.checked`.

    Raises:
        RuntimeError: Its process failed.
    """
    done = subprocess.run(
        command(loop, contestant, "check"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"loops: the check of {contestant} on {loop} ended with an error.")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def command(loop: str, contestant: str, task: str) -> list[str]:
    """The command line of a contestant's process."""
    return [sys.executable, "-m", "benchmarks.loops.worker", loop, contestant, task]


@contextmanager
def busy_process() -> Iterator[None]:
    """Keep one core busy with pure computation, at the priority of the contestants."""
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()
