"""The share of one among several starts, on one machine or many, of the work in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.errors import ConfigError
from pipelines.storage.plan import Task


@dataclass(frozen=True)
class Share:
    """Every N-th shard of a plan.

    Attributes:
        index: from 0.
        num: of shares; 1 for all of the work.
    """

    index: int = 0
    num: int = 1

    @property
    def name(self) -> str:
        """As locks call it, "3-of-8"; empty for all of the work."""
        return "" if self.num == 1 else f"{self.index}-of-{self.num}"

    def of(self, tasks: Sequence[Task]) -> list[Task]:
        """Return what belongs to it of a plan."""
        return list(tasks[self.index :: self.num])

    def shards(self, tasks: Sequence[Task]) -> set[str] | None:
        """Name the shards that nobody else may write; None for all."""
        return {task.shard for task in self.of(tasks)} if self.name else None


ALL = Share()


def choose(task_index: int, num_tasks: int) -> Share:
    """Return the share that `--task-index` and `--num-tasks` ask for.

    Raises:
        ConfigError: the index is none of 0 to the number of tasks, less 1.
    """
    if not 0 <= task_index < num_tasks:
        raise ConfigError(
            f"task-index {task_index}: with --num-tasks {num_tasks} it is one of 0 to "
            f"{num_tasks - 1}",
            is_usage=True,
        )
    return Share(task_index, num_tasks)
