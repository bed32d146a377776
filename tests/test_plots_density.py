"""The picture of density by channel: what is drawn in it."""

import numpy as np
import pytest
from drawn import (
    BRANCHES,
    colour,
    curves,
    example,
    map_colours,
    map_values,
    num_colours,
    panels,
    pixels,
    words,
)

from pipelines.analysis.plots import (
    ChannelDensity,
    channel_density,
    channel_density_figure,
)


def test_channel_density_png_is_a_picture_full_of_colours(tmp_path):
    channel_density(example(), tmp_path / "density.png")

    drawn = pixels(tmp_path / "density.png")

    assert drawn.shape == (1350, 1500, 3)
    assert num_colours(drawn) > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["density.png"]


def test_channel_density_other_branch_is_drawn_in_other_pixels(tmp_path):
    density = example()
    shares = density.shares.copy()
    shares[4, np.argsort(-shares[0])[:16]] = 0  # in q040, the 16 densest channels of the original
    channel_density(density, tmp_path / "one.png")
    channel_density(ChannelDensity("mixed_9", BRANCHES, 1234, shares), tmp_path / "other.png")

    one, other = pixels(tmp_path / "one.png"), pixels(tmp_path / "other.png")

    figure = channel_density_figure(density)
    figure.draw_without_rendering()
    box = panels(figure)[1][0].get_window_extent()
    differs = (one != other).any(axis=2)[::-1][round(box.y0) : round(box.y1)][::-1]
    bands = np.array_split(differs[:, round(box.x0) : round(box.x1)], len(BRANCHES))
    for name, band in zip(BRANCHES, bands, strict=True):
        share = band[5:-5, : band.shape[1] // 4].mean()
        assert share > 0.9 if name == "q040" else share < 0.1, name


def test_channel_density_map_shows_the_shares_in_the_original_s_order():
    density = example()

    _, (axes, _, _), _ = panels(channel_density_figure(density))

    order = np.argsort(-density.shares[0])
    np.testing.assert_allclose(map_values(axes), density.shares[:, order])
    assert (np.diff(map_values(axes)[0]) <= 0).all()
    assert [label.get_text() for label in axes.get_yticklabels()] == list(BRANCHES)
    assert axes.get_xlim() == (0, 64)
    assert "densest to the sparsest in original" in panels(axes.figure)[-1][0].get_xlabel()


def test_channel_density_map_colour_grows_lighter_with_density():
    shares = np.array([[0.0, 0.04, 0.2, 0.6, 1.0]])

    _, (axes, _, bar) = panels(channel_density_figure(ChannelDensity("n", ("a",), 1, shares)))

    lightness = map_colours(axes)[0, :, :3] @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness) < -0.05).all()  # drawn from the densest to the sparsest
    assert bar.get_ylim() == (0, 1)
    labels = [label.get_text() for label in bar.get_yticklabels()]
    assert labels == ["0%", "5%", "20%", "60%", "100%"]


def test_channel_density_changes_show_red_for_sparser_and_blue_for_denser():
    shares = np.array([[0.5, 0.4, 0.3], [0.3, 0.4, 0.5]])

    figure = channel_density_figure(ChannelDensity("n", ("original", "q010"), 1, shares))

    axes, means, _ = panels(figure)[2]
    np.testing.assert_allclose(map_values(axes), [[0, 0, 0], [-0.2, 0, 0.2]])
    (red, _, blue, _), (_, _, _, _), (red_end, _, blue_end, _) = map_colours(axes)[1]
    assert red > 2 * blue
    assert blue_end > 2 * red_end
    assert words(means) == ["0.00 pp", "13.33 pp"]
    assert "red is sparser, blue denser" in axes.get_title(loc="left")


def test_channel_density_few_large_changes_leave_the_others_their_colours():
    shares = np.full((2, 1000), 0.5)
    shares[1] += np.where(np.arange(1000) % 2, 0.01, -0.01)
    shares[1, 0] = 1

    figure = channel_density_figure(ChannelDensity("n", ("original", "q010"), 1, shares))

    axes = panels(figure)[2][0]
    strength = np.ptp(map_colours(axes)[1, 1:, :3], axis=1)
    assert strength.min() > 0.3


