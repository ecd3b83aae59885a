"""What a call will do, and the memory it will take, without running it."""

from __future__ import annotations

import torch
from torch import nn

from fastmaml.errors import BackendError, UnsupportedModelError
from fastmaml.losses import LossArgument
from fastmaml.settings import Options, Precision, Recompute, check_options
from fastmaml.tasks import Pair

from .prepared import prepare

__all__ = ["describe", "workspace_bytes"]


def describe(
    model: nn.Module,
    support: Pair,
    query: Pair,
    *,
    loss: LossArgument = "cross_entropy",
    inner_lr: float | torch.Tensor = 0.4,
    inner_steps: int = 1,
    first_order: bool = False,
    recompute: Recompute = "auto",
    max_workspace_bytes: int | None = None,
    precision: Precision = "float32",
) -> str:
    """The plan of a call as text, without running it.

    Arguments and errors are those of `fastmaml.meta_step`.

    Returns:
        Threads and lanes, rounds and groups of tasks, bytes of workspace and program, FLOPs,
        whether activations are kept, how each wide weight is, the precision where it is tf32, and
        the instructions; or the reason why the call runs in PyTorch. On a CUDA device also the
        executor (one resident kernel, or a graph of launches and why it is not the former), the
        launches, and the bytes of the plan's tables.

    >>> data = torch.ones(3, 4, 2), torch.zeros(3, 4, 1)
    >>> print(describe(nn.Linear(2, 1), data, data, loss="mse").splitlines()[0])
    backend fused
    """
    where = "describe"
    options: Options = {
        "loss": loss,
        "inner_lr": inner_lr,
        "inner_steps": inner_steps,
        "first_order": first_order,
        "recompute": recompute,
        "max_workspace_bytes": max_workspace_bytes,
        "precision": precision,
        "backend": "fused",
    }
    settings = check_options(where, options)
    try:
        call = prepare(where, model, support, query, settings, "meta_step")
    except (UnsupportedModelError, BackendError) as error:
        # The reference runs as torch is set to.
        plain = settings._replace(precision="float32", backend="reference")
        prepare(where, model, support, query, plain, "meta_step")
        return f"backend reference\n{error}"
    assert call.fit is not None
    plan, threads, lanes = call.fit
    device = call.tasks.support_x.device
    return f"backend fused\n{plan.describe(call.tasks.tasks, threads, lanes, device).rstrip()}"


def workspace_bytes(
    model: nn.Module,
    support: Pair,
    query: Pair,
    *,
    loss: LossArgument = "cross_entropy",
    inner_lr: float | torch.Tensor = 0.4,
    inner_steps: int = 1,
    first_order: bool = False,
    recompute: Recompute = "auto",
    max_workspace_bytes: int | None = None,
    precision: Precision = "float32",
) -> int:
    """The memory that a `fastmaml.meta_step` takes beside its inputs and outputs, before the call.

    That is its workspace and its program: the instructions and maps of pixels, which grow with
    layers, inner steps and the sides of images, not with tasks. Both are kept for later calls. The
    first one takes up to as much again as its program for a moment, while it writes it.

    Arguments and errors are those of `fastmaml.meta_step` with ``backend="fused"``.

    Returns:
        Bytes, with as many threads as torch has now; of a model on a device, bytes there.

    >>> data = torch.ones(3, 4, 2), torch.zeros(3, 4, 1)
    >>> workspace_bytes(nn.Linear(2, 1), data, data, loss="mse") > 0
    True
    """
    where = "workspace_bytes"
    options: Options = {
        "loss": loss,
        "inner_lr": inner_lr,
        "inner_steps": inner_steps,
        "first_order": first_order,
        "recompute": recompute,
        "max_workspace_bytes": max_workspace_bytes,
        "precision": precision,
        "backend": "fused",
    }
    settings = check_options(where, options)
    call = prepare(where, model, support, query, settings, "meta_step")
    assert call.fit is not None
    plan, threads, lanes = call.fit
    device = call.tasks.support_x.device
    workspace = plan.workspace_bytes(call.tasks.tasks, threads, lanes, device)
    return workspace + plan.program_bytes(device)
