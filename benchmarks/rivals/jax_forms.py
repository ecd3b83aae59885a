"""JAX: `jit` of `value_and_grad` of the meta-loss, in every form its users write.

Tasks are batched by `vmap`, run one after another by `lax.map`, or unrolled by a Python loop under
`jit`; the inner steps are unrolled or a `lax.scan`. Weights lie [I, O], the layout of JAX's own
libraries. All forms are checked and screened; the table reports the fastest.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from benchmarks.rivals.base import Outcome, Rival, UnavailableError, flatten
from benchmarks.workloads import Problem, Workload

Parameters = dict[str, Any]


def import_jax() -> Any:
    """The module.

    Raises:
        UnavailableError: It is not installed.
    """
    try:
        import jax
    except ImportError as error:
        raise UnavailableError("jax is not installed") from error
    return jax


def _x64(jax: Any) -> Any:
    """The context manager that allows 64-bit types, wherever this version of JAX keeps it."""
    return jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64


def network_loss(workload: Workload, parameters: Parameters, x: Any, y: Any) -> Any:
    """Mean loss of the rows of one task.

    Args:
        workload: The row that names layers and loss.
        parameters: By torch's names, linear weights transposed to [I, O].
        x: [n, I] rows.
        y: [n, O] targets: values for mse, one-hot classes for cross_entropy.

    Returns:
        A 0-dim array.
    """
    jax = import_jax()
    jnp = jax.numpy
    for layer in range(workload.layers):
        x = x @ parameters[f"linear{layer}.weight"]
        if workload.bias:
            x = x + parameters[f"linear{layer}.bias"]
        if layer == workload.layers - 1:
            break
        if workload.batch_norm:
            scale = parameters[f"norm{layer}.weight"] * jax.lax.rsqrt(x.var(axis=0) + 1e-5)
            x = (x - x.mean(axis=0)) * scale + parameters[f"norm{layer}.bias"]
        x = jax.nn.relu(x)
    if workload.loss == "mse":
        return jnp.mean((x - y) ** 2)
    return -jnp.mean(jnp.sum(jax.nn.log_softmax(x) * y, axis=-1))


class JaxForm(Rival):
    """One form; the subclasses set how tasks and inner steps are spread."""

    family = "JAX"
    tasks_by: ClassVar[str]
    scan_steps: ClassVar[bool] = False

    def prepare(self, problem: Problem) -> None:
        jax = import_jax()
        self._problem = problem
        if self.scan_steps and problem.workload.inner_steps < 2:
            raise UnavailableError("one inner step: the same as the unrolled form")
        # Only while the arrays are made and the program is compiled: dtypes are then fixed.
        with _x64(jax)(problem.dtype == "float64"):
            theta = {name: jax.numpy.asarray(p.T) for name, p in problem.parameters.items()}
            data = tuple(jax.numpy.asarray(part) for part in self._dense_data())
            self._arguments = self._place(theta, data)
            self._compiled = jax.jit(self._program()).lower(*self._arguments).compile()
        self._wait = jax.block_until_ready

    def _place(self, theta: Parameters, data: tuple[Any, ...]) -> tuple[Any, ...]:
        """The program's arguments, where it wants them."""
        return (theta, *data)

    def _program(self) -> Any:
        """The function to compile: (loss, gradients) of the arguments."""
        return import_jax().value_and_grad(self._meta_loss)

    def _dense_data(self) -> tuple[Any, Any, Any, Any]:
        (sx, sy), (qx, qy) = self._problem.support, self._problem.query
        if self._problem.workload.loss == "cross_entropy":
            # One-hot targets: picking by index differentiates to a scatter, which XLA runs slowly
            # on CPUs.
            one_hot = np.eye(self._problem.workload.widths[-1], dtype=self._problem.dtype)
            sy, qy = one_hot[sy], one_hot[qy]
        return sx, sy, qx, qy

    def _task_loss(self, theta: Parameters, sx: Any, sy: Any, qx: Any, qy: Any) -> Any:
        jax = import_jax()
        workload = self._problem.workload

        def inner(phi: Parameters, _: Any) -> tuple[Parameters, None]:
            gradient = jax.grad(lambda p: network_loss(workload, p, sx, sy))(phi)
            return {name: phi[name] - workload.inner_lr * gradient[name] for name in phi}, None

        phi = theta
        if self.scan_steps:
            phi, _ = jax.lax.scan(inner, phi, None, length=workload.inner_steps)
        else:
            for _ in range(workload.inner_steps):
                phi, _ = inner(phi, None)
        return network_loss(workload, phi, qx, qy)

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
            flatten([np.asarray(gradients[name]).T for name in self._problem.parameters]),
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