def test_channel_density_curves_mark_original_sparsest_and_densest():
    density = example()
    shares = density.shares * 0.5
    shares[3], shares[7] = density.shares[0] * 0.2, density.shares[0] * 0.9

    (axes, _, _), *_ = panels(channel_density_figure(ChannelDensity("n", BRANCHES, 1, shares)))

    found = curves(axes)
    for row, name in ((0, "#222222"), (3, "#D55E00"), (7, "#0072B2")):
        (curve,) = found.pop(colour(name))
        np.testing.assert_allclose(curve, np.sort(shares[row])[::-1])
    ((_, others),) = found.items()
    assert len(others) == 8
    means = shares.mean(axis=1)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        f"original, mean {means[0]:.2%}",
        f"sparsest other branch: q030, mean {means[3]:.2%}",
        f"densest other branch: q070, mean {means[7]:.2%}",
    ]


def test_channel_density_words_tell_node_counts_and_figures():
    shares = np.array([[0.0, 0.25, 0.5, 1.0], [0.0, 0.0, 0.5, 0.5]])

    figure = channel_density_figure(
        ChannelDensity("mixed_8", ("original", "q010"), 1281167, shares)
    )

    (_, table, _), (_, means, _), _ = panels(figure)
    assert figure.get_suptitle() == "mixed_8: 4 channels, 2 branches, 1,281,167 images"
    assert table.get_title(loc="left") == "original"
    listed = dict(zip(words(table)[::2], words(table)[1::2], strict=True))
    assert listed == {
        "mean": "43.75%",
        "median": "37.50%",
        "never active": "1",
        "always active": "1",
    }
    assert words(means) == ["43.75%", "25.00%"]


def test_channel_density_original_in_another_row_is_still_the_reference():
    shares = np.array([[0.1, 0.2, 0.3], [0.6, 0.5, 0.7]])

    figure = channel_density_figure(ChannelDensity("n", ("q010", "original"), 1, shares))

    np.testing.assert_allclose(map_values(panels(figure)[1][0]), shares[:, [2, 0, 1]])
    assert (map_values(panels(figure)[2][0])[1] == 0).all()


def test_channel_density_without_original_refers_to_the_first_branch():
    shares = np.array([[0.1, 0.2], [0.6, 0.5]])

    figure = channel_density_figure(ChannelDensity("n", ("q010", "q020"), 1, shares))

    assert panels(figure)[0][1].get_title(loc="left") == "q010"
    assert "in q010" in panels(figure)[2][0].get_xlabel()


@pytest.mark.parametrize(
    "shares",
    [
        np.array([[0.3]]),
        np.linspace(0, 1, 2048)[np.newaxis],
        np.full((11, 1), 0.5),
        np.zeros((11, 300)),
        np.ones((11, 2048)),
        np.linspace(1, 0, 64, dtype=np.float16).reshape(2, 32),
    ],
    ids=["one value", "one branch", "one channel", "all zeros", "all ones", "float16"],
)
def test_channel_density_extremes_are_drawn_without_a_warning(shares, tmp_path):
    density = ChannelDensity("avg_pool", BRANCHES[: len(shares)], 1, shares)

    channel_density(density, tmp_path / "density.png")

    assert num_colours(pixels(tmp_path / "density.png")) > 100


@pytest.mark.parametrize(
    "shares",
    [np.linspace(1, 0, 640) ** 12, np.linspace(1, 0, 640), np.linspace(1, 0.8, 640)],
    ids=["sparse", "even", "dense"],
)
def test_channel_density_legend_lies_where_no_curve_is(shares):
    figure = channel_density_figure(
        ChannelDensity("n", BRANCHES[:4], 1, shares * np.array([[1], [0.95], [0.99], [1]]))
    )

    (axes, _, _), *_ = panels(figure)
    figure.draw_without_rendering()
    box = axes.get_legend().get_window_extent().transformed(axes.transData.inverted())
    for curve in (values for group in curves(axes).values() for values in group):
        here = curve[max(0, int(box.x0)) : int(box.x1) + 1]
        assert len(here) > 100
        assert (here < box.y0).all() or (here > box.y1).all()


@pytest.mark.parametrize(
    ("branches", "shares", "message"),
    [
        (("original",), [[0.5], [0.5]], r"shares of shape \(2, 1\) for 1 branches"),
        (("original",), [0.5], r"shares of shape \(1,\) for 1 branches"),
        ((), np.zeros((0, 3)), r"at least one of each"),
        (("original",), np.zeros((1, 0)), r"at least one of each"),
        (("original",), [[0.5, 1.5]], "shares from 0.5 to 1.5, expected 0 to 1"),
        (("original",), [[0.5, -0.1]], "shares from -0.1 to 0.5, expected 0 to 1"),
        (("original",), [[0.5, np.nan]], "shares from nan to nan, expected 0 to 1"),
    ],
)
def test_channel_density_impossible_shares_raise(branches, shares, message):
    with pytest.raises(ValueError, match=message):
        ChannelDensity("mixed_9", branches, 1, np.array(shares))
