"""Settings: what each key takes, what it refuses, and that each says so for the user."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipelines.config import (
    TABLES,
    CompressConfig,
    EvalConfig,
    ExtractConfig,
    GlobalConfig,
    Table,
    TrainTailConfig,
)

MODELS = [*TABLES.values(), GlobalConfig]
KEYS = [(model, name) for model in MODELS for name in model.model_fields]


def key_id(value: object) -> str | None:
    return value.__name__ if isinstance(value, type) else None


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        *(("0.50 epochs", "0.5epochs"), ("1epoch", "1epochs"), (".5epochs", "0.5epochs")),
        *(("10epochs", "10epochs"), ("02000", "2000"), (2000, "2000"), ("0", "0")),
    ],
)
def test_number_of_steps_is_spelled_one_way(given, kept):
    assert TrainTailConfig(eval_every=given).eval_every == kept


@pytest.mark.parametrize(("model", "name"), KEYS, ids=key_id)
def test_key_has_a_sentence_and_says_what_is_allowed(model, name):
    field = model.model_fields[name]
    assert field.description.endswith(".")
    assert field.json_schema_extra["allowed"]


@pytest.mark.parametrize(("model", "name"), KEYS, ids=key_id)
def test_key_default_is_allowed(model, name):
    field = model.model_fields[name]
    assert model(**{field.alias or name: field.default}) == model()


@pytest.mark.parametrize("model", MODELS, ids=key_id)
def test_table_unknown_key_is_refused(model):
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        model(colour="red")


@pytest.mark.parametrize("model", MODELS, ids=key_id)
def test_table_cannot_be_changed(model):
    table = model()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(table, next(iter(model.model_fields)), 1)


def test_compress_config_default_is_ten_qualities():
    assert CompressConfig().qualities == tuple(range(10, 101, 10))


def test_train_tail_config_default_is_the_schedule_of_the_thesis():
    config = TrainTailConfig()
    assert (config.epochs, config.batch_size, config.learning_rate) == (20, 100, 0.01)
    assert (config.gradients, config.head_init, config.default) == ("original", "random", "trained")


@pytest.mark.parametrize(
    ("model", "key", "value", "expected"),
    [
        (CompressConfig, "qualities", "90, 10,50", (10, 50, 90)),
        (CompressConfig, "qualities", [100, 1], (1, 100)),
        (CompressConfig, "qualities", 50, (50,)),
        (CompressConfig, "limit", "12", 12),
        (CompressConfig, "workers", "auto", None),
        (CompressConfig, "workers", "3", 3),
        (CompressConfig, "task_index", "0", 0),
        (CompressConfig, "hang_timeout", "0", 0),
        (CompressConfig, "max_bad_share", "0.5", 0.5),
        (CompressConfig, "max_bad_share", 1, 1.0),
        (ExtractConfig, "node", ["a,b", "c"], ("a", "b", "c")),
        (ExtractConfig, "branches", "original,q010", ("original", "q010")),
        (ExtractConfig, "batch_size", "1", 1),
        (ExtractConfig, "batch_size", "auto", None),
        (ExtractConfig, "workers", "auto", None),
        (ExtractConfig, "workers", 2, 2),
        (ExtractConfig, "devices", "gpu", "gpu"),
        (ExtractConfig, "devices", "gpu:0,12", "gpu:0,12"),
        (ExtractConfig, "precision", "mixed_bfloat16", "mixed_bfloat16"),
        (ExtractConfig, "from_node", "mixed_8", "mixed_8"),
        (ExtractConfig, "dtype", "uint8", "uint8"),
        (ExtractConfig, "encoding", "dense", "dense"),
        (ExtractConfig, "format", "tfrecord", "tfrecord"),
        (ExtractConfig, "check_images", "0", 0),
        (ExtractConfig, "shard_size", "128MB", 128_000_000),
        (ExtractConfig, "shard_size", "1.5GB", 1_500_000_000),
        (ExtractConfig, "shard_size", "200 kB", 200_000),
        (ExtractConfig, "shard_size", "2M", 2_000_000),
        (ExtractConfig, "shard_size", "1T", 10**12),
        (ExtractConfig, "shard_size", "700", 700),
        (ExtractConfig, "shard_size", "700B", 700),
        (ExtractConfig, "shard_size", 700, 700),
        (TrainTailConfig, "run", "second-try_2.0", "second-try_2.0"),
        (EvalConfig, "top_k", "10, 1,3", (1, 3, 10)),
        (EvalConfig, "top_k", ["5", "2,7"], (2, 5, 7)),
        (EvalConfig, "top_k", [20, 1], (1, 20)),
        (EvalConfig, "top_k", 3, (3,)),
        (EvalConfig, "top_k", "", ()),
        (EvalConfig, "top_k", [], ()),
        (EvalConfig, "folds", "5", 5),
        (EvalConfig, "compare", "mean, a,b", ("mean", "a", "b")),
        (GlobalConfig, "seed", str(2**32 - 1), 2**32 - 1),
        (GlobalConfig, "verbosity", -1, -1),
    ],
)
def test_key_value_as_file_or_flag_gives_it_is_understood(model, key, value, expected):
    assert getattr(model(**{key: value}), key) == expected


@pytest.mark.parametrize(
    ("model", "key", "value"),
    [
        (CompressConfig, "images", 5),
        (CompressConfig, "qualities", []),
        (CompressConfig, "qualities", ""),
        (CompressConfig, "qualities", [10, 0]),
        (CompressConfig, "qualities", "10,101"),
        (CompressConfig, "qualities", [10, 20, 10]),
        (CompressConfig, "qualities", [10.5]),
        (CompressConfig, "qualities", [True]),
        (CompressConfig, "qualities", "ten"),
        (CompressConfig, "subsampling", "4:1:1"),
        (CompressConfig, "shards", -1),
        (CompressConfig, "workers", True),
        (CompressConfig, "workers", 0),
        (CompressConfig, "workers", "all"),
        (CompressConfig, "task_index", -1),
        (CompressConfig, "num_tasks", 0),
        (CompressConfig, "hang_timeout", -1),
        (CompressConfig, "limit", 1.5),
        (CompressConfig, "max_bad_share", 1.01),
        (CompressConfig, "max_bad_share", -0.01),
        (CompressConfig, "max_bad_share", float("nan")),
        (CompressConfig, "max_megapixels", 0),
        (CompressConfig, "max_megapixels", float("inf")),
        (CompressConfig, "overwrite", "perhaps"),
        (ExtractConfig, "dtype", "float64"),
        (ExtractConfig, "format", "hdf5"),
        (ExtractConfig, "batch_size", 0),
        (ExtractConfig, "workers", 0),
        (ExtractConfig, "threads", 0),
        (ExtractConfig, "precision", "float16"),
        (ExtractConfig, "devices", "tpu"),
        (ExtractConfig, "devices", "gpu:"),
        (ExtractConfig, "devices", "gpu:0,"),
        (ExtractConfig, "devices", "gpu:-1"),
        (ExtractConfig, "devices", "cpu:0"),
        (ExtractConfig, "devices", ""),
        (ExtractConfig, "dtype", "int8"),
        (ExtractConfig, "encoding", "csr"),
        (ExtractConfig, "format", "Parquet"),
        (ExtractConfig, "check_images", -1),
        (ExtractConfig, "check_images", True),
        (ExtractConfig, "shard_size", "0"),
        (ExtractConfig, "shard_size", 0),
        (ExtractConfig, "shard_size", "0.1"),
        (ExtractConfig, "shard_size", "-1MB"),
        (ExtractConfig, "shard_size", "MB"),
        (ExtractConfig, "shard_size", "12 mb"),
        (ExtractConfig, "shard_size", "1e3MB"),
        (ExtractConfig, "shard_size", "12MB and more"),
        (ExtractConfig, "shard_size", 1.5),
        (ExtractConfig, "shard_size", True),
        (TrainTailConfig, "expand", "gpu"),
        (TrainTailConfig, "run", "../elsewhere"),
        (TrainTailConfig, "run", ".."),
        (TrainTailConfig, "run", "a\\b"),
        (TrainTailConfig, "start_from", "runs/a"),
        (TrainTailConfig, "epochs", 0),
        (TrainTailConfig, "learning_rate", 0),
        (TrainTailConfig, "learning_rate", float("nan")),
        (TrainTailConfig, "gradients", "none"),
        (TrainTailConfig, "patience", 0),
        (EvalConfig, "split", "train"),
        (EvalConfig, "run", " padded "),
        (EvalConfig, "top_k", "0"),
        (EvalConfig, "top_k", [-1]),
        (EvalConfig, "top_k", "1,5,1"),
        (EvalConfig, "top_k", "first"),
        (EvalConfig, "top_k", [1.5]),
        (EvalConfig, "top_k", [True]),
        (EvalConfig, "folds", -1),
        (EvalConfig, "seeds", 0),
        (EvalConfig, "protocol", "fair"),
        (EvalConfig, "output", "html"),
        (GlobalConfig, "seed", -1),
        (GlobalConfig, "seed", 2**32),
        (GlobalConfig, "verbosity", 2),
        (GlobalConfig, "json", "perhaps"),
    ],
)
def test_key_value_out_of_range_is_refused_by_name(model, key, value):
    with pytest.raises(ValidationError) as caught:
        model(**{key: value})
    assert {error["loc"][0] for error in caught.value.errors()} == {key}


def test_extract_config_default_is_a_cache_that_is_small_and_checked():
    config = ExtractConfig()
    assert (config.dtype, config.encoding, config.format) == ("float16", "auto", "parquet")
    assert (config.shard_size, config.shards, config.check_images) == (128_000_000, 0, 32)
    assert config.from_node == ""


def test_extract_config_default_takes_the_devices_there_are():
    config = ExtractConfig()
    assert (config.devices, config.workers, config.batch_size) == ("auto", None, None)
    assert (config.precision, config.threads, config.on_the_fly) == ("float32", 2, False)


@pytest.mark.parametrize("model", [CompressConfig, ExtractConfig])
def test_config_default_is_all_of_the_work(model):
    config = model()
    assert (config.task_index, config.num_tasks, config.hang_timeout) == (0, 1, 600)


def test_tables_are_the_stages_in_their_order():
    expected = ["compress", "extract", "train-tail", "eval", "report", "explain"]
    expected += ["predict", "export", "status", "runs", "stats", "verify"]
    assert list(TABLES) == expected
    assert all(issubclass(model, Table) for model in TABLES.values())
