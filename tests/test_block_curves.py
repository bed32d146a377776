"""The picture of a chain of blocks: what is drawn in it."""

import numpy as np
import pytest
from drawn import THESIS, badly_placed, lines, num_colours, pixels, words

from pipelines.analysis import block_curves
from pipelines.analysis.block_curves import BlockAccuracy, blocks_figure

NAMES = ["FC", "mixed_10", "mixed_9", "mixed_8"]


def bold(axes):
    return [text.get_text() for text in axes.texts if text.get_fontweight() == "bold"]


def test_blocks_show_the_thesis_s_figure():
    top1, top5 = blocks_figure(THESIS).axes
    drawn = lines(top1)
    assert drawn["topology"] == ([0, 1, 2, 3], [0.7777, 0.77896, 0.77936, 0.77964])
    assert drawn["default model"] == ([0, 1, 2, 3], [0.7759] * 4)
    assert lines(top5)["topology"] == ([0, 1, 2, 3], [0.93936, 0.9413, 0.94176, 0.94158])
    assert words(top1) == ["77.77%", "77.90%", "77.94%", "77.96%"] + ["77.59%"] * 4
    assert (bold(top1), bold(top5)) == (["77.96%"], ["94.18%"])
    assert [label.get_text() for label in top5.get_xticklabels()] == NAMES
    assert top1.figure.get_suptitle() == "Best validation accuracy by block, FC to mixed_8"


def test_blocks_trend_is_the_line_of_least_squares_through_the_topology():
    x, y = lines(blocks_figure(THESIS).axes[0])["topology, linear trend"]
    shares = np.array([block.top1[0] for block in THESIS])
    rising = np.array([-1.5, -0.5, 0.5, 1.5])
    slope = (rising * shares).sum() / (rising**2).sum()
    assert x == [0, 1, 2, 3]
    np.testing.assert_allclose(y, shares.mean() + slope * rising)


def test_blocks_of_two_have_no_trend():
    assert list(lines(blocks_figure(THESIS[:2]).axes[0])) == ["topology", "default model"]


@pytest.mark.parametrize("top5", [(None, None), (0.9, None)])
def test_blocks_without_top5_are_one_plot(top5):
    (axes,) = blocks_figure([*THESIS[:1], BlockAccuracy("b", (0.7, 0.8), top5)]).axes
    assert axes.get_title(loc="left") == "top-1 on val"


def test_blocks_numbers_stand_on_the_side_away_from_the_other_model():
    data = [BlockAccuracy("a", (0.8, 0.7)), BlockAccuracy("b", (0.7, 0.8))]
    (axes,) = blocks_figure(data).axes
    axes.figure.draw_without_rendering()
    above = {}
    for text in axes.texts:
        dot = axes.transData.transform(text.xy)[1]
        box = text.get_window_extent()
        assert dot + 4 < box.y0 or box.y1 < dot - 4  # the dot can be seen
        above[(text.get_text(), text.xy[0])] = box.y0 > dot
    expected = {("80.00%", 0): True, ("70.00%", 0): False, ("70.00%", 1): False}
    assert above == {**expected, ("80.00%", 1): True}


def test_blocks_differences_of_a_hair_are_not_stretched():
    data = [BlockAccuracy(name, (0.5, 0.5)) for name in ("a", "b")]
    low, high = blocks_figure(data).axes[0].get_ylim()
    assert high - low > 0.002


@pytest.mark.parametrize("num", [2, 4, 9, 17])
@pytest.mark.parametrize("name", ["mixed_{}", "block{}a_expand_activation"])
@pytest.mark.parametrize("distance", [0.0, 0.001, 0.1])
def test_blocks_words_stay_inside_and_apart(num, name, distance):
    data = [
        BlockAccuracy(name.format(i), (0.8 + 0.01 * (i % 3), 0.8 + 0.01 * (i % 3) - distance))
        for i in range(num)
    ]
    figure = blocks_figure(data)
    assert badly_placed(figure) == []
    for axes in figure.axes:
        for text in axes.texts:
            assert axes.bbox.y0 < text.get_window_extent().y0
            assert text.get_window_extent().y1 < axes.bbox.y1


def test_blocks_png_is_a_picture(tmp_path):
    block_curves.blocks(THESIS, tmp_path / "blocks.png")
    drawn = pixels(tmp_path / "blocks.png")
    assert drawn.shape == (975, 1500, 3)
    assert num_colours(drawn) > 100


@pytest.mark.parametrize("num", [0, 1])
def test_blocks_fewer_than_two_raise(num):
    with pytest.raises(ValueError, match="expected two or more"):
        blocks_figure(THESIS[:num])
