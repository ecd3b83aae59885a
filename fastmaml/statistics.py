"""Running statistics that no data has made, which a batch norm in eval mode would take for them."""

from __future__ import annotations

from weakref import WeakSet

from torch import Tensor, nn

from .notices import warn

__all__ = ["warn_of_initial_statistics"]

_warned: WeakSet[nn.Module] = WeakSet()


def warn_of_initial_statistics(where: str, model: nn.Module) -> None:
    """Say, once for a model, that a norm of it normalises by what it was made with.

    A meta-step takes the statistics of each task's rows and updates none, so that the usual
    ``model.eval()`` before a test leaves mean 0 and variance 1.
    """
    if model in _warned:
        return
    for name, module in model.named_modules():
        if module.training or not _is_initial(module):
            continue
        _warned.add(model)
        warn(
            f"{where}: norm `{name}` is in eval mode with running statistics that no data has "
            "updated (mean 0, variance 1), and fastmaml updates none; call .train() on it for the "
            "statistics of each task's own rows, or run the model in train mode on data first."
        )
        return


def _is_initial(module: nn.Module) -> bool:
    """Whether it has running statistics, all of them those that it was made with."""
    mean, var = getattr(module, "running_mean", None), getattr(module, "running_var", None)
    count = getattr(module, "num_batches_tracked", None)
    found = [tensor for tensor in (mean, var, count) if type(tensor) is Tensor]
    if len(found) < 3 or any(tensor.is_meta for tensor in found):
        return False
    return not found[2].any() and not found[0].any() and bool((found[1] == 1).all())
