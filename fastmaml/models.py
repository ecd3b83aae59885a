"""The paper's networks as ordinary modules.

Two initialisations. "paper" is the authors' code: weights normal with standard deviation 0.01, cut
at two deviations, and biases 0. "torch" is torch's default. Before batch norm the scale of the
weights hardly matters; in the sinusoid network, which has none, "paper" starts slowly and leaves
more tasks whose inner loop diverges within ten steps.

Batch norm keeps no running statistics: every pass, in training and in evaluation, uses the
statistics of its own rows (support and query apart), with epsilon 1e-3.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

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


def _conv(inputs: int, outputs: int, init: Init, *, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
    if init == "torch":
        return layer
    if init != "paper":
        raise SettingError(f'models: init must be "paper" or "torch", got {init!r}; choose one.')
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _batch_norm2d(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS, track_running_stats=False)


def omniglot_conv(ways: int, channels: int = 64, init: Init = "paper") -> nn.Sequential:
    """The Omniglot network: 4 x [3x3 convolution of stride 2, batch norm, ReLU], mean, linear.

    "paper" draws the convolutions as Xavier does and the last layer's weights from a normal
    distribution of standard deviation 1. The authors pad 28 x 28 images after their last pixel
    only; here one pixel lies on both sides, as common in PyTorch.

    Args:
        ways: N, the number of classes per task.
        channels: Of each convolution; 64 in the paper.
        init: "torch" or "paper", see above.

    Returns:
        A module from [rows, 1, 28, 28] to [rows, N], float32, drawn from torch's global generator.

    Raises:
        SettingError: another `init`.

    Source: Finn, Abbeel, Levine 2017, section 5.2.

    Example:
        >>> from fastmaml.models import omniglot_conv
        >>> omniglot_conv(20)[-1].weight.shape
        torch.Size([20, 64])
    """
    layers: list[nn.Module] = []
    for inputs in (1, channels, channels, channels):
        layers += [_conv(inputs, channels, init, stride=2), _batch_norm2d(channels), nn.ReLU()]
    last = nn.Linear(channels, ways)
    if init == "paper":
        nn.init.normal_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)


def conv4(ways: int, channels: int = 32, image: int = 84, init: Init = "paper") -> nn.Sequential:
    """The miniImageNet network: 4 x [3x3 convolution, batch norm, ReLU, 2x2 max-pool], linear.

    Args:
        ways: N, the number of classes per task.
        channels: Of each convolution; 32 in the paper, 64 in many later ones.
        image: Height and width of the images, at least 16.
        init: "torch" or "paper": Xavier convolutions and biases 0.

    Returns:
        A module from [rows, 3, image, image] to [rows, N], float32, drawn from torch's global
        generator.

    Raises:
        SettingError: another `init`, or an image too small for four halvings.

    Source: Finn, Abbeel, Levine 2017, section 5.2, after Vinyals et al. 2016.

    Example:
        >>> from fastmaml.models import conv4
        >>> conv4(5)[-1].in_features
        800
    """
    if image < 16:
        raise SettingError(f"conv4: image must be at least 16, got {image}; use larger images.")
    layers: list[nn.Module] = []
    for inputs in (3, channels, channels, channels):
        layers += [
            _conv(inputs, channels, init),
            _batch_norm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    features = channels * (image // 16) ** 2
    return nn.Sequential(*layers, nn.Flatten(), _linear(features, ways, init))


class ResidualBlock(nn.Module):
    """Three 3x3 convolutions beside a 1x1 shortcut, then a 2x2 max-pool: a block of ResNet-12.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output, of half the height and width.
        init: "torch" or "paper".
    """

    def __init__(self, inputs: int, outputs: int, init: Init = "paper") -> None:
        """Draw the weights."""
        super().__init__()
        layers: list[nn.Module] = []
        for i, width in enumerate((inputs, outputs, outputs)):
            layers += [_conv(width, outputs, init), _batch_norm2d(outputs)]
            if i < 2:
                layers.append(nn.LeakyReLU(0.1))
        self.main = nn.Sequential(*layers)
        self.shortcut = nn.Sequential(
            _conv(inputs, outputs, init, kernel=1), _batch_norm2d(outputs)
        )
        self.after = nn.Sequential(nn.LeakyReLU(0.1), nn.MaxPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        """[rows, inputs, H, W] to [rows, outputs, H // 2, W // 2]."""
        out: Tensor = self.after(self.main(x) + self.shortcut(x))
        return out


def resnet12(
    ways: int, channels: Sequence[int] = (64, 160, 320, 640), init: Init = "paper"
) -> nn.Sequential:
    """ResNet-12 as few-shot papers train it: four residual blocks, mean over space, linear.

    Args:
        ways: N, the number of classes per task.
        channels: Of the four blocks.
        init: "torch" or "paper": Xavier convolutions and biases 0.

    Returns:
        A module from [rows, 3, H, W], H and W at least 16, to [rows, N], float32, drawn from
        torch's global generator.

    Raises:
        SettingError: another `init`.

    Source: the widths of Lee et al., Meta-Learning with Differentiable Convex Optimization, 2019,
    without their DropBlock.

    Example:
        >>> from fastmaml.models import resnet12
        >>> resnet12(5, channels=(8, 8, 8, 16))[-1].in_features
        16
    """
    blocks = [ResidualBlock(i, o, init) for i, o in pairwise((3, *channels))]
    return nn.Sequential(
        *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), _linear(channels[-1], ways, init)
    )
