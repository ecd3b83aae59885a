"""The list of contestants of the loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.contestants import OURS
from benchmarks.loops.base import Loop
from benchmarks.loops.jax_loops import JaxLoop
from benchmarks.loops.torch_loops import RegionsLoop, TorchLoop
from benchmarks.loops.workloads import LoopWorkload
from benchmarks.rivals.jax_forms import DIRECT_FORMS, IM2COL_FORMS
from benchmarks.rivals.ours import Fastmaml
from benchmarks.rivals.pytorch import PytorchLoop, TorchFunc

ONE_THREAD = "fastmaml-1-thread"
REGIONS, REGIONS_ONE_THREAD = "regions", "regions-1-thread"
JAX, JAX_SCAN = "JAX", "JAX scan"
IN_SCAN = "-in-scan"


@dataclass(frozen=True, slots=True)
class Contestant:
    """One loop to time.

    Attributes:
        name: Key in the results.
        family: Contestants of one family are forms of one loop; only the fastest is timed.
        make: Builds it, unprepared.
    """

    name: str
    family: str
    make: Callable[[], Loop]

    @property
    def trains(self) -> bool:
        """Whether it has gradients to check; the regions alone have none."""
        return self.name not in (REGIONS, REGIONS_ONE_THREAD)


def contestants(loop: LoopWorkload) -> dict[str, Contestant]:
    """Everybody who takes part in a loop, by name, ours first."""
    ours = [
        Contestant(OURS, "fastmaml", lambda: TorchLoop(Fastmaml)),
        Contestant(ONE_THREAD, "fastmaml, 1 thread", lambda: TorchLoop(Fastmaml, threads=1)),
    ]
    if loop.regions:
        rest = [
            Contestant(REGIONS, "regions", RegionsLoop),
            Contestant(REGIONS_ONE_THREAD, "regions, 1 thread", lambda: RegionsLoop(threads=1)),
        ]
    else:
        rest = [
            Contestant(
                "fastmaml-fused-adam",
                "fastmaml, Adam(fused=True)",
                lambda: TorchLoop(Fastmaml, fused=True),
            ),
            *_jax(loop.forms),
            Contestant(PytorchLoop.name, PytorchLoop.family, lambda: TorchLoop(PytorchLoop)),
            Contestant(TorchFunc.name, TorchFunc.family, lambda: TorchLoop(TorchFunc)),
        ]
    return {c.name: c for c in (*ours, *rest)}


def _jax(names: tuple[str, ...]) -> list[Contestant]:
    forms = [form for form in (*DIRECT_FORMS, *IM2COL_FORMS) if form.name in names]
    return [
        *(Contestant(f.name, JAX, lambda f=f: JaxLoop(f)) for f in forms),
        *(Contestant(f.name + IN_SCAN, JAX_SCAN, lambda f=f: JaxLoop(f, scan=True)) for f in forms),
    ]
