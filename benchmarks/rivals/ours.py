"""fastmaml itself, called the way its users call it."""

from __future__ import annotations

from typing import Any

from benchmarks.rivals.base import Batch, Outcome, TorchRival, UnavailableError
from benchmarks.workloads import Problem


class Fastmaml(TorchRival):
    """`fastmaml.meta_step` on the fused engine; `.grad` starts at None as after `zero_grad()`."""

    name = "fastmaml"
    family = "fastmaml"

    def prepare(self, problem: Problem) -> None:
        try:
            from fastmaml import meta_step
            from fastmaml.engine import binding
        except ImportError as error:
            raise UnavailableError("fastmaml is not installed") from error
        if not binding.available():
            raise UnavailableError("fastmaml's engine is not built")
        self._meta_step = meta_step
        self._workload = problem.workload
        self._model = problem.module()
        self.parameters = list(self._model.parameters())
        self.support, self.query = problem.tensors()

    def add_gradients(self, support: Batch, query: Batch) -> Any:
        workload = self._workload
        return self._meta_step(
            self._model,
            support,
            query,
            loss=workload.loss,
            inner_lr=workload.inner_lr,
            inner_steps=workload.inner_steps,
            backend="fused",
        )

    def read(self, result: Any) -> Outcome:
        return super().read(result.loss)
