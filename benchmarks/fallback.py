"""What PyTorch's half of the calls costs beside the loop that one would write by hand.

Where the engine cannot take a model, a call runs in PyTorch; here it is told to
(``backend="reference"``), for many kinds of networks and settings. It should be no slower than the
plain loop, and no larger. Gradients are compared in float64 before anything is timed; then the two
take turns. Memory is the peak of what torch allocates during a call, which its profiler counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.profiler import profile
from torch.nn.attention import SDPBackend, sdpa_kernel

import fastmaml
from benchmarks.check import FLOAT64_LIMIT, RefusedError
from benchmarks.timing import Spread, interleave, screen

RATE = 0.05
SUPPORT, QUERY = 5, 10  # rows
CLASSES = 5

Pair = tuple[Tensor, Tensor]
Step = Callable[[], object]


class Case(NamedTuple):
    """One meta-step."""

    network: str
    tasks: int
    inner_steps: int
    first_order: bool

    def __str__(self) -> str:
        """The case as the head of a line."""
        order = "first" if self.first_order else "second"
        return f"{self.network:12}{self.tasks:3} tasks {self.inner_steps} steps {order:6}"


class Costs(NamedTuple):
    """What a case takes: the plain loop's seconds and bytes, and ours over them.

    Attributes:
        seconds: The plain loop's, median of the rounds.
        bytes: The plain loop's peak.
        ratio: Our seconds over the plain loop's, of the same round.
        first: Our first call's peak over the plain loop's.
        later: The same of later calls.
    """

    seconds: float
    bytes: int
    ratio: Spread
    first: float
    later: float


class _Recurrent(nn.Module):
    """An LSTM cell over a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(8, 32), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for token in x.unbind(1):
            state = self.cell(token, state)
        assert state is not None
        return self.head(state[0])  # type: ignore[no-any-return]


