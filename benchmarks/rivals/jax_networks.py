"""The networks in JAX: layouts of JAX's own libraries, and two ways to write a convolution.

Images lie [rows, height, width, channels], convolutions' weights [height, width, inputs, outputs],
linear weights [inputs, outputs].
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.networks import Conv
from benchmarks.rivals.base import UnavailableError


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


def to_jax(parameter: Any) -> Any:
    """A parameter of torch's layout in JAX's."""
    return parameter.transpose(2, 3, 1, 0) if parameter.ndim == 4 else parameter.T


def to_torch(parameter: Any) -> Any:
    """A parameter of JAX's layout in torch's."""
    return parameter.transpose(3, 2, 0, 1) if parameter.ndim == 4 else parameter.T


def rows_to_jax(x: Any) -> Any:
    """Rows [T, n, *row] with their channels last."""
    return np.moveaxis(x, 2, -1)


class Direct:
    """Operations with `lax.conv_general_dilated`."""

    def __init__(self) -> None:
        """Import JAX."""
        self._jax = import_jax()

    def linear(self, x: Any, weight: Any, bias: Any | None) -> Any:
        y = x @ weight
        return y if bias is None else y + bias

    def conv(self, layer: Conv, x: Any, weight: Any, bias: Any) -> Any:
        y = self._jax.lax.conv_general_dilated(
            x,
            weight,
            window_strides=(layer.stride, layer.stride),
            padding=((layer.padding, layer.padding),) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + bias

    def batch_norm(self, x: Any, weight: Any, bias: Any, eps: float) -> Any:
        axes = tuple(range(x.ndim - 1))
        scale = weight * self._jax.lax.rsqrt(x.var(axis=axes) + eps)
        return (x - x.mean(axis=axes)) * scale + bias

    def relu(self, x: Any, slope: float) -> Any:
        return self._jax.nn.leaky_relu(x, slope) if slope else self._jax.nn.relu(x)

    def max_pool(self, x: Any) -> Any:
        # Four slices: XLA's window reduction differentiates to a select-and-scatter, which is slow
        # on CPUs.
        maximum = self._jax.numpy.maximum
        height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
        upper, lower = x[:, 0:height:2, :width], x[:, 1:height:2, :width]
        left = maximum(upper[:, :, 0::2], lower[:, :, 0::2])
        return maximum(left, maximum(upper[:, :, 1::2], lower[:, :, 1::2]))

    def mean(self, x: Any) -> Any:
        return x.mean(axis=(1, 2))

    def flatten(self, x: Any) -> Any:
        # The order of torch's rows, so that the next weights are torch's; a few numbers only.
        return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


class Im2col(Direct):
    """Convolutions as one matrix product over patches, which are cut out by slices."""

    def conv(self, layer: Conv, x: Any, weight: Any, bias: Any) -> Any:
        jnp = self._jax.numpy
        pad, size, stride = layer.padding, layer.size, layer.stride
        height, width = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
        x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        taps = [
            x[
                :,
                down : down + (height - 1) * stride + 1 : stride,
                across : across + (width - 1) * stride + 1 : stride,
            ]
            for down in range(size)
            for across in range(size)
        ]
        patches = jnp.concatenate(taps, axis=-1)
        return patches @ weight.reshape(-1, weight.shape[-1]) + bias
