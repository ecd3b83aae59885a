"""Task sources: sinusoids, Omniglot, CIFAR-FS; sampled without a Python loop over tasks.

A task source has one method, ``sample(tasks, generator)``, which returns an episode batch
``(support, query)``; each is a pair ``(x [T, n, ...], y [T, n] or [T, n, D])`` as
`fastmaml.meta_step` takes it. `episodes` turns a source into a finite stream for
`fastmaml.evaluate`.
"""

from fastmaml.data.cifar_fs import ClassImages, load_cifar_fs
from fastmaml.data.episodes import Batch, Episode, TaskSource, distinct, episodes
from fastmaml.data.images import ImageTasks
from fastmaml.data.omniglot import OmniglotTasks, load_omniglot, split_classes
from fastmaml.data.sinusoid import SinusoidTasks, Waves

__all__ = [
    "Batch",
    "ClassImages",
    "Episode",
    "ImageTasks",
    "OmniglotTasks",
    "SinusoidTasks",
    "TaskSource",
    "Waves",
    "distinct",
    "episodes",
    "load_cifar_fs",
    "load_omniglot",
    "split_classes",
]
