"""Task sources: the sinusoid regression and Omniglot, sampled without a Python loop over tasks.

A task source has one method, ``sample(tasks, generator)``, which returns an episode batch
``(support, query)``; each is a pair ``(x [T, n, ...], y [T, n] or [T, n, D])`` as
:func:`fastmaml.meta_step` takes it. `episodes` turns a source into a finite stream for
:func:`fastmaml.evaluate`.
"""

from fastmaml.data.episodes import Batch, Episode, TaskSource, distinct, episodes
from fastmaml.data.omniglot import OmniglotTasks, load_omniglot, split_classes
from fastmaml.data.sinusoid import SinusoidTasks, Waves

__all__ = [
    "Batch",
    "Episode",
    "OmniglotTasks",
    "SinusoidTasks",
    "TaskSource",
    "Waves",
    "distinct",
    "episodes",
    "load_omniglot",
    "split_classes",
]
