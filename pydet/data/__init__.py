"""Data sets for detectors: read from any common format, checked, augmented, and put into batches."""

from __future__ import annotations

from pydet.data.batches import Batch, Batches, TrainingSet, collate
from pydet.data.dataset import DataError, Dataset, DataWarning, Problem, Record
from pydet.data.load import load_dataset
from pydet.data.presets import augmentation_of

__all__ = [
    "Batch",
    "Batches",
    "DataError",
    "DataWarning",
    "Dataset",
    "Problem",
    "Record",
    "TrainingSet",
    "augmentation_of",
    "collate",
    "load_dataset",
]
