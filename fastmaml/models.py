"""The paper's networks as ordinary modules.

Two initialisations. "paper" is the authors' code: weights normal with standard deviation 0.01, cut
at two deviations, and biases 0. "torch" is torch's default. Before batch norm the scale of the
weights hardly matters; in the sinusoid network, which has none, "paper" starts slowly and leaves
more tasks whose inner loop diverges within ten steps.

Batch norm keeps no running statistics: every pass, in training and in evaluation, uses the
statistics of its own rows (support and query apart), with epsilon 1e-3.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from torch import nn

from fastmaml.errors import SettingError

Init = Literal["paper", "torch"]

WEIGHT_STD = 0.01
BATCH_NORM_EPS = 1e-3


def _linear(inputs: int, outputs: int, init: Init) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    if init == "torch":
        return layer
    if init != "paper":
        raise SettingError(f'models: init must be "paper" or "torch", got {init!r}; choose one.')
    nn.init.trunc_normal_(layer.weight, std=WEIGHT_STD, a=-2 * WEIGHT_STD, b=2 * WEIGHT_STD)
    nn.init.zeros_(layer.bias)
    return layer


def sinusoid_mlp(init: Init = "torch") -> nn.Sequential:
    """The sinusoid regression network, 1-40-40-1 with ReLU.

    Args:
        init: "torch" or "paper", see above.

    Returns:
        A module from [rows, 1] to [rows, 1], float32, drawn from torch's global generator.

    Raises:
        SettingError: another `init`.

    Source: Finn, Abbeel, Levine 2017, section 5.1.

    Example:
        >>> from fastmaml.models import sinusoid_mlp
        >>> sum(p.numel() for p in sinusoid_mlp().parameters())
        1761
    """
    return nn.Sequential(
        _linear(1, 40, init), nn.ReLU(), _linear(40, 40, init), nn.ReLU(), _linear(40, 1, init)
    )


def omniglot_mlp(ways: int, init: Init = "paper") -> nn.Sequential:
    """The Omniglot network without convolutions, 784-256-128-64-64-N with batch norm and ReLU.

    Unlike the authors' batch norm, `torch.nn.BatchNorm1d` has a scale beside its shift, and both
    are parameters like any other: adapted in the inner loop and meta-trained.

    Args:
        ways: N, the number of classes per task.
        init: "torch" or "paper", see above.

    Returns:
        A module from [rows, 784] to [rows, N], float32, drawn from torch's global generator.

    Raises:
        SettingError: another `init`.

    Source: Finn, Abbeel, Levine 2017, section 5.2.

    Example:
        >>> from fastmaml.models import omniglot_mlp
        >>> omniglot_mlp(5)[-1].out_features
        5
    """
    sizes = (784, 256, 128, 64, 64)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [
            _linear(inputs, outputs, init),
            nn.BatchNorm1d(outputs, eps=BATCH_NORM_EPS, track_running_stats=False),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, _linear(sizes[-1], ways, init))
