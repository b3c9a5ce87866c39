"""Callbacks: progress, history and curves, pictures, dashboards, checkpoints, averaged weights, time budgets."""

from centernet.callbacks.analysis import Analysis
from centernet.callbacks.averaging import AverageWeights
from centernet.callbacks.budget import TimeBudget, seconds_of
from centernet.callbacks.checkpoints import BestAndLast, SaveOnInterrupt, StopEarly, TopCheckpoints
from centernet.callbacks.dashboard import Dashboard, TensorBoardRun, WandbRun, finished_run, tensorboard_if_installed
from centernet.callbacks.history import History, epoch_line
from centernet.callbacks.oracle import Oracle
from centernet.callbacks.pictures import CollectDetections, Pictures
from centernet.callbacks.progress import ProgressBar

__all__ = [
    "Analysis",
    "AverageWeights",
    "BestAndLast",
    "CollectDetections",
    "Dashboard",
    "History",
    "Oracle",
    "Pictures",
    "ProgressBar",
    "SaveOnInterrupt",
    "StopEarly",
    "TensorBoardRun",
    "TimeBudget",
    "TopCheckpoints",
    "WandbRun",
    "epoch_line",
    "finished_run",
    "seconds_of",
    "tensorboard_if_installed",
]
