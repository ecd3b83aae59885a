"""The paper's networks as ordinary modules, with the paper's initialisation.

Weights are normal with standard deviation 0.01, cut at two deviations, and biases 0, as in the
authors' code. Batch norm keeps no running statistics: every pass, in training and in evaluation,
uses the statistics of its own rows (support and query apart), with epsilon 1e-3.
"""

from __future__ import annotations

from itertools import pairwise

from torch import nn

WEIGHT_STD = 0.01
BATCH_NORM_EPS = 1e-3


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.trunc_normal_(layer.weight, std=WEIGHT_STD, a=-2 * WEIGHT_STD, b=2 * WEIGHT_STD)
    nn.init.zeros_(layer.bias)
    return layer


def sinusoid_mlp() -> nn.Sequential:
    """The sinusoid regression network, 1-40-40-1 with ReLU.

    Returns:
        A module from [rows, 1] to [rows, 1], float32, drawn from torch's global generator.

    Source: Finn, Abbeel, Levine 2017, section 5.1.

    Example:
        >>> from fastmaml.models import sinusoid_mlp
        >>> sum(p.numel() for p in sinusoid_mlp().parameters())
        1761
    """
    return nn.Sequential(_linear(1, 40), nn.ReLU(), _linear(40, 40), nn.ReLU(), _linear(40, 1))


def omniglot_mlp(ways: int) -> nn.Sequential:
    """The Omniglot network without convolutions, 784-256-128-64-64-N with batch norm and ReLU.

    Unlike the authors' batch norm, `torch.nn.BatchNorm1d` has a scale beside its shift, and both
    are parameters like any other: adapted in the inner loop and meta-trained.

    Args:
        ways: N, the number of classes per task.

    Returns:
        A module from [rows, 784] to [rows, N], float32, drawn from torch's global generator.

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
            _linear(inputs, outputs),
            nn.BatchNorm1d(outputs, eps=BATCH_NORM_EPS, track_running_stats=False),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, _linear(sizes[-1], ways))
