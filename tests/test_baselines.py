"""The baselines: scores by hand, runs from start to end, the same test tasks for all."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_train import same
from tolerances import assert_close
from torch import nn

from fastmaml import cli, models
from fastmaml.data import load_omniglot, split_classes
from fastmaml.errors import SettingError
from fastmaml.train import checkpoint, preset, run, trained
from fastmaml.train.baselines import neighbour_scores, protonet_step, prototype_scores

T, N, K, Q = 3, 4, 2, 3


def task_batch(shape: tuple[int, ...]) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    labels = torch.arange(N)
    x = torch.rand(T, N * (K + Q), *shape)
    return (
        (x[:, : N * K], labels.repeat(T, K)),
        (x[:, N * K :], labels.repeat(T, Q)),
    )


@pytest.fixture(scope="module")
def omniglot(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An .npz whose classes are noise of their own, much the same in every drawing."""
    path = tmp_path_factory.mktemp("omniglot") / "omniglot.npz"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 2, (1623, 1, 28, 28), dtype=np.uint8).repeat(3, axis=1)
    images ^= rng.random((1623, 3, 28, 28)) < 0.25
    np.savez(path, images=images, class_names=[f"A/{i:04d}" for i in range(1623)])
    return str(path)


def test_prototype_scores_are_those_of_a_loop_over_tasks(float64: None) -> None:
    embedding = models.omniglot_conv(N, channels=4)[:-1]
    support, (x, _) = task_batch((1, 28, 28))
    scores = prototype_scores(embedding, support, x)
    assert scores.shape == (T, N * Q, N)
    for task in range(T):
        points = embedding(torch.cat([support[0][task], x[task]]))
        means = points[: N * K].view(K, N, -1).mean(dim=0)
        assert_close(scores[task], -(torch.cdist(points[N * K :], means) ** 2), "gradient_f64")


def test_protonet_step_adds_the_gradient_of_the_mean_loss(float64: None) -> None:
    embedding = nn.Linear(6, 3)
    episode = task_batch((6,))
    loss, accuracy = protonet_step(embedding, episode)
    scores = prototype_scores(embedding, episode[0], episode[1][0])
    losses = [F.cross_entropy(*pair) for pair in zip(scores, episode[1][1], strict=True)]
    expected = torch.autograd.grad(sum(losses) / T, embedding.weight)[0]
    assert_close(embedding.weight.grad, expected, "op_f64")
    assert_close(loss, sum(losses).detach() / T, "op_f64")
    assert float(accuracy) == float((scores.argmax(-1) == episode[1][1]).double().mean())


def test_neighbour_scores_are_the_best_cosine_of_each_class(float64: None) -> None:
    support, (x, _) = task_batch((1, 4, 4))
    scores = neighbour_scores(support, x)
    for task, row, way in ((0, 0, 0), (2, 5, 3), (1, 11, 2)):
        own = support[0][task][support[1][task] == way].flatten(1)
        expected = F.cosine_similarity(own, x[task, row].flatten()[None]).max()
        assert_close(scores[task, row, way], expected, "op_f64")


SMALL = {"tasks": 4, "eval_tasks": 20, "window": 1, "channels": 8}


def test_a_complete_protonet_run_resumes_bitwise(tmp_path: Path, omniglot: str) -> None:
    settings = preset("omniglot", method="protonet", data=omniglot, iterations=12, **SMALL)
    assert (settings.inner_steps, settings.eval_steps) == (0, 0)
    whole = run(settings, tmp_path / "whole")
    assert len(whole["figures"]["accuracy"]) == 1
    assert whole["backend"] == "torch"
    assert whole["paper"] == {}
    assert "prototypical" in whole["protocol"]["method"]
    assert "picture" not in whole["files"]
    part = preset("omniglot", method="protonet", data=omniglot, iterations=5, **SMALL)
    run(part, tmp_path / "parts")
    run(settings, tmp_path / "parts", resume=True, given={"iterations": 12})
    one, two = (checkpoint.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "parts"))
    assert same(one, two)
    assert one["best"]["iteration"] == 10
    model, loaded, sources = trained.load(tmp_path / "whole" / "checkpoint.pt", {})
    assert trained.test(model, loaded, sources)["figures"] == whole["figures"]
    with pytest.raises(SettingError, match="must be without eval_steps"):
        trained.load(tmp_path / "whole" / "checkpoint.pt", {"eval_steps": 3})


def test_baselines_from_the_command_line(
    tmp_path: Path, omniglot: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "omniglot", "--data", omniglot, "--eval-tasks", "20"]
    for _ in range(2):
        out = ["--out", str(tmp_path / "nearest")]
        assert cli.main([*words, "--method", "nearest", *out]) == 0
    results = json.loads((tmp_path / "nearest" / "results.json").read_text())
    assert results["figures"]["accuracy"][0] > 0.5
    assert len(results["figures"]["accuracy_interval"]) == 1
    assert results["figures"]["loss"] == [None]
    assert results["figures"]["tasks"] == 20
    assert "accuracy %, 20 tasks" in capsys.readouterr().out
    quick = ["--iterations", "2", "--tasks", "2", "--channels", "4"]
    out = ["--out", str(tmp_path / "protonet")]
    assert cli.main([*words, "--method", "protonet", *quick, *out]) == 0
    assert cli.main(["verify", str(tmp_path / "protonet" / "checkpoint.pt")]) == 2
    assert "must be of method maml" in capsys.readouterr().err


def test_sinusoid_has_no_such_baselines() -> None:
    with pytest.raises(SettingError, match="method must be one of maml, got 'nearest'"):
        preset("sinusoid", method="nearest")


def test_nearest_pixels_on_real_omniglot(data_dir: Path, tmp_path: Path) -> None:
    names = load_omniglot(data_dir).names
    assert set(map(len, split_classes(names).values())) == {1100, 100, 423}
    settings = preset("omniglot", method="nearest", data=str(data_dir), eval_query=5)
    figures = run(settings, tmp_path)["figures"]
    assert figures["tasks"] == 600
    assert 0.42 < figures["accuracy"][0] < 0.51
