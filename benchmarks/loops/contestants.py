"""The list of contestants of the loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.contestants import OURS
from benchmarks.loops.base import Loop
from benchmarks.loops.jax_loops import JaxLoop
from benchmarks.loops.torch_loops import RegionsLoop, TorchLoop
from benchmarks.loops.workloads import LoopWorkload
from benchmarks.rivals.base import TorchRival
from benchmarks.rivals.jax_forms import DIRECT_FORMS, IM2COL_FORMS
from benchmarks.rivals.ours import Fastmaml
from benchmarks.rivals.pytorch import PytorchLoop, TorchFunc

ONE_THREAD = "fastmaml-1-thread"
REGIONS = "regions"
DEFAULTS = "fastmaml-defaults"
JAX, JAX_SCAN = "JAX", "JAX scan"
IN_SCAN = "-in-scan"


@dataclass(frozen=True, slots=True)
class Contestant:
    """One loop to time.

    Attributes:
        name: Key in the results.
        family: Contestants of one family are forms of one loop; the fastest is shown.
        make: Builds it, unprepared.
    """

    name: str
    family: str
    make: Callable[[], Loop]

    @property
    def trains(self) -> bool:
        """Whether it has gradients to check; the regions alone have none."""
        return self.name != REGIONS


def contestants(loop: LoopWorkload) -> dict[str, Contestant]:
    """Everybody who takes part in a loop, by name, ours first."""
    if loop.regions:  # torch has all its threads, the engine follows it or has one
        everybody = [
            Contestant(OURS, "fastmaml", lambda: TorchLoop(Fastmaml)),
            Contestant(ONE_THREAD, "fastmaml, 1 thread", lambda: TorchLoop(Fastmaml, engine=1)),
            Contestant(REGIONS, "regions", RegionsLoop),
        ]
        return {c.name: c for c in everybody}
    everybody = [
        Contestant(OURS, "fastmaml", lambda: TorchLoop(Fastmaml, threads=1, engine=0)),
        Contestant(ONE_THREAD, "fastmaml, 1 thread", lambda: TorchLoop(Fastmaml, threads=1)),
        Contestant(DEFAULTS, "torch's defaults", lambda: TorchLoop(Fastmaml, fused=False)),
        *_jax(loop.forms),
        *_torch(PytorchLoop),
        *_torch(TorchFunc),
    ]
    return {c.name: c for c in everybody}


def _torch(rival: type[TorchRival]) -> list[Contestant]:
    """With torch's default of threads, and with one: what is faster is timed."""
    return [
        Contestant(rival.name, rival.family, lambda: TorchLoop(rival)),
        Contestant(rival.name + "-1-thread", rival.family, lambda: TorchLoop(rival, threads=1)),
    ]


def _jax(names: tuple[str, ...]) -> list[Contestant]:
    forms = [form for form in (*DIRECT_FORMS, *IM2COL_FORMS) if form.name in names]
    return [
        *(Contestant(f.name, JAX, lambda f=f: JaxLoop(f)) for f in forms),
        *(Contestant(f.name + IN_SCAN, JAX_SCAN, lambda f=f: JaxLoop(f, scan=True)) for f in forms),
    ]
