"""What the four passes of an op take: the instructions of profiled meta-steps, summed by pass."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from fastmaml.engine.allocate import InstructionTime

PASSES = ("forward", "backward", "forward_jvp", "backward_jvp")
LOSS_PASSES = tuple(name for name in PASSES if name != "forward_jvp")  # nothing reads its tangent
_LABEL = re.compile(rf"(?:step \d+|query) (?P<layer>.+)\.(?P<pass>{'|'.join(PASSES)})")
# The program's own instructions that a layer's work is in. The copy u is made for the first pass
# that reads it, but is not its arithmetic; the sums over tasks hold what factored weights leave to
# them.
_COPY, _SUMS = "u = -alpha v", ".meta_grad"
SUMS = "sums over tasks"


@dataclass(slots=True)
class PassTotal:
    """What one pass of the chosen layers took, over all steps and sets of one meta-step."""

    seconds: float = 0.0
    flops: float = 0.0
    labels: set[str] = field(default_factory=set)

    @property
    def visits(self) -> int:
        """How often the pass was made: layers times the sets and steps it ran on."""
        return len(self.labels)


def total_by_pass(
    times: Iterable[InstructionTime], layers: Collection[str], *, whole_program: bool = False
) -> dict[str, PassTotal]:
    """Sum the instructions of some layers.

    Args:
        times: Of one profiled run.
        layers: Names of the layers, or of the loss.
        whole_program: Whether these layers have all parameters, so that the copy u and the sums
            over tasks are theirs too.

    Returns:
        The passes that ran, in the order of `PASSES`; then `SUMS` for the whole program.
    """
    found: dict[str, PassTotal] = {name: PassTotal() for name in (*PASSES, SUMS)}
    for label, seconds, flops in times:
        match = _LABEL.fullmatch(label)
        if match and match["layer"] in layers:
            total = found[match["pass"]]
            total.labels.add(label)
        elif whole_program and label == _COPY:
            total, flops = found[PASSES[2]], 0.0
        elif whole_program and not match and label.endswith(_SUMS):
            total = found[SUMS]
        else:
            continue
        total.seconds += seconds
        total.flops += flops
    return {
        name: total
        for name, total in found.items()
        if total.labels or (whole_program and name == SUMS)
    }


class Profiled:
    """A second-order meta-step with one inner step whose every call is profiled.

    Args:
        model: The network.
        data: The support set, which is also the query set.
        loss: Name of the loss.
        factored: How weights are kept: 0 dense, 1 factored.
        rate_grad: Whether the learning rate's meta-gradient is written, too.

    Attributes:
        network: The traced model.
        times: One list of instructions for each call.
    """

    def __init__(
        self, model: nn.Module, data: Any, loss: str, *, factored: int = 0, rate_grad: bool = False
    ) -> None:
        """Compile the step."""
        from fastmaml import losses, tasks
        from fastmaml.engine.binding import CompiledPlan, PlanSettings
        from fastmaml.tracing.trace import trace

        resolved = losses.resolve(loss)
        parameters = dict(model.named_parameters())
        dtype, device = next(iter(parameters.values())).dtype, torch.device("cpu")
        self._tasks = tasks.validate("bench", data, data, dtype=dtype, device=device, loss=resolved)
        self.network = trace(model, self._tasks.row_shape)
        self._theta = [parameters[t.name].detach() for t in self.network.tensors]
        self.times: list[list[InstructionTime]] = []
        self._plan = CompiledPlan(
            self.network,
            resolved,
            PlanSettings(
                mode="meta_step",
                float64=dtype is torch.float64,
                support_rows=self._tasks.support_rows,
                query_rows=self._tasks.query_rows,
                inner_steps=1,
                first_order=False,
                rate_grad=rate_grad,
                factored=factored,
            ),
        )

    def __call__(self) -> None:
        """Run and profile once."""
        self.times.append(self._plan.profile(self._tasks, self._theta, 0.01)[1])

    def layers(self, op: str) -> set[str]:
        """Names of the layers that are this op; the planner names a permute after what it moves."""
        if op == "permute":
            return {f"value {value}" for value in range(2 * len(self.network.nodes) + 2)}
        return {node.name for node in self.network.nodes if node.op == op}
