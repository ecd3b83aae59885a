"""The `higher` library's differentiable inner loop, where it is installed."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.rivals.base import Batch, TorchRival, UnavailableError
from benchmarks.workloads import Problem


class Higher(TorchRival):
    """`innerloop_ctx` per task; without `copy_initial_weights=False` there is no meta-gradient."""

    name = "higher"
    family = "higher"

    def prepare(self, problem: Problem) -> None:
        try:
            import higher  # type: ignore[import-not-found]
        except ImportError as error:
            raise UnavailableError("higher is not installed") from error
        self._innerloop: Any = higher.innerloop_ctx
        self._workload = problem.workload
        self._model = problem.module()
        self.parameters = list(self._model.parameters())
        self._optimizer = torch.optim.SGD(self.parameters, lr=problem.workload.inner_lr)
        self.support, self.query = problem.tensors()
        self._loss = F.mse_loss if problem.workload.loss == "mse" else F.cross_entropy

    def add_gradients(self, support: Batch, query: Batch) -> Tensor:
        (sx, sy), (qx, qy) = support, query
        total = sx.new_zeros(())
        for task in range(self._workload.tasks):
            with self._innerloop(self._model, self._optimizer, copy_initial_weights=False) as (
                fast,
                sgd,
            ):
                for _ in range(self._workload.inner_steps):
                    sgd.step(self._loss(fast(sx[task]), sy[task]))
                loss = self._loss(fast(qx[task]), qy[task]) / self._workload.tasks
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
        return total
