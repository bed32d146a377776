"""The small parts of a report: words, coordinates, differences, choices, commands, SVG."""

from __future__ import annotations

import json
import shlex
from xml.etree import ElementTree

import click
import numpy as np
import pytest

from bottleneck_cli.main import main
from pipelines import workspace
from pipelines.analysis.curves import Point
from pipelines.analysis.verdicts import Difference
from pipelines.reporting import commands, differences, figures, gallery, marks, sections, svg, words
from pipelines.reporting.commands import Trained
from pipelines.reporting.figures import Measured
from pipelines.reporting.marks import Scale


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (words.percent(0.8333), "83.33%"),
        (words.percent(None), "–"),
        (words.points(0.03333), "+3.33"),
        (words.points(-0.1), "−10.00"),
        (words.points(-0.00001), "0.00"),
        (words.interval((-0.0222, 0.0889)), "−2.22 to +8.89"),
        (words.percents((0.5, 0.75)), "50.0 to 75.0%"),
        (words.p_value(0.00099), "< 0.001"),
        (words.p_value(0.0598), "0.060"),
        (words.p_value(0.453), "0.45"),
        (words.signed(-3), "−3"),
        (words.signed(0), "0"),
        (words.branch("q010"), "quality 10"),
        (words.branch("control_03"), "control 03"),
        (words.tick("q100"), "100"),
        (words.tick("control_03"), "03"),
        (words.comparator("branch_q090"), "default on quality 90"),
        (words.comparator("run_a-copies"), "run a-copies"),
        (words.rank(0), "1"),
    ],
)
def test_words_are_those_a_reader_expects(written, expected):
    assert written == expected


def test_scale_holds_zero_and_every_interval():
    scale = Scale.of([(0.01, 0.03), (0.02, 0.08)], width=100)
    assert 0 < scale.zero < scale.place(0.01) < scale.place(0.08) < 100


def test_scale_does_not_stretch_tiny_differences():
    scale = Scale.of([(-0.0001, 0.0001)], width=100)
    assert scale.place(0.0001) - scale.place(-0.0001) < 3


@pytest.mark.parametrize(
    ("bounds", "p", "kind"),
    [
        ((0.01, 0.02), 0.049, "better"),
        ((-0.02, -0.01), 0.049, "worse"),
        ((0.01, 0.1), 0.0625, "chance"),  # five images of 90 changed: resampling says otherwise
        ((0.0, 0.1), None, "chance"),
    ],
)
def test_whisker_kind_is_that_of_the_test(bounds, p, kind):
    mark = marks.whisker(Difference(sum(bounds) / 2, p), bounds, Scale.of([bounds]))
    assert mark.kind == kind
    assert mark.left < mark.dot < mark.right


def test_spark_goes_through_the_box_and_marks_the_best():
    spark = marks.spark([0.0, 1.0, 0.5], 0.25, 1)
    assert spark.points == "4.0,32.0 60.0,4.0 116.0,18.0"
    assert (spark.level, spark.dot) == (25.0, (60.0, 4.0))


def test_difference_is_the_amplified_change_on_a_middle_gray():
    original = np.full((40, 40, 3), 100, np.uint8)
    version = original.copy()
    version[:20] = 110
    drawn, factor = differences.difference(original, version)
    assert factor == 8  # 16 times 10 would not fit
    assert np.unique(drawn[:20]).tolist() == [128 + 80]
    assert np.unique(drawn[20:]).tolist() == [128]


def test_difference_of_equal_images_is_gray():
    original = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    drawn, factor = differences.difference(original, original)
    assert factor == 16
    assert (drawn == 128).all()


def test_most_changed_is_the_square_found_by_trying_all():
    rng = np.random.default_rng(1)
    original = rng.integers(0, 256, (23, 31, 3)).astype(np.uint8)
    version = rng.integers(0, 256, (23, 31, 3)).astype(np.uint8)
    change = np.abs(version.astype(int) - original).sum(axis=2)
    sums = {
        (top, left): change[top : top + 8, left : left + 8].sum()
        for top in range(16)
        for left in range(24)
    }
    best = max(sums, key=lambda place: sums[place])
    assert differences.most_changed(original, version, 8) == (*best, 8, 8)


def test_most_changed_of_a_small_image_is_all_of_it():
    pixels = np.zeros((5, 1, 3), np.uint8)
    assert differences.most_changed(pixels, pixels, 32) == (0, 0, 5, 1)


def test_fitted_gives_a_version_of_another_size_the_originals():
    pixels = np.zeros((10, 20, 3), np.uint8)
    assert differences.fitted(pixels, (7, 9, 3)).shape == (7, 9, 3)
    assert differences.fitted(pixels, (10, 20, 3)) is pixels


