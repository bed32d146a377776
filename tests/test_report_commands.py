"""The commands that a report says a run was made with: their settings, their order, their runs."""

from __future__ import annotations

import json
import shlex

import pytest
from judged_workspaces import write

from pipelines.reporting import commands
from pipelines.reporting.commands import Trained
from pipelines.storage.fingerprint import digest

INDEX = {"images": {"sha256": "0f" * 32}, "limit": 40, "seed": 3}
JPEG = {"format": "jpeg", "qualities": [10, 90], "subsampling": "4:2:0"}
CONTROL = {"format": "png", "changes": ["shift"]}


def trained(name="mixed_9", node="mixed_9", parent="", features_dir="features", **cache):
    made = {"index": digest(INDEX), "codec": JPEG, "max_megapixels": 100.0}
    return Trained(
        name,
        node,
        features_dir,
        {
            "cache": {"variants": made, "backbone": "inception_v3", **cache},
            "seed": 5,
            "start_from": {"run": parent} if parent else None,
        },
    )


def of_control(**changes):
    return trained(variants={"codec": CONTROL, "max_megapixels": 100.0}, **changes)


def written(*chain, index=INDEX, control=None, evaluations=(("bottleneck", "eval"),)):
    """Give the words of each line behind `bottleneck`."""
    found = commands.of_run(chain, index, control, evaluations)
    return [shlex.split(line)[1:] for line in found]


def flags(line):
    return dict(zip(line[1::2], line[2::2], strict=True))


def test_commands_compress_has_the_seed_and_limit_of_the_index_and_training_its_own():
    compress, extract, train, _ = written(trained())
    assert flags(compress)["--seed"] == "3"
    assert flags(compress)["--limit"] == "40"
    assert "--seed" not in extract
    assert flags(train)["--seed"] == "5"


@pytest.mark.parametrize("index", [None, {**INDEX, "seed": 4}, {}])
def test_commands_compress_of_another_index_leaves_out_what_nobody_knows(index):
    compress = written(trained(), index=index)[0]
    assert compress[0] == "compress"
    assert not {"--seed", "--limit"} & set(compress)


def test_commands_compress_of_all_images_names_no_limit():
    index = {**INDEX, "limit": 0}
    made = {"index": digest(index), "codec": JPEG, "max_megapixels": 100.0}
    compress = written(trained(variants=made), index=index)[0]
    assert "--limit" not in compress
    assert flags(compress)["--seed"] == "3"


def test_commands_extract_of_random_weights_has_their_seed():
    extract = written(trained(weights="none", weights_seed=7))[1]
    assert flags(extract)["--seed"] == "7"


@pytest.mark.parametrize(
    ("run", "of_extract", "of_train"),
    [
        (trained(), {}, {}),
        (trained(features_dir="/fast/f"), {"--features-dir": "/fast/f"}, None),
        (of_control(features_dir="features-control"), {"--set": "control"}, None),
        (
            of_control(features_dir="/fast/f-control"),
            {"--set": "control", "--features-dir": "/fast/f"},
            None,
        ),
        (trained(features_dir="un-control"), {"--features-dir": "un-control"}, None),
    ],
)
def test_commands_name_the_folder_that_extract_fills_and_training_reads(run, of_extract, of_train):
    _, extract, train, _ = written(run)
    here = ("--set", "--features-dir")
    assert {key: value for key, value in flags(extract).items() if key in here} == of_extract
    expected = {"--features-dir": run.features_dir} if of_train is None else of_train
    assert {key: value for key, value in flags(train).items() if key in here} == expected


def test_commands_of_a_chain_make_its_runs_one_after_another():
    lines = written(
        trained("blocks-1", "avg_pool"),
        trained("blocks-2", "mixed_9", parent="blocks-1"),
        trained("again", "mixed_9", parent="blocks-2"),
    )
    told = [(line[0], flags(line).get("--node"), flags(line).get("--run")) for line in lines]
    assert told == [
        ("compress", None, None),
        ("extract", "avg_pool", None),
        ("train-tail", "avg_pool", "blocks-1"),
        ("extract", "mixed_9", None),
        ("train-tail", "mixed_9", "blocks-2"),
        ("train-tail", "mixed_9", "again"),
        ("eval", None, None),
    ]
    assert [flags(line).get("--start-from") for line in lines if line[0] == "train-tail"] == [
        None,
        "blocks-1",
        "blocks-2",
    ]


def test_commands_of_a_cache_from_another_node_make_that_one_before():
    front = {"node": "mixed_8", "dtype": "float32", "sha256": "f0" * 32}
    _, first, second, _, _ = written(trained(from_node=front, dtype="uint8"))
    assert flags(first) == {
        "--node": "mixed_8",
        "--backbone": "inception_v3",
        "--dtype": "float32",
    }
    assert (flags(second)["--node"], flags(second)["--from-node"]) == ("mixed_9", "mixed_8")
    assert flags(second)["--dtype"] == "uint8"


def test_commands_of_a_chain_extract_a_node_in_front_once():
    front = {"node": "mixed_8", "dtype": "float32", "sha256": "f0" * 32}
    lines = written(
        trained("one", "mixed_9", from_node=front),
        trained("two", "mixed_8", parent="one", dtype="float32", shards=3),
    )
    assert [flags(line)["--node"] for line in lines if line[0] == "extract"] == [
        "mixed_8",
        "mixed_9",
    ]
    assert flags(lines[1])["--shards"] == "3"


def shown(workspace, name):
    """Give the commands on a run's page."""
    page = write(workspace, name, images=0)[2]
    return [shlex.split(e.text)[1:] for e in page.all("code") if "pre" in e.inside]


def reseed(workspace, name, seed):
    path = workspace / "runs" / name / "run.json"
    described = json.loads(path.read_text())
    described["fingerprint"]["seed"] = seed
    path.write_text(json.dumps(described))


def test_report_commands_of_a_run_with_another_seed_are_those_that_made_it(judged):
    reseed(judged, "second", 5)
    compress, _, first, _, second, _ = shown(judged, "second")
    assert (flags(compress)["--seed"], flags(second)["--seed"]) == ("0", "5")
    assert flags(first)["--run"] == "first"
    assert flags(second)["--start-from"] == "first"


def test_report_commands_without_index_and_first_run_leave_out_what_they_say(judged):
    (judged / "runs" / "first" / "run.json").unlink()
    (judged / "index" / "index.json").write_text("[]")
    lines = shown(judged, "second")
    assert [line[0] for line in lines] == ["compress", "extract", "train-tail", "eval"]
    assert "--seed" not in lines[0]


def test_commands_of_the_control_set_and_of_every_judging_come_last():
    control = of_control(backbone="inception_v3", dtype="float16").cache
    judgings = [["bottleneck", "eval"], ["bottleneck", "eval", "--folds", "5"]]
    own = trained(features_dir="other")
    *_, train, compress, extract, single, folds = written(
        own, control=control, evaluations=[*judgings, ()]
    )
    assert train[0] == "train-tail"
    assert compress[:3] == ["compress", "--set", "control"]
    assert extract[:5] == ["extract", "--set", "control", "--features-dir", "other"]
    assert flags(extract)["--dtype"] == "float16"
    assert [single, folds] == [words[1:] for words in judgings]
