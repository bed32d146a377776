"""The commands that a run was made with, written out from what its files say."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

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
_PROFILE = {"precision": "--precision", "threads": "--threads"}


def of_run(
    name: str, node: str, fingerprint: Mapping[str, Any], evaluation: Sequence[str]
) -> list[str]:
    """Write the commands from the images to the results, a line each.

    What a made-up or an old fingerprint does not say is left out.

    Args:
        name: of the run.
        node: whose cache it reads.
        fingerprint: of the run.
        evaluation: the command that judged it, as its results have it.
    """
    seed = ["--seed", str(fingerprint.get("seed", 0))]
    cache = fingerprint.get("cache", {})
    return [
        *_made_variants(cache.get("variants"), seed),
        shlex.join(["bottleneck", "extract", "--node", node, *_extract_flags(cache), *seed]),
        shlex.join(["bottleneck", "train-tail", "--node", node, *_train_flags(name, fingerprint)]),
        shlex.join(evaluation),
    ]


def _made_variants(made: Mapping[str, Any] | None, seed: Sequence[str]) -> list[str]:
    try:
        codec = (made or {})["codec"]
        flags = ["--qualities", _text(codec["qualities"]), "--subsampling", codec["subsampling"]]
        flags += ["--max-megapixels", f"{(made or {})['max_megapixels']:g}"]
    except KeyError:
        return []
    return [shlex.join(["bottleneck", "compress", *flags, *seed])]


def _extract_flags(cache: Mapping[str, Any]) -> list[str]:
    pairs = [(flag, cache[key]) for key, flag in _EXTRACT.items() if key in cache]
    profile = cache.get("profile", {})
    pairs += [(flag, profile[key]) for key, flag in _PROFILE.items() if key in profile]
    return [part for flag, value in pairs for part in (flag, _text(value))]


def _train_flags(name: str, fingerprint: Mapping[str, Any]) -> list[str]:
    flags = ["--run", name]
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