def test_choose_draws_without_favour_and_keeps_the_order():
    rows = np.arange(0, 1000, 2)
    counts = np.zeros(500)
    for seed in range(300):
        chosen = gallery.choose(rows, 50, seed)
        assert len(np.unique(chosen)) == 50
        assert (np.diff(chosen) > 0).all()
        counts[chosen // 2] += 1
    assert abs(counts[:250].sum() - counts[250:].sum()) < 0.05 * counts.sum()
    assert gallery.choose(rows, 50, 3).tolist() == gallery.choose(rows, 50, 3).tolist()
    assert gallery.choose(rows, 500, 3) is rows


def test_leaning_names_the_branch_that_is_missed_most():
    found = sections.leaning({"q010": 0.004, "q030": 0.021, "q100": -0.002})
    assert found is not None
    assert found.sentence.startswith("It leans most on quality 30: ")
    assert "2.10 points" in found.sentence
    assert [name for name, _, _ in found.rows] == ["quality 30", "quality 10", "quality 100"]
    none = sections.leaning({"q010": -0.004, "q100": 0.0})
    assert none is not None
    assert "no single branch" in none.sentence
    assert sections.leaning({}) is None


def test_flattened_names_the_path_of_every_value():
    nested = {"b": {"y": [1, 2], "x": None}, "a": True, "c": []}
    expected = [("a", "True"), ("b › x", "none"), ("b › y", "1, 2"), ("c", "none")]
    assert sections.flattened(nested) == expected


def test_commands_are_accepted_by_the_program_and_mean_the_same(judged_once):
    run = json.loads((judged_once / "runs" / "second" / "run.json").read_text())
    made = {
        **run["fingerprint"],
        "branches": ["original", "q010"],
        "patience": 3,
        "cache": {
            **run["fingerprint"]["cache"],
            "backbone": "efficientnet_lite0",
            "weights": "imagenet",
            "dtype": "uint8",
            "branches": ["original", "q010"],
            "batch_size": 8,
            "shard_bytes": 128_000_000,
            "profile": {"precision": "float32", "threads": 2, "device": "cpu"},
        },
    }
    chain = [Trained("it's", "mixed_9", "features", made)]
    index = json.loads((judged_once / "index" / "index.json").read_text())["fingerprint"]
    judging = ["bottleneck", "eval", "--run", "it's"]
    lines = commands.of_run(chain, index, None, [judging])
    assert [line.split()[1] for line in lines] == ["compress", "extract", "train-tail", "eval"]
    configs = []
    group = click.Context(main, **main.context_settings)
    for line in lines:
        _, name, *arguments = shlex.split(line)
        given = main.get_command(group, name).make_context(name, arguments, group).params
        table = {"train-tail": "train-tail"}.get(name, name)
        known = {key: given[key] for key in workspace.TABLES[table].model_fields}
        configs.append(workspace.table({}, table, {k: v for k, v in known.items() if v != ()}))
    compress, extract, train, _ = configs
    assert compress.qualities == (10, 50, 90)
    assert (extract.dtype, extract.shard_size, extract.batch_size) == ("uint8", 128_000_000, 8)
    assert (train.run, train.start_from, train.learning_rate, train.patience) == (
        "it's",
        "first",
        0.05,
        3,
    )
    assert train.branches == ("original", "q010")


def test_svg_is_whole_and_has_nothing_of_its_own_ground_or_style():
    hostile = '<script>x</script> & "y"'
    middle = [Measured(0.5, (0.4, 0.6)), Measured(0.6, (0.5, 0.7))]
    figure = figures.by_block([hostile, "FC"], {"topology": middle, "default": middle})
    text = str(svg.inline(figure, "one", hostile, "words"))
    root = ElementTree.fromstring(text)
    assert (root.tag, root.get("role")) == ("svg", "img")
    assert root[0].text == hostile
    assert [e.tag for e in root.iter() if e.tag in ("style", "metadata", "script")] == []
    assert [e for e in root.iter() if "style" in e.attrib] == []
    assert hostile in "".join(root.itertext())
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert all(name.startswith("one-") for name in ids)
    used = [e.get("href")[1:] for e in root.iter() if e.get("href")]
    assert used
    assert set(used) <= set(ids)


def test_svg_is_the_same_each_time():
    middle = [Measured(0.5, (0.4, 0.6))] * 2
    drawn = [
        svg.inline(figures.by_branch(["10", "20"], middle, 0.5, 0.6), "a", "t", "w")
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (383_053, "383.1 kB"),
        (2_300_000_000_000, "2.3 TB"),
    ],
)
def test_sizes_are_shown_in_decimal_units(size_bytes, shown):
    assert words.size(size_bytes) == shown


def test_thinned_keeps_short_histories_and_of_long_ones_the_best_and_the_last():
    points = [
        Point(step, step / 10, 0.1, 1.0, 0.5, 0.9 if step == 777 else 0.5) for step in range(1001)
    ]
    assert sections.thinned(points[:100]) == points[:100]
    kept = sections.thinned(points)
    assert len(kept) <= 102
    assert {points[0], points[777], points[1000]} <= set(kept)
    assert [point.step for point in kept] == sorted(point.step for point in kept)
