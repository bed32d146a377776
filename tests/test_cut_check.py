"""The check of the cut: what passes, what stops an extract, and when it looks."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from extracting import (
    BEHIND,
    ROWS,
    Extract,
    MadeUp,
    MadeUpNetwork,
    fill,
    scores_of_front,
    scores_of_images,
    scores_of_pool,
)

from pipelines.errors import FeatureError
from pipelines.execution.tasks import Output
from pipelines.extraction import cut_check
from pipelines.extraction.cut_check import BOUNDS, Result
from pipelines.extraction.device import Scores
from pipelines.extraction.extractor import Extractor
from pipelines.storage.fingerprint import digest

BATCH_SIZE = 2
FLOAT32 = Extract(dtype="float32", batch_size=BATCH_SIZE)


def outputs_of(folder: Path, extract: Extract = FLOAT32) -> list[Output]:
    """Extract two nodes and take back what was checked."""
    done = fill(folder, extract)
    for output in done.outputs:
        (output.folder.path / "cut-check.json").unlink()
    return done.outputs


def worker(
    extract: Extract = FLOAT32,
    whole: Scores = scores_of_images,
    behind: Sequence[Scores] = BEHIND,
) -> Extractor:
    """Open the made-up network, or one with other parts."""
    return MadeUpNetwork(extract, whole=whole, behind=behind).open()


def check(
    outputs: Sequence[Output], num_images: int, extractor: Extractor | None = None
) -> list[bool]:
    """Have every cache checked that is ready and not checked; tells which were asked about."""
    extractor = extractor or worker()
    rows = extractor.source.num_rows()
    pieces = [cut_check.due(o, i, rows, num_images) for i, o in enumerate(outputs)]
    for output, piece in zip(outputs, pieces, strict=True):
        if piece is not None:
            cut_check.judge(output, piece.body.answer(extractor, lambda: None))
    return [piece is not None for piece in pieces]


def images() -> list[np.ndarray]:
    """Load all images, batch by batch; each is (branches, values)."""
    source = MadeUp(FLOAT32)
    return [
        batch.load()[: len(batch.ids)]
        for split, count in source.num_rows().items()
        for batch in source.inputs(split, 0, count, BATCH_SIZE)
    ]


def found_in(output: Output) -> dict | None:
    return output.folder.read_cut_check()


@pytest.mark.parametrize("num_images", [1, 2, 5, 6, 7, 100])
def test_check_whole_cache_compares_the_first_images_of_all_splits(tmp_path, num_images):
    outputs = outputs_of(tmp_path)
    assert check(outputs, num_images) == [True, True]
    for output in outputs:
        found = found_in(output)
        assert (found["num_images"], found["same_top1"]) == (min(num_images, 7), 1)
        assert found["max_difference"] <= found["bound"] == 1e-5
        assert found["start"] == "images"
        written = json.loads((output.folder.path / "cut-check.json").read_text())
        assert written == {**found, "check_sha256": digest(found)}


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_check_smaller_dtypes_differ_within_their_bound(tmp_path, dtype):
    outputs = outputs_of(tmp_path, Extract(dtype=dtype))
    check(outputs, 7)
    for output in outputs:
        assert 0 < found_in(output)["max_difference"] <= found_in(output)["bound"] == BOUNDS[dtype]


@pytest.mark.parametrize("format", ["parquet", "tfrecord"])
def test_check_groups_of_another_size_than_the_batches_are_compared_image_by_image(
    tmp_path, format
):
    outputs = outputs_of(tmp_path, Extract(dtype="float32", format=format, group_bytes=1))
    assert outputs[0].plan.details["rows_per_group"] == 1
    check(outputs, 6)
    assert found_in(outputs[0])["num_images"] == 6


def test_check_difference_is_relative_to_an_images_largest_score(tmp_path):
    outputs = outputs_of(tmp_path)

    def all_off_by_a_thousandth(front: np.ndarray) -> np.ndarray:
        scores = scores_of_front(front)
        return scores + 1e-6 * np.abs(scores).max(axis=2, keepdims=True)

    check(outputs, 7, worker(behind=[all_off_by_a_thousandth, scores_of_pool]))
    assert found_in(outputs[0])["max_difference"] == pytest.approx(1e-6, rel=0.1)
    assert found_in(outputs[1])["max_difference"] < 1e-6


def test_check_tail_that_gives_other_scores_stops_with_what_was_found(tmp_path):
    outputs = outputs_of(tmp_path)

    def off_by_a_tenth(front: np.ndarray) -> np.ndarray:
        scores = scores_of_front(front)
        return scores + 0.1 * np.abs(scores).max(axis=2, keepdims=True)

    message = (
        r"front: the tail behind the cache differs from the whole network by 0\.1 of an image's "
        r"largest score on 6 images, 100\.0% with the same best class; accepted is 1e-05; extract"
    )
    with pytest.raises(FeatureError, match=message):
        check(outputs, 6, worker(behind=[off_by_a_tenth, scores_of_pool]))
    assert found_in(outputs[0]) is None


@pytest.mark.parametrize("row", [0, 4, 6])
def test_check_one_score_of_one_branch_of_any_image_that_is_off_is_found(tmp_path, row):
    outputs = outputs_of(tmp_path)
    spoiled = [image for batch in images() for image in batch][row]

    def off_in_one(inputs: np.ndarray) -> np.ndarray:
        scores = scores_of_images(inputs)
        for i, image in enumerate(inputs):
            scores[i, 1, 2] += np.array_equal(image, spoiled)
        return scores

    with pytest.raises(FeatureError, match="on 7 images"):
        check(outputs, 7, worker(whole=off_in_one))


def test_check_tail_that_gives_no_numbers_stops(tmp_path):
    outputs = outputs_of(tmp_path)
    with pytest.raises(FeatureError, match="differs from the whole network by nan"):
        check(
            outputs,
            6,
            worker(behind=[lambda front: np.nan * scores_of_front(front), scores_of_pool]),
        )


def test_check_of_no_images_writes_nothing(tmp_path):
    outputs = outputs_of(tmp_path)
    assert check(outputs, 0) == [False, False]
    assert [found_in(output) for output in outputs] == [None, None]


def test_check_waits_for_the_shards_of_the_first_images(tmp_path):
    outputs = outputs_of(tmp_path)
    late = [task.shard for task in outputs[0].plan.tasks if task.split == "train"][-1]
    receipt = outputs[1].receipts.pop(late)
    assert check(outputs, 5) == [True, False]
    assert (found_in(outputs[0]) is None, found_in(outputs[1]) is None) == (False, True)
    outputs[1].receipts[late] = receipt
    assert check(outputs, 5) == [False, True]
    assert found_in(outputs[1])["num_images"] == 5


def test_check_that_was_made_is_not_made_again(tmp_path):
    outputs = outputs_of(tmp_path)
    check(outputs, 5)
    assert check(outputs, 5) == [False, False]
    assert check(outputs, 3) == [False, False]
    assert check(outputs, 6) == [True, True]


def test_check_question_is_small_and_gives_a_sign_of_life_a_batch(tmp_path):
    output, beats = outputs_of(tmp_path)[0], []
    piece = cut_check.due(output, 0, ROWS, 6)
    assert piece.name == f"the check of {output.folder.path}"
    assert len(pickle.dumps(piece)) < 1000
    piece.body.answer(worker(), lambda: beats.append(1))
    assert len(beats) == 4, "five images of train and one of val, two at once"


def test_check_of_a_plan_that_has_been_replaced_stops(tmp_path):
    outputs = outputs_of(tmp_path)
    piece = cut_check.due(outputs[0], 0, ROWS, 6)
    anew = Extract(dtype="float32", shards=4, overwrite=True)
    fill(tmp_path, anew)
    with pytest.raises(FeatureError, match="front: the plan has been replaced meanwhile; run ag"):
        piece.body.answer(worker(), lambda: None)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"num_images": 7}', "edited"])
def test_check_that_was_damaged_or_edited_is_made_again(tmp_path, content):
    outputs = outputs_of(tmp_path)
    check(outputs, 5)
    path = outputs[0].folder.path / "cut-check.json"
    before = path.read_text()
    path.write_text(
        before.replace('"num_images": 5', '"num_images": 7') if content == "edited" else content
    )
    assert path.read_text() != before
    assert found_in(outputs[0]) is None
    check(outputs, 5)
    assert path.read_text() == before


def test_check_that_fails_withdraws_a_manifest_that_came_without_one(tmp_path):
    outputs = outputs_of(tmp_path)
    manifest = outputs[0].folder.path / "manifest.json"
    assert manifest.exists()
    with pytest.raises(FeatureError):
        check(outputs, 6, worker(behind=[lambda front: -scores_of_front(front), scores_of_pool]))
    assert not manifest.exists()


@pytest.mark.parametrize(
    ("dtype", "difference", "same_top1", "expected"),
    [
        ("float32", 1e-5, 1.0, True),
        ("float32", 1.1e-5, 1.0, False),
        ("float32", 1e-6, 0.99, False),
        ("float16", 1e-2, 0.9, True),
        ("float16", 1.1e-2, 1.0, False),
        ("uint8", 1e-1, 0.8, True),
        ("uint8", 0.11, 1.0, False),
    ],
)
def test_result_is_passed_within_its_bound_and_float32_keeps_every_class(
    dtype, difference, same_top1, expected
):
    assert Result("images", 9, difference, BOUNDS[dtype], same_top1).is_passed is expected


def test_result_that_is_no_number_is_not_passed():
    assert not Result("images", 9, float("nan"), BOUNDS["uint8"], 1.0).is_passed
