"""Where each image of a cache is, by its name."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipelines.errors import ConfigError, ShardError
from pipelines.storage import formats
from pipelines.storage.rows import Shard

_THREADS = 2


class Places:
    """The shard and the row of every image, read once from the shards' names alone.

    A name that is not found, or found twice, may be a damaged one: where the format reads names
    without their checksums, these are made up for before anything is said of it.
    """

    def __init__(self, path: Path, shards: Sequence[Shard]) -> None:
        """Read all names.

        Raises:
            ShardError: a shard is damaged, or an image stands in two.
        """
        self._path, self._shards = path, shards
        self._is_checked = False
        self._found: dict[str, tuple[int, int]] = {}
        with ThreadPoolExecutor(_THREADS) as pool:
            lists = pool.map(lambda shard: formats.of(shard.layout).read_ids(shard), shards)
            for number, names in enumerate(lists):
                for row, name in enumerate(names):
                    if name in self._found:
                        self._refuse_twice(name, number)
                    self._found[name] = number, row

    def find(self, name: str) -> tuple[int, int]:
        """Return the number of an image's shard, and of its row in it.

        Raises:
            ConfigError: there is no such image.
            ShardError: a shard is damaged.
        """
        if name not in self._found:
            self._check()
            raise ConfigError(f"{self._path}: no image {name}; names are those of the source")
        return self._found[name]

    def _refuse_twice(self, name: str, number: int) -> None:
        self._check()
        first = self._shards[self._found[name][0]].path.name
        raise ShardError(
            f"{self._shards[number].path}: image {name} stands in {first}, too; "
            "run `bottleneck verify --deep --repair`, then `bottleneck extract` again"
        )

    def _check(self) -> None:
        if not self._is_checked:
            for shard in self._shards:
                formats.of(shard.layout).check_names(shard)
        self._is_checked = True
