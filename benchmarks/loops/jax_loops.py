"""JAX's loop: drawing, meta-gradient and Adam in one `jit`, a step or a scan of steps per call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.loops.base import Loop, State, Tasks
from benchmarks.loops.drawing import images, turned
from benchmarks.loops.workloads import META_LR, SEED, LoopWorkload
from benchmarks.rivals.base import flatten
from benchmarks.rivals.jax_forms import JaxForm, x64
from benchmarks.rivals.jax_networks import import_jax, to_jax, to_torch
from benchmarks.workloads import make_problem

# Adam's other settings, torch's defaults.
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8

# (key, rows of the image set) -> support x, y and query x, y as `JaxForm.program` takes them.
Draw = Callable[[Any, Any], tuple[Any, Any, Any, Any]]


class JaxLoop(Loop):
    """The whole training step compiled, its state given away and taken back by every call."""

    def __init__(self, form: type[JaxForm], *, scan: bool = False) -> None:
        """Say which form computes the meta-gradient.

        Args:
            form: Of the rivals' forms.
            scan: Whether a call is a `lax.scan` over many steps.
        """
        self._form = form
        self._scan = scan

    def prepare(self, loop: LoopWorkload, dtype: str) -> None:
        jax = import_jax()
        problem = make_problem(loop.workload, dtype)
        form = self._form()
        form.configure(problem)
        self.grain = loop.scan if self._scan else 1
        self._names = list(problem.parameters)
        self._classes = loop.workload.loss == "cross_entropy"
        with x64(dtype == "float64"):
            theta = {n: jax.numpy.asarray(to_jax(p)) for n, p in problem.parameters.items()}
            self._rows = jax.numpy.asarray(_rows(loop))
            draw = _sinusoids(loop, dtype) if loop.workload.loss == "mse" else _images(loop, dtype)
            self._state = {
                "theta": theta,
                "first": jax.tree.map(jax.numpy.zeros_like, theta),
                "second": jax.tree.map(jax.numpy.zeros_like, theta),
                "count": jax.numpy.zeros((), dtype),
                "key": jax.random.key(SEED),
            }
            program = _train(_step(form.program(), draw), self.grain if self._scan else None)
            self._train = (
                jax.jit(program, donate_argnums=0).lower(self._state, self._rows).compile()
            )
            self._draw = jax.jit(draw).lower(self._state["key"], self._rows).compile()

    def run(self, steps: int) -> None:
        for _ in range(steps // self.grain):
            self._state, self._losses = self._train(self._state, self._rows)
        import_jax().block_until_ready(self._state)

    def coming(self) -> Tasks:
        _, drawing = import_jax().random.split(self._state["key"])
        drawn = [np.asarray(part) for part in self._draw(drawing, self._rows)]
        return _to_tasks(drawn, classes=self._classes)

    def state(self) -> State:
        parts = [self._state[part] for part in ("theta", "first", "second")]
        return State(
            *(flatten([to_torch(np.asarray(part[n])) for n in self._names]) for part in parts)
        )


def _step(gradients: Any, draw: Draw) -> Any:
    """One training step, from (state, rows) to (state, loss)."""
    jax = import_jax()

    def step(state: dict[str, Any], rows: Any) -> tuple[dict[str, Any], Any]:
        key, drawing = jax.random.split(state["key"])
        loss, g = gradients(state["theta"], *draw(drawing, rows))
        count = state["count"] + 1
        first = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, state["first"], g)
        second = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, state["second"], g)
        rate, root = META_LR / (1 - BETA1**count), jax.numpy.sqrt(1 - BETA2**count)
        theta = jax.tree.map(
            lambda p, m, v: p - rate * m / (jax.numpy.sqrt(v) / root + EPS),
            state["theta"],
            first,
            second,
        )
        new = {"theta": theta, "first": first, "second": second, "count": count, "key": key}
        return new, loss

    return step


def _train(step: Any, length: int | None) -> Any:
    """The function to compile: `step`, or a scan over so many."""
    if length is None:
        return step

    def steps(state: dict[str, Any], rows: Any) -> tuple[dict[str, Any], Any]:
        return import_jax().lax.scan(lambda s, _: step(s, rows), state, None, length=length)

    return steps


def _rows(loop: LoopWorkload) -> Any:
    """The image set as the rows that `_images` picks; regression has none."""
    if loop.workload.loss == "mse":
        return np.zeros((1, 1), np.uint8)
    rows = turned(images(loop))
    flat = not loop.workload.network.is_convolutional
    return rows.reshape(len(rows), -1) if flat else rows[..., None]


def _sinusoids(loop: LoopWorkload, dtype: str) -> Draw:
    """The README's draw."""
    jax = import_jax()
    tasks, shots = loop.workload.tasks, loop.workload.support_rows
    points = shots + loop.workload.query_rows

    def draw(key: Any, rows: Any) -> tuple[Any, Any, Any, Any]:
        keys = jax.random.split(key, 3)
        x = jax.random.uniform(keys[0], (tasks, points, 1), dtype, -5, 5)
        amplitude = jax.random.uniform(keys[1], (tasks, 1, 1), dtype, 0.1, 5)
        phase = jax.random.uniform(keys[2], (tasks, 1, 1), dtype, 0, np.pi)
        y = amplitude * jax.numpy.sin(x - phase)
        return x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:]

    return draw


