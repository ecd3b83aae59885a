"""What a plan is made for, and what decides which plan a call has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from .core import Engine

if TYPE_CHECKING:
    from fastmaml.settings import Memory, Precision

__all__ = ["PlanKey", "PlanSettings", "Purpose", "Wanted"]

Purpose = Literal["meta_step", "evaluate", "curve", "adapt"]


class PlanSettings(NamedTuple):
    """What a program is made for, but for its network and loss.

    The names are those of `Settings` in csrc/fastmaml.hpp, and reach it as they are.

    Attributes:
        mode: What the program produces.
        float64: Whether it is of ``torch.float64``, else of ``torch.float32``.
        support_rows: S.
        query_rows: Q.
        inner_steps: K.
        first_order: Whether the Hessian terms are dropped.
        rate_grad: Whether the rates' meta-gradients are wanted.
        recompute: Whether the sweep makes the activations of inner steps again.
        factored: -1 lets the planner choose how wide weights are kept; 0 dense, 1 factored.
        winograd: Side of the tiles of Winograd's method, for 3 x 3 convolutions: 5 or 6, 0 none, -1
            as the planner chooses.
        moment_bytes: Least output of a convolution that leaves moments for its batch norm; -1:
            what pays.
        device: Whether the program is for a CUDA device: cut for it, and run nowhere else.
        run_pixels: On a device, the pixels of a run of a long sum over pixels.
        tf32: Whether a device rounds the factors of linear layers and convolutions to tf32.
    """

    mode: Purpose
    float64: bool
    support_rows: int
    query_rows: int
    inner_steps: int
    first_order: bool
    rate_grad: bool
    recompute: bool = False
    factored: int = -1
    winograd: int = -1
    moment_bytes: int = -1
    device: bool = False
    run_pixels: int = 512
    tf32: bool = False


class Wanted(NamedTuple):
    """All that decides which plan a call has: calls that want the same have the same."""

    engine: Engine
    op: str | None  # of the loss
    attrs: tuple[tuple[str, float], ...]  # of the loss
    inner_steps: int
    first_order: bool
    rate_grad: bool
    precision: Precision
    memory: Memory
    purpose: Purpose
    tasks: int
    support_rows: int
    query_rows: int
    dtype: torch.dtype
    device: torch.device
    threads: int

    def settings(self) -> PlanSettings:
        """What the plan is made for, if it does not recompute."""
        learns = self.rate_grad and self.inner_steps > 0
        sweeps = self.purpose == "meta_step" and self.inner_steps > 0
        return PlanSettings(
            mode=self.purpose,
            float64=self.dtype is torch.float64,
            support_rows=self.support_rows,
            query_rows=self.query_rows,
            inner_steps=self.inner_steps,
            first_order=self.first_order or not sweeps,
            rate_grad=learns,
            device=self.engine.on_device(self.device),
            tf32=self.precision == "tf32",
        )._replace(**self.engine.forced)


PlanKey = tuple[Engine, str | None, tuple[tuple[str, float], ...], PlanSettings]
"""By which a network's plans are kept: what runs it, the loss's op and attributes, the rest."""
