"""The one door to recorded data: datasets, their writer, windows and statistics."""

from lewm_core.dataset import Dataset
from lewm_core.dataset_writer import DatasetWriter, Summary
from lewm_core.splits import SPLITS, split_episodes
from lewm_core.windows import Prefetch, WindowSampler, action_statistics

__all__ = ['SPLITS', 'Dataset', 'DatasetWriter', 'Prefetch', 'Summary', 'WindowSampler',
           'action_statistics', 'split_episodes']
