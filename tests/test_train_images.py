"""Training runs on images: settings, complete runs, resumption, the scale of the loss."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_train import same
from tolerances import assert_close
from torch import Generator

import fastmaml
from fastmaml import models
from fastmaml.data import OmniglotTasks
from fastmaml.errors import SettingError
from fastmaml.train import TrainSettings, checkpoint, preset, run, trained, workloads
from fastmaml.train.loop import Run
from fastmaml.train.settings import paper_inner_lr

SMALL = {"tasks": 2, "eval_tasks": 4, "eval_steps": 1, "window": 1, "channels": 4}


@pytest.fixture(scope="module")
def omniglot(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An .npz with Omniglot's class count and noise for drawings."""
    path = tmp_path_factory.mktemp("omniglot") / "omniglot.npz"
    images = np.random.default_rng(0).integers(0, 2, (1623, 2, 28, 28), dtype=np.uint8)
    np.savez(path, images=images, class_names=[f"A/{i:04d}" for i in range(1623)])
    return str(path)


def small(data: str, **changes: Any) -> TrainSettings:
    return preset("omniglot", data=data, **(SMALL | {"iterations": 3} | changes))


def test_the_papers_omniglot_settings() -> None:
    five, twenty = preset("omniglot"), preset("omniglot", ways=20, inner_lr="paper")
    assert (five.model, five.channels, five.tasks, five.inner_steps) == ("conv", 64, 32, 1)
    assert (five.ways, five.shots, five.query, five.inner_lr) == (5, 1, 1, 0.4)
    assert (twenty.tasks, twenty.inner_steps, twenty.inner_lr) == (16, 5, 2.0)
    assert preset("omniglot", inner_lr="paper").inner_lr == paper_inner_lr("omniglot", 5) == 2.0
    assert preset("omniglot", model="mlp").channels == 0
    with pytest.raises(SettingError, match="model must be one of conv, mlp, got 'vgg'"):
        preset("omniglot", model="vgg")
    with pytest.raises(SettingError, match="channels must be at least 1, got 0"):
        preset("omniglot", channels=0)


def test_the_papers_miniimagenet_settings_are_cifar_fss() -> None:
    settings = preset("cifar-fs", shots=5)
    assert (settings.model, settings.channels, settings.tasks) == ("conv", 32, 4)
    assert (settings.inner_steps, settings.inner_lr, settings.meta_lr) == (5, 0.05, 1e-3)
    assert (settings.shots, settings.query, settings.eval_query) == (5, 15, 15)
    assert settings.clip == 10.0
    assert preset("cifar-fs", ways=20).inner_lr == paper_inner_lr("cifar-fs", 20) == 0.2
    with pytest.raises(SettingError, match="clip must be at least 0 and finite, got -1"):
        preset("cifar-fs", clip=-1.0)


def test_settings_of_older_checkpoints_are_understood() -> None:
    values = preset("omniglot", model="mlp").as_dict()
    del values["channels"], values["clip"], values["method"]
    assert TrainSettings.from_dict(values) == preset("omniglot", model="mlp")


@pytest.mark.parametrize("model", ["conv", "mlp"])
def test_a_complete_omniglot_run(tmp_path: Path, omniglot: str, model: str) -> None:
    channels = 4 if model == "conv" else 0
    settings = small(omniglot, model=model, channels=channels, eval_steps=3)
    results = run(settings, tmp_path / "out")
    assert len(results["figures"]["accuracy"]) == 4
    assert 0 <= results["curve"][0]["accuracy"] <= 1
    assert results["paper"] == {"3": 0.987 if model == "conv" else 0.897}
    assert results["backend"] == "fused"
    assert results["protocol"]["inner_lr"].endswith("0.08 on the summed scale of the authors' code")
    assert ("Xavier" in results["protocol"]["initialisation"]) == (model == "conv")
    assert (tmp_path / "out" / "omniglot.png").is_file()
    assert json.loads((tmp_path / "out" / "results.json").read_text())["settings"]["ways"] == 5
    _, _, sources = trained.load(tmp_path / "out" / "checkpoint.pt", {})
    shape = (1, 28, 28) if model == "conv" else (784,)
    assert trained.batch(settings, sources)[0][0].shape == (2, 5, *shape)


def test_data_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="--data must name"):
        run(preset("omniglot", iterations=1), tmp_path / "other")


