"""Training runs of the paper's experiments: settings, loop, checkpoint, pictures, results.

`run` is what ``fastmaml train`` calls; `TrainSettings` holds everything it can be told.
"""

from fastmaml.train.experiment import run
from fastmaml.train.loop import StoppedError
from fastmaml.train.settings import TrainSettings, preset

__all__ = ["StoppedError", "TrainSettings", "preset", "run"]
