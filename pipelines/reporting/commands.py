"""The commands that a run was made with, written out from what its files say."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.storage import set_folders
from pipelines.storage.fingerprint import digest
from pipelines.storage.set_folders import CONTROL, JPEG

# Of a run's fingerprint, what is no setting of train-tail, or stands elsewhere in the command.
_NO_SETTINGS = {"cache", "seed", "start_from"}
# Of a cache's: key -> flag of extract.
_EXTRACT = {
    "backbone": "--backbone",
    "weights": "--weights",
    "branches": "--branches",
    "dtype": "--dtype",
    "encoding": "--encoding",
    "format": "--format",
    "batch_size": "--batch-size",
    "shards": "--shards",
    "shard_bytes": "--shard-size",
}
_FEATURES = "features"  # where caches go that nothing is said of
_PROFILE = {"precision": "--precision", "threads": "--threads"}


@dataclass(frozen=True)
class Trained:
    """What a run was trained as.

    Attributes:
        name: of the run.
        node: whose cache it reads.
        features_dir: the folder of that cache.
        fingerprint: of the run.
    """

    name: str
    node: str
    features_dir: str
    fingerprint: Mapping[str, Any]

    @property
    def cache(self) -> Mapping[str, Any]:
        """The fingerprint of its cache."""
        return self.fingerprint.get("cache") or {}


def of_run(
    chain: Sequence[Trained],
    index: Mapping[str, Any] | None,
    control: Mapping[str, Any] | None,
    evaluations: Sequence[Sequence[str]],
) -> list[str]:
    """Write the commands from the images to the results, a line each.

    What a made-up or an old fingerprint does not say is left out.

    Args:
        chain: the runs that it goes back to, from the first one on, and itself.
        index: fingerprint of the workspace's index, which may be of other images by now; None
            where there is none.
        control: fingerprint of the control set's cache that took part; None where none did.
        evaluations: the commands that judged the run, as its results have them.
    """
    caches = {(run.features_dir, run.node): run.cache for run in chain}
    lines: list[str] = []
    for run in chain:
        lines += [*_compress(run.cache.get("variants") or {}, index), *_extract(run, caches)]
        lines.append(_train(run))
    if control is not None:
        own = chain[-1]
        features_dir = set_folders.features(own.features_dir, CONTROL)
        beside = Trained(own.name, own.node, features_dir, {"cache": control})
        lines += [*_compress(control.get("variants") or {}, index), *_extract(beside, {})]
    lines += [shlex.join(words) for words in evaluations if words]
    return list(dict.fromkeys(lines))


def _compress(made: Mapping[str, Any], index: Mapping[str, Any] | None) -> Iterator[str]:
    """Write what made a set of variants; which images are in it, where the index still says so."""
    try:
        codec, megapixels = made["codec"], made["max_megapixels"]
        flags = ["--set", CONTROL]
        if not _is_control(codec):
            qualities = _text(codec["qualities"])
            flags = ["--qualities", qualities, "--subsampling", codec["subsampling"]]
    except KeyError:
        return
    flags += ["--max-megapixels", f"{megapixels:g}"]
    if index is not None and digest(index) == made.get("index"):
        flags += ["--limit", str(index["limit"])] if index.get("limit") else []
        flags += ["--seed", str(index["seed"])] if "seed" in index else []
    yield _line("compress", *flags)


def _extract(run: Trained, caches: Mapping[tuple[str, str], Mapping[str, Any]]) -> Iterator[str]:
    """Write what made a cache, and those of the nodes in front that it was made from."""
    cache = run.cache
    # Only random weights follow from the seed.
    seed = ["--seed", str(cache["weights_seed"])] if "weights_seed" in cache else []
    same = {key: cache[key] for key in ("backbone", "weights", "branches") if key in cache}
    made, front = [(run.node, cache)], cache.get("from_node")
    while front:
        settings = caches.get((run.features_dir, front["node"]))  # else, what is said of it here
        made.insert(0, (front["node"], settings or {**same, "dtype": front["dtype"]}))
        front = front.get("from_node")
    before: list[str] = []
    for node, settings in made:
        flags = [*_place(run), "--node", node, *before, *_extract_flags(settings), *seed]
        yield _line("extract", *flags)
        before = ["--from-node", node]


def _place(run: Trained) -> list[str]:
    """Return the flags of extract that fill a run's folder of caches."""
    setting, name = set_folders.settings_of(run.features_dir)
    codec = (run.cache.get("variants") or {}).get("codec")
    if codec and _is_control(codec) != (name == CONTROL):  # whatever the folder is called
        setting, name = run.features_dir, CONTROL if _is_control(codec) else JPEG
    return [*(["--set", name] if name != JPEG else []), *_folder(setting)]


def _folder(features_dir: str) -> list[str]:
    return [] if features_dir == _FEATURES else ["--features-dir", features_dir]


def _is_control(codec: Mapping[str, Any]) -> bool:
    return "changes" in codec


def _train(run: Trained) -> str:
    return _line("train-tail", *_folder(run.features_dir), "--node", run.node, *_train_flags(run))


def _line(*words: str) -> str:
    return shlex.join(["bottleneck", *words])


def _extract_flags(cache: Mapping[str, Any]) -> list[str]:
    pairs = [(flag, cache[key]) for key, flag in _EXTRACT.items() if key in cache]
    profile = cache.get("profile") or {}
    pairs += [(flag, profile[key]) for key, flag in _PROFILE.items() if key in profile]
    return [part for flag, value in pairs for part in (flag, _text(value))]


def _train_flags(run: Trained) -> list[str]:
    flags, fingerprint = ["--run", run.name], run.fingerprint
    parent = (fingerprint.get("start_from") or {}).get("run")
    if parent:
        flags += ["--start-from", parent]
    for key in sorted(fingerprint.keys() - _NO_SETTINGS):
        flag, value = "--" + key.replace("_", "-"), fingerprint[key]
        if isinstance(value, bool):
            flags.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            flags += [flag, _text(value)]
    return [*flags, "--seed", str(fingerprint.get("seed", 0))]


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    return "auto" if value is None else str(value)
