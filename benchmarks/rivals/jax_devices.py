"""JAX with the tasks spread over host devices: every core maps over its own share of the tasks.

`lax.map` on one device keeps one core busy when the matrices are small. JAX sees more than one host
device only when its process was started so, which changes how its other forms run; hence this form
takes part only after `export XLA_FLAGS=--xla_force_host_platform_device_count=2`.
"""

from __future__ import annotations

from typing import Any

from benchmarks.rivals.base import UnavailableError
from benchmarks.rivals.jax_forms import JaxForm, Parameters
from benchmarks.rivals.jax_networks import import_jax
from benchmarks.workloads import Problem


class JaxMapDevices(JaxForm):
    """`lax.map` over each device's tasks under `shard_map`, gradients averaged over devices."""

    name = "jax-map-devices"
    tasks_by = "map"

    def prepare(self, problem: Problem) -> None:
        jax = import_jax()
        devices = jax.local_device_count()
        if not hasattr(jax, "shard_map") or devices < 2 or problem.workload.tasks % devices:
            raise UnavailableError(f"needs 2 devices that divide the tasks, JAX sees {devices}")
        super().prepare(problem)

    def _place(self, theta: Parameters, data: tuple[Any, ...]) -> tuple[Any, ...]:
        jax = import_jax()
        self._mesh = jax.sharding.Mesh(jax.local_devices(), ("tasks",))
        everywhere, spread = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("tasks")
        self._specs = everywhere, spread
        placed = [jax.device_put(theta, jax.sharding.NamedSharding(self._mesh, everywhere))]
        placed += [jax.device_put(d, jax.sharding.NamedSharding(self._mesh, spread)) for d in data]
        return tuple(placed)

    def program(self) -> Any:
        jax = import_jax()
        everywhere, spread = self._specs

        def share(theta: Parameters, *data: Any) -> Any:
            # Without this mark shard_map would sum the gradients of the devices by itself.
            own = jax.tree.map(lambda p: jax.lax.pcast(p, ("tasks",), to="varying"), theta)
            result = jax.value_and_grad(self._meta_loss)(own, *data)
            return jax.tree.map(lambda p: jax.lax.pmean(p, "tasks"), result)

        return jax.shard_map(
            share, mesh=self._mesh, in_specs=(everywhere, *(spread,) * 4), out_specs=everywhere
        )
