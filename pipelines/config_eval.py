"""The keys of `[eval]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pipelines.config_keys import Table, key
from pipelines.errors import ConfigError
from pipelines.values import Count, Counts, Names, Positive, RunName

HONEST, THESIS = "honest", "thesis"


class EvalConfig(Table):
    """The keys of `[eval]`."""

    run: RunName = key("", "The run to judge; without it, the latest.", "a run's name")
    protocol: Literal["", "honest", "thesis"] = key(
        "",
        "honest: report on test what was selected on val, as without it; thesis: report on the "
        "images that the checkpoint was selected on, which flatters it.",
        "honest, thesis, or nothing",
        metavar="honest|thesis",
    )
    split: Literal["test", "val"] = key(
        "test",
        "The images to report on; val is what --protocol thesis reports on.",
        "test or val",
    )
    compare: Names = key(
        ("auto",),
        "What to compare with the default model beside its branches: mean (of its scores over the "
        "branches), runs (on the same cache), copies (of the original) and control (changes that "
        "are no compression), both trained where they are missing; auto takes what is there, all "
        "everything.",
        "auto, all, mean, runs, copies, control, or names of runs",
        metavar="NAME,NAME,...",
    )
    folds: Count = key(
        0,
        "Train and judge so many times, each time on another part of all images, from the same "
        "cache; 0 judges the run as it is.",
        "0, or 2 or more",
    )
    seeds: Positive = key(
        1, "With --folds: so often, with other parts and starts each time.", "1 or more"
    )
    top_k: Counts = key(
        (),
        "Places for which accuracies are given; without it, 1, and 5 with more than five classes.",
        "whole numbers from 1 on",
        metavar="K,K,...",
    )
    output: Literal["table", "markdown", "latex", "csv", "json"] = key(
        "table", "How the results are printed.", "table, markdown, latex, csv or json"
    )

    @classmethod
    def beneath(cls, values: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
        """Let either flag win over what the other says in the file; refuse what is contradictory.

        Raises:
            ConfigError: protocol and split are of different images.
        """
        either = {"protocol", "split"}
        beaten = either - flags.keys() if either & flags.keys() else set()
        kept = {name: value for name, value in values.items() if name not in beaten}
        said = {**kept, **flags}
        protocol, split = said.get("protocol"), said.get("split")
        if protocol and split and (protocol == HONEST) != (split == "test"):
            raise ConfigError(
                f"--protocol {protocol} --split {split}: honest reports on test, thesis on val; "
                "leave out one of them",
                is_usage=True,
            )
        return kept

    @property
    def is_honest(self) -> bool:
        """Tell whether the images reported on are not those that were selected on."""
        return self.protocol != THESIS and self.split == "test"

    @property
    def reported_split(self) -> str:
        """The images to report on."""
        return "test" if self.is_honest else "val"

    def command(self, run: str) -> list[str]:
        """Return the words of the command that judges a run like this."""
        words = ["bottleneck", "eval", "--run", run]
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name not in ("run", "output") and value != field.default:
                shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                words += [f"--{name.replace('_', '-')}", shown]
        return words