def _images(loop: LoopWorkload, dtype: str) -> Draw:
    """The rule of `fastmaml.data.OmniglotTasks`: classes, a turn of each, pictures of each."""
    jax = import_jax()
    workload, drawings = loop.workload, loop.drawings
    tasks, ways = workload.tasks, workload.network.outputs
    shots, query = workload.support_rows // ways, workload.query_rows // ways
    one_hot = np.eye(ways, dtype=dtype)
    sy = np.broadcast_to(np.tile(one_hot, (shots, 1)), (tasks, shots * ways, ways))
    qy = np.broadcast_to(np.tile(one_hot, (query, 1)), (tasks, query * ways, ways))

    def draw(key: Any, rows: Any) -> tuple[Any, Any, Any, Any]:
        keys = jax.random.split(key, 3)
        picked = _distinct(keys[0], tasks, loop.classes, ways)
        turn = jax.random.randint(keys[1], (tasks, ways), 0, 4)
        picture = _distinct(keys[2], tasks * ways, drawings, shots + query)
        place = (picked + turn * loop.classes)[..., None] * drawings
        place = (place + picture.reshape(tasks, ways, -1)).transpose(0, 2, 1).reshape(tasks, -1)
        x = rows.at[place].get(mode="promise_in_bounds").astype(dtype)
        return (
            x[:, : shots * ways],
            jax.numpy.asarray(sy),
            x[:, shots * ways :],
            jax.numpy.asarray(qy),
        )

    return draw


def _distinct(key: Any, rows: int, members: int, draws: int) -> Any:
    """The rule of `fastmaml.data.distinct`: rare repeats are drawn again."""
    jax = import_jax()
    if draws * draws > members:
        order = jax.random.uniform(key, (rows, members)).argsort(axis=1)
        return order[:, :draws]

    def pick(key: Any) -> Any:
        return jax.random.randint(key, (rows, draws), 0, members)

    def repeated(picks: Any) -> Any:
        ordered = jax.numpy.sort(picks, axis=1)
        return (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)

    def again(carried: tuple[Any, Any]) -> tuple[Any, Any]:
        key, picks = carried
        key, fresh = jax.random.split(key)
        return key, jax.numpy.where(repeated(picks)[:, None], pick(fresh), picks)

    key, first = jax.random.split(key)
    return jax.lax.while_loop(lambda c: repeated(c[1]).any(), again, (key, pick(first)))[1]


def _to_tasks(drawn: list[Any], *, classes: bool) -> Tasks:
    """Drawn tasks in torch's layout, classes as indices."""
    sx, sy, qx, qy = drawn
    if classes:
        sy, qy = sy.argmax(-1), qy.argmax(-1)
    return (np.moveaxis(sx, -1, 2), sy), (np.moveaxis(qx, -1, 2), qy)
