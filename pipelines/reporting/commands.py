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
    which = _set_flags(cache)
    folder = ["--features-dir", "features-control"] if which else []
    return [
        *_made_variants(cache.get("variants"), seed),
        shlex.join(
            ["bottleneck", "extract", *which, "--node", node, *_extract_flags(cache), *seed]
        ),
        shlex.join(
            ["bottleneck", "train-tail", *folder, "--node", node, *_train_flags(name, fingerprint)]
        ),
        *([shlex.join(evaluation)] if evaluation else []),
    ]


def _set_flags(cache: Mapping[str, Any]) -> list[str]:
    """Return what names the set of variants that a cache was made from, where it is no JPEG."""
    codec = (cache.get("variants") or {}).get("codec") or {}
    return ["--set", "control"] if "changes" in codec else []


def _made_variants(made: Mapping[str, Any] | None, seed: Sequence[str]) -> list[str]:
    try:
        codec = (made or {})["codec"]
        flags = ["--set", "control"]
        if "changes" not in codec:
            flags = [
                "--qualities",
                _text(codec["qualities"]),
                "--subsampling",
                codec["subsampling"],
            ]
        flags += ["--max-megapixels", f"{(made or {})['max_megapixels']:g}"]
    except KeyError:
        return []
    return [_line("compress", *flags, *seed)]


def _line(*words: str) -> str:
    return shlex.join(["bottleneck", *words])


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
