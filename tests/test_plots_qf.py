"""The picture of the originals' quality factors: what is drawn in it."""

import pytest
from drawn import COUNTS, pixels, words

from pipelines.analysis.plots import (
    qf_histogram,
    qf_histogram_figure,
)
from pipelines.images import quality


def test_qf_histogram_bars_are_the_counts():
    left, right = qf_histogram_figure(COUNTS).axes

    bars = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in left.patches}
    assert bars == {17: 1, 75: 4, 96: 10}
    assert left.get_xlim()[0] <= 0.5
    assert left.get_xlim()[1] >= 100.5
    assert left.get_title(loc="left").startswith("20 images, 5 of them (25.0%) no JPEG")
    listed = dict(zip(words(right)[::2], words(right)[1::2], strict=True))
    assert listed == {
        "median": "96",
        "most frequent": "96",
        "range": "17 to 96",
        "90 and above": "66.67%",
        "below 50": "6.67%",
    }


def test_qf_histogram_takes_what_the_estimates_give():
    counts = quality.qf_histogram([75, None, 100, 9, 75])

    left, right = qf_histogram_figure(counts).axes

    assert sorted(bar.get_height() for bar in left.patches) == [1, 1, 2]
    assert words(right)[:2] == ["median", "75"]


def test_qf_histogram_other_counts_other_pixels(tmp_path):
    qf_histogram(COUNTS, tmp_path / "one.png")
    qf_histogram({**COUNTS, "num_by_qf": {"17": 9, "75": 4, "96": 10}}, tmp_path / "other.png")

    one, other = pixels(tmp_path / "one.png"), pixels(tmp_path / "other.png")

    assert one.shape == other.shape == (600, 1500, 3)
    blue = [(picture == (0, 0x72, 0xB2)).all(axis=2) for picture in (one, other)]
    assert blue[1].sum() > 1.4 * blue[0].sum() > 2000


@pytest.mark.parametrize("num_unknown", [0, 7])
def test_qf_histogram_no_jpeg_says_so(num_unknown, tmp_path):
    counts = {"num_images": num_unknown, "num_unknown": num_unknown, "num_by_qf": {}}

    qf_histogram(counts, tmp_path / "none.png")

    left, right = qf_histogram_figure(counts).axes
    assert len(left.patches) == 0
    assert left.get_title(loc="left").startswith(f"{num_unknown} images, {num_unknown} of them")
    assert words(right)[0] == "none"
