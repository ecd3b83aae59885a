"""PyTorch's own ways: the plain loop over tasks, and torch.func with the tasks batched by vmap."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.networks import Conv, forward
from benchmarks.rivals.base import Batch, TorchRival
from benchmarks.workloads import Problem

Parameters = dict[str, Tensor]


class PytorchLoop(TorchRival):
    """One task after another; `create_graph=True` inside, `backward` of each task's query loss.

    The graph of a task is freed before the next task starts, which is the loop that needs the least
    memory.
    """

    name = "pytorch-loop"
    family = "PyTorch loop"

    def prepare(self, problem: Problem) -> None:
        self._workload = problem.workload
        self._model = problem.module()
        self._named = dict(self._model.named_parameters())
        self.parameters = list(self._model.parameters())
        self.support, self.query = problem.tensors()
        self._loss = F.mse_loss if problem.workload.loss == "mse" else F.cross_entropy

    def add_gradients(self, support: Batch, query: Batch) -> Tensor:
        total = support[0].new_zeros(())
        for task in range(self._workload.tasks):
            fast: Parameters = dict(self._named)
            for _ in range(self._workload.inner_steps):
                support_loss = self._task_loss(fast, support, task)
                gradients = torch.autograd.grad(
                    support_loss, tuple(fast.values()), create_graph=True
                )
                fast = {
                    name: value - self._workload.inner_lr * gradient
                    for (name, value), gradient in zip(fast.items(), gradients, strict=True)
                }
            query_loss = self._task_loss(fast, query, task) / self._workload.tasks
            query_loss.backward()  # type: ignore[no-untyped-call]
            total += query_loss.detach()
        return total

    def _task_loss(self, parameters: Parameters, data: Batch, task: int) -> Tensor:
        logits = torch.func.functional_call(self._model, parameters, (data[0][task],))
        return self._loss(logits, data[1][task])


class _Formulas:
    """Torch's operations, batch norm by its formula."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def conv(self, layer: Conv, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, layer.stride, layer.padding)

    def batch_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        dims = [0, *range(2, x.dim())]
        variance, mean = torch.var_mean(x, dim=dims, correction=0, keepdim=True)
        shape = mean.shape[1:]
        scale = weight.reshape(shape) * torch.rsqrt(variance + eps)
        return (x - mean) * scale + bias.reshape(shape)

    def relu(self, x: Tensor, slope: float) -> Tensor:
        return F.leaky_relu(x, slope) if slope else F.relu(x)

    def max_pool(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2)

    def mean(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))

    def flatten(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class TorchFunc(TorchRival):
    """`grad` of the mean over `vmap` of one task's adapted loss, with `grad` again inside.

    Batch norm is written out in plain tensor operations: `F.batch_norm` under these transforms gave
    meta-gradients 1e-3 off.
    """

    name = "torch-func"
    family = "torch.func"

    def prepare(self, problem: Problem) -> None:
        workload = problem.workload
        run = _Formulas()
        self.support, self.query = problem.tensors()
        self._named = {
            name: torch.from_numpy(p).clone().to(problem.device)
            for name, p in problem.parameters.items()
        }
        self.parameters = list(self._named.values())

        def task_loss(theta: Parameters, sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor) -> Tensor:
            phi = theta
            for _ in range(workload.inner_steps):
                gradient = torch.func.grad(loss)(phi, sx, sy)
                phi = {name: phi[name] - workload.inner_lr * gradient[name] for name in phi}
            return loss(phi, qx, qy)

        def loss(parameters: Parameters, x: Tensor, y: Tensor) -> Tensor:
            x = forward(workload.network.layers, run, parameters, x)
            return F.mse_loss(x, y) if workload.loss == "mse" else F.cross_entropy(x, y)

        def meta_loss(theta: Parameters, support: Batch, query: Batch) -> Tensor:
            batched = torch.func.vmap(task_loss, in_dims=(None, 0, 0, 0, 0))
            return batched(theta, *support, *query).mean()

        self._gradients = torch.func.grad_and_value(meta_loss)

    def add_gradients(self, support: Batch, query: Batch) -> Tensor:
        gradients, loss = self._gradients(self._named, support, query)
        for name, parameter in self._named.items():
            parameter.grad = gradients[name]
        value: Tensor = loss
        return value
