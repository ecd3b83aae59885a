"""JAX: `jit` of `value_and_grad` of the meta-loss, in every form its users write.

Tasks are batched by `vmap`, run one after another by `lax.map`, or unrolled by a Python loop under
`jit`; the inner steps are unrolled or a `lax.scan`; convolutions are JAX's own or products over
patches (the forms named `-im2col`). All forms are checked and screened; the table reports the
fastest.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np

from benchmarks.networks import Operations, forward
from benchmarks.rivals.base import Outcome, Rival, UnavailableError, flatten
from benchmarks.rivals.jax_networks import (
    Direct,
    Im2col,
    import_jax,
    rows_to_jax,
    to_jax,
    to_torch,
)
from benchmarks.workloads import Problem, Workload

Parameters = dict[str, Any]


def x64(wanted: bool) -> Any:
    """A context that allows 64-bit types or not, wherever this version of JAX keeps it."""
    jax = import_jax()
    enable = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    return enable(wanted)


def _precision(jax: Any, problem: Problem) -> AbstractContextManager[Any]:
    """On a device XLA would multiply float32 in TF32; here it is asked not to, as torch is."""
    return nullcontext() if problem.device == "cpu" else jax.default_matmul_precision("highest")


def network_loss(
    workload: Workload, run: Operations, parameters: Parameters, x: Any, y: Any
) -> Any:
    """Mean loss of the rows of one task.

    Args:
        workload: The row that names layers and loss.
        run: JAX's operations.
        parameters: By torch's names, in JAX's layout.
        x: [n, *row] rows.
        y: [n, O] targets: values for mse, one-hot classes for cross_entropy.

    Returns:
        A 0-dim array.
    """
    jax = import_jax()
    jnp = jax.numpy
    x = forward(workload.network.layers, run, parameters, x)
    if workload.loss == "mse":
        return jnp.mean((x - y) ** 2)
    return -jnp.mean(jnp.sum(jax.nn.log_softmax(x) * y, axis=-1))


class JaxForm(Rival):
    """One form; the subclasses set how tasks and inner steps are spread, and the operations."""

    family = "JAX"
    tasks_by: ClassVar[str]
    scan_steps: ClassVar[bool] = False
    operations: ClassVar[type[Direct]] = Direct

    def configure(self, problem: Problem) -> None:
        """Take a problem without compiling anything; `program` is then the form's.

        Raises:
            UnavailableError: The library is missing or this form cannot take this problem.
        """
        jax = import_jax()
        self._problem = problem
        if problem.device != "cpu" and jax.default_backend() != "gpu":
            raise UnavailableError("jax has no CUDA device here")
        if self.scan_steps and problem.workload.inner_steps < 2:
            raise UnavailableError("one inner step: the same as the unrolled form")
        if self.operations is Im2col and not problem.workload.network.is_convolutional:
            raise UnavailableError("no convolution: the same as the form without patches")
        self._run = self.operations()

    def prepare(self, problem: Problem) -> None:
        self.configure(problem)
        jax = import_jax()
        # Only while the arrays are made and the program is compiled: dtypes are then fixed.
        with x64(problem.dtype == "float64"), _precision(jax, problem):
            theta = {name: jax.numpy.asarray(to_jax(p)) for name, p in problem.parameters.items()}
            data = tuple(jax.numpy.asarray(part) for part in self._dense_data())
            self._arguments = self._place(theta, data)
            self._compiled = jax.jit(self.program()).lower(*self._arguments).compile()
        self._wait = jax.block_until_ready

    def _place(self, theta: Parameters, data: tuple[Any, ...]) -> tuple[Any, ...]:
        """The program's arguments, where it wants them."""
        return (theta, *data)

    def program(self) -> Any:
        """The function to compile: (loss, gradients) of parameters and data."""
        return import_jax().value_and_grad(self._meta_loss)

    def _dense_data(self) -> tuple[Any, Any, Any, Any]:
        (sx, sy), (qx, qy) = self._problem.support, self._problem.query
        if self._problem.workload.loss == "cross_entropy":
            # One-hot targets: picking by index differentiates to a scatter, which XLA runs slowly
            # on CPUs.
            one_hot = np.eye(self._problem.workload.network.outputs, dtype=self._problem.dtype)
            sy, qy = one_hot[sy], one_hot[qy]
        return rows_to_jax(sx), sy, rows_to_jax(qx), qy

    def _task_loss(self, theta: Parameters, sx: Any, sy: Any, qx: Any, qy: Any) -> Any:
        jax = import_jax()
        workload = self._problem.workload

        def inner(phi: Parameters, _: Any) -> tuple[Parameters, None]:
            gradient = jax.grad(lambda p: network_loss(workload, self._run, p, sx, sy))(phi)
            return {name: phi[name] - workload.inner_lr * gradient[name] for name in phi}, None

        phi = theta
        if self.scan_steps:
            phi, _ = jax.lax.scan(inner, phi, None, length=workload.inner_steps)
        else:
            for _ in range(workload.inner_steps):
                phi, _ = inner(phi, None)
        return network_loss(workload, self._run, phi, qx, qy)

    def _meta_loss(self, theta: Parameters, *data: Any) -> Any:
        jax = import_jax()
        if self.tasks_by == "vmap":
            losses = jax.vmap(self._task_loss, in_axes=(None, 0, 0, 0, 0))(theta, *data)
        elif self.tasks_by == "map":
            losses = jax.lax.map(lambda task: self._task_loss(theta, *task), data)
        else:
            tasks = range(self._problem.workload.tasks)
            losses = jax.numpy.stack(
                [self._task_loss(theta, *(part[task] for part in data)) for task in tasks]
            )
        return losses.mean()

    def step(self) -> Any:
        return self._wait(self._compiled(*self._arguments))

    def read(self, result: Any) -> Outcome:
        loss, gradients = result
        return Outcome(
            float(loss),
            flatten([to_torch(np.asarray(gradients[name])) for name in self._problem.parameters]),
        )


class JaxVmap(JaxForm):
    """Tasks by `vmap`, inner steps unrolled."""

    name = "jax-vmap"
    tasks_by = "vmap"


class JaxVmapScan(JaxForm):
    """Tasks by `vmap`, inner steps by `lax.scan`."""

    name = "jax-vmap-scan"
    tasks_by = "vmap"
    scan_steps = True


class JaxMap(JaxForm):
    """Tasks by `lax.map`, inner steps unrolled."""

    name = "jax-map"
    tasks_by = "map"


class JaxMapScan(JaxForm):
    """Tasks by `lax.map`, inner steps by `lax.scan`."""

    name = "jax-map-scan"
    tasks_by = "map"
    scan_steps = True


class JaxLoop(JaxForm):
    """Tasks and inner steps unrolled."""

    name = "jax-loop"
    tasks_by = "loop"


class JaxLoopScan(JaxForm):
    """Tasks unrolled, inner steps by `lax.scan`."""

    name = "jax-loop-scan"
    tasks_by = "loop"
    scan_steps = True


def _im2col(form: type[JaxForm]) -> type[JaxForm]:
    """The form with convolutions over patches."""
    members = {"__doc__": form.__doc__, "name": f"{form.name}-im2col", "operations": Im2col}
    return type(f"{form.__name__}Im2col", (form,), members)


DIRECT_FORMS: tuple[type[JaxForm], ...] = (
    JaxVmap,
    JaxVmapScan,
    JaxMap,
    JaxMapScan,
    JaxLoop,
    JaxLoopScan,
)
IM2COL_FORMS = tuple(_im2col(form) for form in DIRECT_FORMS)
