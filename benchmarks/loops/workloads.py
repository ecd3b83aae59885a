"""The loops, as data: a workload whose tasks are drawn anew for every step."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.workloads import OMNIGLOT, OMNIGLOT_CONV, SINUSOID_1, Workload

META_LR = 1e-3
# Seeds the draws of every contestant.
SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopWorkload:
    """A loop over one workload's meta-step.

    Attributes:
        name: Key on the command line and in the results.
        title: Text of the table's first column.
        workload: Network, sizes and settings of a step; its own data are not used.
        forms: JAX's forms that take part, those that do best on the step alone.
        scan: Steps of one `lax.scan`; fewer where a step is so long that a call of it is nothing.
        regions: Whether large torch operations, which take torch's own threads, lie between steps.
        classes: Classes of the image set, as many as Omniglot has to train on.
        drawings: Pictures of a class.
    """

    name: str
    title: str
    workload: Workload
    forms: tuple[str, ...] = ()
    scan: int = 100
    regions: bool = False
    classes: int = 1100
    drawings: int = 20


LOOPS: dict[str, LoopWorkload] = {
    loop.name: loop
    for loop in (
        LoopWorkload(
            name="sinusoid",
            title="sinusoid MLP 1-40-40-1, 25 tasks, 10-shot, 1 step",
            workload=SINUSOID_1,
            forms=("jax-vmap", "jax-map"),
        ),
        LoopWorkload(
            name="omniglot-mlp",
            title="Omniglot MLP, 32 tasks 5-way 1-shot, 1 step",
            workload=OMNIGLOT,
            forms=("jax-vmap", "jax-map"),
        ),
        LoopWorkload(
            name="omniglot-conv",
            title="Omniglot Conv4-64, 32 tasks 5-way 1-shot, 1 step",
            workload=OMNIGLOT_CONV,
            forms=("jax-vmap-im2col", "jax-map-im2col"),
            scan=10,
        ),
        LoopWorkload(
            name="sinusoid-regions",
            title="sinusoid MLP, large torch operations between the steps",
            workload=SINUSOID_1,
            regions=True,
        ),
    )
}
