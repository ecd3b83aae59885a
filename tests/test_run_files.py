"""Files of users and of runs: damaged, foreign, shared, full; nothing is lost, each has a name."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastmaml.cli import USER_ERRORS, main
from fastmaml.data import load_cifar_fs, load_omniglot, split_classes
from fastmaml.errors import SettingError
from fastmaml.train import checkpoint, experiment, loop, preset, run
from fastmaml.train.progress import Patient

SMALL = {"tasks": 4, "eval_tasks": 6, "eval_steps": 2, "eval_query": 5, "window": 4}


def small(**changes: Any) -> Any:
    return preset("sinusoid", **(SMALL | {"iterations": 22, "baseline": False} | changes))


# --- reading --------------------------------------------------------------------------------------


def npz(path: Path) -> bytes:
    names = np.array([f"A/character{i:02d}" for i in range(4)])
    images = np.random.default_rng(0).integers(0, 2, (4, 20, 28, 28)).astype(np.uint8)
    np.savez_compressed(path, images=images, class_names=names)
    return path.read_bytes()


def array_file() -> bytes:
    whole = io.BytesIO()
    np.save(whole, np.zeros(3))
    return whole.getvalue()


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    path = tmp_path / "omniglot.npz"
    good = npz(path)
    damaged = [b"", good[: len(good) // 2], array_file(), b"PK\3\4" + bytes(100)]
    for at in range(0, len(good), len(good) // 40):
        flipped = bytearray(good)
        flipped[at] ^= 255
        damaged.append(bytes(flipped))
    refused = sound = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            load_omniglot(path)
        except USER_ERRORS as error:
            refused += str(path) in str(error)
        else:
            sound += 1
    assert refused > 30
    assert refused + sound == len(damaged)


@pytest.mark.parametrize("data", [b"", b"PK\3\4", array_file()])
def test_damaged_archives_of_cifar_fs_are_named(tmp_path: Path, data: bytes) -> None:
    for part in ("train", "val", "test"):
        (tmp_path / f"cifar_fs_{part}.npz").write_bytes(data)
    with pytest.raises(SettingError, match=r"cifar_fs_train\.npz must be an \.npz"):
        load_cifar_fs(tmp_path)


def drawing(folder: Path, name: str, image: Image.Image) -> Path:
    place = folder / "images_background" / "Greek" / "character01"
    place.mkdir(parents=True, exist_ok=True)
    image.save(place / name)
    return place / name


@pytest.mark.parametrize("name", ["0001_01.png", "0001_01.PNG", "0001_01.jpg"])
def test_pictures_of_other_systems(tmp_path: Path, name: str) -> None:
    ink = Image.fromarray((1 - np.eye(105, dtype=np.uint8)) * 255)
    place = drawing(tmp_path, name, ink)
    (place.parent / "._0001_01.png").write_bytes(b"\0\5\26\7" + bytes(60))
    (place.parent / "Thumbs.db").write_bytes(b"x")
    loaded = load_omniglot(tmp_path)
    assert loaded.names == ("Greek/character01",)
    assert loaded.images.shape == (1, 1, 28, 28)
    assert 28 <= loaded.images.sum() <= 84


def test_folders_unpacked_into_their_own_name(tmp_path: Path) -> None:
    inner = tmp_path / "images_background"
    drawing(inner, "0001_01.png", Image.new("L", (105, 105), 255))
    assert load_omniglot(tmp_path).names == ("Greek/character01",)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_paper(tmp_path: Path, mode: str) -> None:
    """Black ink on a sheet that is black, too, but transparent."""
    alpha = np.eye(105, dtype=np.uint8) * 255
    image = Image.fromarray(np.dstack([np.zeros((105, 105, 3), np.uint8), alpha]))
    drawing(tmp_path, "0001_01.png", image if mode == "RGBA" else image.convert(mode))
    assert load_omniglot(tmp_path).images[0, 0].sum() == 28


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    file = drawing(tmp_path, "0001_01.png", Image.new("L", (105, 105), 255))
    good = file.read_bytes()
    for data in (b"", good[:40], good[: len(good) // 2], b"not a picture"):
        file.write_bytes(data)
        with pytest.raises(SettingError, match=r"0001_01\.png must be a picture"):
            load_omniglot(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_lists_of_other_systems(tmp_path: Path, encoding: str) -> None:
    names = ("A/ñ", "A/b", "A/c")
    for part, name in zip(("train", "val", "test"), names, strict=True):
        (tmp_path / f"{part}.txt").write_bytes(f"{name}\r\n\r\n".encode(encoding))
    parts = split_classes(names, tmp_path)
    assert [parts[part].tolist() for part in ("train", "val", "test")] == [[0], [1], [2]]


# --- runs -----------------------------------------------------------------------------------------


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with checkpoint.own_folder(tmp_path):
        program = (
            "import sys; from pathlib import Path; from fastmaml.train import preset, run\n"
            "run(preset('sinusoid', iterations=4, baseline=False), Path(sys.argv[1]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True
        )
    assert "must belong to one run at a time" in done.stderr


def test_half_written_files_go(tmp_path: Path) -> None:
    run(small(), tmp_path)
    (tmp_path / ".checkpoint.pt.999999.tmp").write_bytes(bytes(1000))
    run(small(), tmp_path, resume=True, given={"iterations": 30})
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_run_cannot_be_shortened(tmp_path: Path) -> None:
    run(small(), tmp_path)
    before = (tmp_path / "results.json").read_bytes()
    with pytest.raises(SettingError, match="iterations must be at least 22"):
        run(small(), tmp_path, resume=True, given={"iterations": 10})
    assert (tmp_path / "results.json").read_bytes() == before


def test_a_demo_overwrites_demos_alone(tmp_path: Path) -> None:
    run(small(), tmp_path / "full")
    with pytest.raises(SettingError, match="must not hold a run already"):
        run(small(), tmp_path / "full", overwrite=True)
    for _ in range(2):
        run(small(), tmp_path / "demo", overwrite=True)


def test_figures_outlive_a_picture_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any, **named: Any) -> None:
        raise RuntimeError("no backend\nand more")

    monkeypatch.setattr(experiment.pictures, "sinusoid_picture", fails)
    results = run(small(), tmp_path)
    assert results["picture_error"] == "RuntimeError: no backend"
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["figures"] == json.loads(json.dumps(results["figures"]))


def test_a_full_disk_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"a": torch.ones(3)})

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(USER_ERRORS, match="No space left"):
        checkpoint.save(path, {"a": torch.zeros(3)})
    assert checkpoint.load(path)["a"].tolist() == [1, 1, 1]
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = loop.Run._meta_step

    def breaks(self: Any, episode: Any, inner_steps: int) -> Any:
        loss, accuracy = step(self, episode, inner_steps)
        return (loss * float("nan") if self.iteration >= 6 else loss), accuracy

    monkeypatch.setattr(loop.Run, "_meta_step", breaks)
    with pytest.raises(SettingError, match="the loss must stay finite"):
        run(small(checkpoint_every=5, window=100), tmp_path)
    assert checkpoint.load(tmp_path / "checkpoint.pt")["iteration"] == 5


def test_paths_are_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"A/character{i:02d}" for i in range(18)]
    images = np.random.default_rng(0).integers(0, 2, (18, 20, 28, 28)).astype(np.uint8)
    np.savez(tmp_path / "o.npz", images=images, class_names=np.array(names))
    for i, part in enumerate(("train", "val", "test")):
        (tmp_path / f"{part}.txt").write_text("\n".join(names[6 * i : 6 * i + 6]))
    monkeypatch.chdir(tmp_path)
    words = "train omniglot --model mlp --iterations 3 --tasks 2 --eval-tasks 4 --data o.npz"
    assert main([*words.split(), "--split", ".", "--out", "run"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["evaluate", str(tmp_path / "run" / "checkpoint.pt")]) == 0


@pytest.mark.parametrize(
    "words", ["--seed 18446744073709551615", "--threads 10000000000", "--tasks 1000000000000"]
)
def test_numbers_have_bounds(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "sinusoid", *words.split()])
    assert stopped.value.code == 2
    assert "must be at most" in capsys.readouterr().err


class _Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.EPIPE, "broken")

    def flush(self) -> None:
        raise ValueError("closed")


@pytest.mark.parametrize("stream", [None, _Broken()])
def test_runs_go_on_without_standard_error(
    stream: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = Patient(stream)
    patient.write("x")
    patient.flush()
    assert not patient.isatty()
    monkeypatch.setattr(sys, "stderr", stream)
    assert run(small(), tmp_path)["files"]
