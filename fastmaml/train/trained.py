"""Models that a training run left behind: loading them, testing them, one batch of their tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Generator, nn

from fastmaml.data import Episode
from fastmaml.errors import SettingError
from fastmaml.train import checkpoint, protocol, workloads
from fastmaml.train.machine import machine, versions
from fastmaml.train.settings import TrainSettings, changed, preset
from fastmaml.train.workloads import Sources


def load(path: Path, given: dict[str, Any]) -> tuple[nn.Module, TrainSettings, Sources]:
    """A checkpoint's network with its settings and tasks.

    Args:
        path: the checkpoint.
        given: settings to use in place of the saved ones.

    Returns:
        The network, the settings, and the task sources.

    Raises:
        FileNotFoundError: the checkpoint or the data is not there.
        SettingError: the file is no checkpoint, or a setting does not fit.
    """
    state = checkpoint.load(path)
    settings = changed(TrainSettings.from_dict(state["settings"]), given)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    model = workloads.build_model(settings)
    best = state["best"] if settings.select == "validation" else None
    try:
        model.load_state_dict((best or state)["model"])
    except RuntimeError as error:
        raise SettingError(
            f"checkpoint: {path} must hold the {settings.workload} network {settings.model}, its "
            "tensors are others; use the fastmaml version that wrote it."
        ) from error
    return model, settings, workloads.build_sources(settings)


def fresh() -> tuple[nn.Module, TrainSettings, Sources]:
    """An untrained sinusoid network with its settings and tasks."""
    settings = preset("sinusoid")
    return workloads.build_model(settings), settings, workloads.build_sources(settings)


def batch(settings: TrainSettings, sources: Sources) -> Episode:
    """One training batch, always the same for the same settings."""
    generator = Generator().manual_seed(workloads.stream(settings, "train"))
    return sources.train.sample(settings.tasks, generator)


def test(model: nn.Module, settings: TrainSettings, sources: Sources) -> dict[str, Any]:
    """Evaluates the network on the test tasks.

    Returns:
        Figures, protocol, the paper's figures and versions, as plain values for JSON.
    """
    result = workloads.measure(model, settings, sources.test)
    return {
        "settings": settings.as_dict(),
        "protocol": protocol.protocol(settings),
        "figures": result.as_dict(),
        "paper": {str(k): v for k, v in protocol.paper_figures(settings).items()},
        "versions": versions(),
        "machine": machine(),
    }