class _Attention(nn.Module):
    """A block of a transformer, and its mean over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(32), nn.MultiheadAttention(32, 4, batch_first=True)
        self.wide, self.narrow = nn.Linear(32, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.narrow(F.gelu(self.wide(x)))
        return self.head(x.mean(1))  # type: ignore[no-any-return]


def _perceptron(*widths: int, middle: Callable[[], nn.Module] = nn.Tanh) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), middle()]
    return nn.Sequential(*layers[:-1])


def _conv4(channels: int, inputs: int, pool: bool) -> nn.Module:
    layers: list[nn.Module] = []
    for i in range(4):
        stride = 1 if pool else 2
        layers += [nn.Conv2d(channels if i else inputs, channels, 3, stride, 1)]
        layers += [nn.BatchNorm2d(channels), nn.ReLU()] + [nn.MaxPool2d(2)] * pool
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(CLASSES))


def _dropout() -> nn.Module:
    middle = partial(nn.Sequential, nn.ReLU(), nn.Dropout(0.5))
    return _perceptron(64, 128, 128, CLASSES, middle=middle).eval()


# A network, and the shape of one of its rows.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "sinusoid": (partial(_perceptron, 1, 40, 40, CLASSES), (1,)),
    "mlp": (partial(_perceptron, 784, 256, 64, CLASSES), (784,)),
    "wide": (partial(_perceptron, 512, 1024, 1024, CLASSES), (512,)),
    "dropout": (_dropout, (64,)),
    "lstm": (_Recurrent, (8, 8)),
    "attention": (_Attention, (16, 32)),
    "conv4": (partial(_conv4, 32, 1, False), (1, 28, 28)),
    "conv4-pool": (partial(_conv4, 32, 3, True), (3, 42, 42)),
}


def cases(networks: Sequence[str], tasks: Sequence[int]) -> list[Case]:
    """The grid: one and five inner steps, both orders."""
    return [Case(*each) for each in itertools.product(networks, tasks, (1, 5), (False, True))]


class Contest:
    """The two ways of one case, ready to be called."""

    def __init__(self, case: Case, dtype: torch.dtype = torch.float32) -> None:
        """Make the model and the data; they are the same for every dtype."""
        torch.manual_seed(0)
        make, row = NETWORKS[case.network]
        self.case, self.model = case, make()
        self.model(torch.randn(2, *row))  # layers that find their sizes now
        self.model.to(dtype)
        self.support, self.query = (self._rows(rows, row, dtype) for rows in (SUPPORT, QUERY))
        self.parameters = list(self.model.parameters())

    def _rows(self, rows: int, row: tuple[int, ...], dtype: torch.dtype) -> Pair:
        x = torch.randn(self.case.tasks, rows, *row)
        return x.to(dtype), torch.randint(CLASSES, (self.case.tasks, rows))

    def ours(self) -> None:
        """One call."""
        self.clear()
        fastmaml.meta_step(
            self.model,
            self.support,
            self.query,
            inner_lr=RATE,
            inner_steps=self.case.inner_steps,
            first_order=self.case.first_order,
            backend="reference",
        )

    def plain(self) -> None:
        """The loop, with a task's graph at a time."""
        self.clear()
        with sdpa_kernel(SDPBackend.MATH):  # the other kernels cannot be derived twice
            self._loop()

    def _loop(self) -> None:
        theta = dict(self.model.named_parameters())
        for t in range(self.case.tasks):
            fast = theta
            for _ in range(self.case.inner_steps):
                loss = self._loss(fast, self.support, t)
                grads = torch.autograd.grad(
                    loss, list(fast.values()), create_graph=not self.case.first_order
                )
                fast = {
                    name: p - RATE * g for (name, p), g in zip(fast.items(), grads, strict=True)
                }
            loss = self._loss(fast, self.query, t) / self.case.tasks
            loss.backward()  # type: ignore[no-untyped-call]

    def _loss(self, fast: dict[str, Tensor], data: Pair, t: int) -> Tensor:
        return F.cross_entropy(
            torch.func.functional_call(self.model, fast, (data[0][t],)), data[1][t]
        )

    def clear(self) -> None:
        """Drop the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def gradient(self, step: Step) -> Tensor:
        """The meta-gradient of a way, as one vector."""
        step()
        return torch.cat([p.grad.flatten() for p in self.parameters if p.grad is not None])


def check(case: Case) -> float:
    """The larger relative error of two of our calls in float64.

    Raises:
        RefusedError: It is beyond the limit.
    """
    contest = Contest(case, torch.float64)
    truth = contest.gradient(contest.plain)
    found = [contest.gradient(contest.ours) for _ in range(2)]
    error = max(float((ours - truth).norm() / truth.norm()) for ours in found)
    if not error <= FLOAT64_LIMIT:
        raise RefusedError(f"{case}: the meta-gradient is {error:.1e} off in float64")
    return error


def peak_bytes(contest: Contest, step: Step) -> int:
    """The most that torch allocates at a time during a step, beyond what there was before."""
    contest.clear()  # what is freed meanwhile would count
    with profile(profile_memory=True) as profiled:
        step()
    events: Any = profiled.kineto_results
    made = [event for event in events.events() if event.name() == "[memory]"]
    made.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate((event.nbytes() for event in made), initial=0))


def run(case: Case, rounds: int) -> Costs:
    """Check a case, measure its memory, and time it.

    Args:
        case: The case.
        rounds: Visits of each way.

    Raises:
        RefusedError: A meta-gradient is wrong.
    """
    check(case)
    contest = Contest(case)
    contest.plain()  # what libraries allocate for good
    plain, first, later = (
        peak_bytes(contest, step) for step in (contest.plain, contest.ours, contest.ours)
    )
    steps: dict[str, Step] = {"plain": contest.plain, "ours": contest.ours}
    times = interleave(steps, screen(steps), rounds)
    ratios = [ours / theirs for ours, theirs in zip(times["ours"], times["plain"], strict=True)]
    seconds = Spread.of(times["plain"]).median
    return Costs(seconds, plain, Spread.of(ratios), first / plain, later / plain)


def render(case: Case, costs: Costs) -> str:
    """A case's line of the table that `HEAD` heads."""
    ratio = costs.ratio
    return (
        f"{case}{costs.seconds * 1e3:11.2f}{costs.bytes / 2**20:8.2f}"
        f"{ratio.median:9.2f} ({ratio.lower:.2f} to {ratio.upper:.2f})"
        f"{costs.first:10.2f}{costs.later:8.2f}"
    )


HEAD = f"{'':37}loop, ms     MiB     time, ours over it     first   later call's memory over it"
