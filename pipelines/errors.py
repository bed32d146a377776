"""The kinds of error a user can cause and mend; everything else is a bug and keeps its traceback.

A message says where, what was found, what was expected and what to do; lower case, no full stop.
"""

from __future__ import annotations


class PipelineError(Exception):
    """Base of every error that the command line turns into one line and exit status 1."""


class ConfigError(PipelineError):
    """A setting has no valid value; `is_usage` tells that it came from a flag (exit status 2)."""

    def __init__(self, message: str, *, is_usage: bool = False) -> None:
        super().__init__(message)
        self.is_usage = is_usage


class SourceError(PipelineError):
    """A source of labelled images cannot be read as one."""


class ImageError(PipelineError):
    """One image cannot be used; the stages quarantine it with this message as the reason."""


class NodeError(PipelineError):
    """A pivotal node is no valid cut point of the network."""


class WeightsError(PipelineError):
    """Pretrained weights are missing or do not fit the network."""


class ManifestError(PipelineError):
    """What lies on disk was made from other settings than those asked for."""


class ShardError(PipelineError):
    """A shard is missing, cut short or damaged."""


class FeatureError(PipelineError):
    """Activations cannot be stored: not finite, or out of the dtype's range."""


class TrainingError(PipelineError):
    """A training run cannot start, go on, or be found."""


class SavedInterrupt(KeyboardInterrupt):
    """A Ctrl-C that was waited with until all was saved; the message says what."""


class DivergedError(TrainingError):
    """A model's loss or scores are no longer finite numbers.

    Attributes:
        step: of the training.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class WorkerError(PipelineError):
    """Processes that do a piece of work die at it."""


class DeviceLostError(WorkerError):
    """The device that a worker runs on fails; another worker may do its work."""