def test_the_seed_makes_a_run_bitwise_repeatable(tmp_path: Path, omniglot: str) -> None:
    for name, seed in (("one", 1), ("two", 1), ("other", 2)):
        run(small(omniglot, seed=seed), tmp_path / name)
    one, two, other = (
        checkpoint.load(tmp_path / name / "checkpoint.pt") for name in ("one", "two", "other")
    )
    assert same(one, two)
    assert not same(one["model"], other["model"])


def test_resumed_convolutional_run_is_bitwise_the_uninterrupted_one(
    tmp_path: Path, omniglot: str
) -> None:
    whole = run(small(omniglot, iterations=12), tmp_path / "whole")
    run(small(omniglot, iterations=5), tmp_path / "parts")
    parts = run(
        preset("omniglot"),
        tmp_path / "parts",
        resume=True,
        given={"iterations": 12, "inner_lr": 0.4, "data": omniglot},
    )
    one, two = (checkpoint.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "parts"))
    assert same(one, two)
    assert one["best"]["iteration"] == 10
    assert parts["figures"] == whole["figures"]
    with pytest.raises(SettingError, match=r"inner_lr must stay 0.4 .* got 2.0"):
        run(preset("omniglot"), tmp_path / "parts", resume=True, given={"inner_lr": "paper"})


def test_a_rate_on_the_papers_loss_is_ways_times_that_rate_on_the_mean(float64: None) -> None:
    ways, shots = 5, 2
    model = models.omniglot_conv(ways, channels=4)
    images = np.random.default_rng(0).integers(0, 2, (9, 6, 28, 28), dtype=np.uint8)
    source = OmniglotTasks(images, ways=ways, shots=shots, flat=False)
    support, query = ((x.double(), y) for x, y in source.sample(3, Generator().manual_seed(0)))

    def papers_loss(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, y, reduction="sum") / shots

    rate = paper_inner_lr("omniglot", ways)
    gradients = []
    for loss, inner_lr, scale in ((papers_loss, 0.4, ways), ("cross_entropy", rate, 1)):
        backend = "reference" if callable(loss) else "fused"
        model.zero_grad()
        fastmaml.meta_step(
            model, support, query, loss=loss, inner_lr=inner_lr, inner_steps=2, backend=backend
        )
        gradients.append(torch.cat([p.grad.flatten() / scale for p in model.parameters()]))
    assert_close(gradients[1], gradients[0], "gradient_f64")


def test_the_network_decides_how_many_tasks_are_evaluated_at_once(omniglot: str) -> None:
    settings = small(omniglot, eval_tasks=21)
    sources = workloads.build_sources(settings)
    result = workloads.measure(workloads.build_model(settings), settings, sources.test)
    assert result.tasks == 21


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three .npz with noise for pictures."""
    folder = tmp_path_factory.mktemp("cifar")
    rng = np.random.default_rng(0)
    for part, classes in {"train": 8, "val": 6, "test": 7}.items():
        images = rng.integers(0, 256, (classes, 20, 3, 32, 32), dtype=np.uint8)
        names = [f"{part}{i}" for i in range(classes)]
        np.savez(folder / f"cifar_fs_{part}.npz", images=images, class_names=names)
    return str(folder)


def test_a_complete_cifar_fs_run(tmp_path: Path, cifar: str) -> None:
    settings = preset("cifar-fs", data=cifar, query=3, **(SMALL | {"iterations": 3}))
    results = run(settings, tmp_path)
    assert len(results["figures"]["accuracy"]) == 2
    assert results["backend"] == "fused"
    assert results["paper"] == {}
    assert "clipped to +-10" in results["protocol"]["meta_training"]
    assert results["protocol"]["inner_lr"].endswith("0.01 on the summed scale of the authors' code")
    assert results["protocol"]["test_images"] == "1 support, 3 query per class"
    assert (tmp_path / "cifar-fs.png").is_file()


def test_meta_gradient_entries_are_clipped(cifar: str) -> None:
    settings = preset("cifar-fs", data=cifar, query=3, clip=1e-4, **(SMALL | {"iterations": 3}))
    sources = workloads.build_sources(settings)
    current = Run(workloads.build_model(settings), settings, stream=0)
    current.step(sources.train, 1)
    largest = max(float(p.grad.abs().max()) for p in current.model.parameters())
    assert largest == pytest.approx(1e-4)
