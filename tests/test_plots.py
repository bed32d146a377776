"""The pictures: what is drawn in them, and that their files are whole and always the same."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.analysis.plots import (
    ChannelDensity,
    channel_density,
    channel_density_figure,
    qf_histogram,
    qf_histogram_figure,
)
from pipelines.errors import ShardError
from pipelines.images import quality

ROOT = Path(__file__).resolve().parents[1]
BRANCHES = ("original", *(f"q{qf:03d}" for qf in range(10, 101, 10)))
COUNTS = {"num_images": 20, "num_unknown": 5, "num_by_qf": {"17": 1, "75": 4, "96": 10}}


def example(num_branches=11, num_channels=64, seed=0):
    """Give shares that fall from channel to channel, a little lower at low quality."""
    rng = np.random.default_rng(seed)
    base = rng.permutation(np.linspace(0, 0.9, num_channels) ** 2)
    less = 1 - 0.3 * rng.uniform(size=(num_branches, num_channels))
    less[0] = 1
    return ChannelDensity("mixed_9", BRANCHES[:num_branches], 1234, base * less)


def panels(figure):
    """Name the axes of a density figure: `left`, `right` and `bar` of each row from the top."""
    return [figure.axes[start : start + 3] for start in range(0, len(figure.axes), 3)]


def map_values(axes):
    """Read a map back: one image for each branch, from the top down."""
    images = sorted(axes.images, key=lambda image: image.get_extent()[3])
    assert [image.get_extent()[3] for image in images] == list(range(len(images)))
    return np.concatenate([np.asarray(image.get_array()) for image in images])


def map_colours(axes):
    """Give the colours of a map, float (branch, channel, RGBA)."""
    images = sorted(axes.images, key=lambda image: image.get_extent()[3])
    return np.concatenate([image.to_rgba(image.get_array()) for image in images])


def curves(axes):
    """Give the outlines by colour: the values of every curve that has it."""
    found = {}
    for patch in axes.patches:
        if not patch.get_fill():
            found.setdefault(patch.get_edgecolor()[:3], []).append(patch.get_data().values)
    return found


def colour(name):
    from matplotlib.colors import to_rgb

    return to_rgb(name)


def words(axes):
    return [text.get_text() for text in axes.texts]


def num_colours(drawn):
    return len(np.unique(drawn.astype(np.uint32) @ np.array([65536, 256, 1], dtype=np.uint32)))


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


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


def test_pictures_same_data_same_bytes_in_another_process(tmp_path):
    kind = "png"  # ids in an SVG are matplotlib's own
    channel_density(example(num_branches=2, num_channels=16), tmp_path / f"density.{kind}")
    qf_histogram(COUNTS, tmp_path / f"qf.{kind}")
    again = tmp_path / "again"
    again.mkdir()

    script = (
        "import sys, pathlib; sys.path.insert(0, 'tests'); import test_plots as t\n"
        f"folder = pathlib.Path({str(again)!r})\n"
        f"t.channel_density(t.example(2, 16), folder / 'density.{kind}')\n"
        f"t.qf_histogram(t.COUNTS, folder / 'qf.{kind}')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)

    for name in (f"density.{kind}", f"qf.{kind}"):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_pictures_hold_neither_date_nor_version(kind, tmp_path):
    import matplotlib

    qf_histogram(COUNTS, tmp_path / f"qf.{kind}")

    data = (tmp_path / f"qf.{kind}").read_bytes()
    assert matplotlib.__version__.encode() not in data
    assert b"Matplotlib" not in data
    assert b"<dc:date>" not in data
    if kind == "png":
        with Image.open(io.BytesIO(data)) as image:
            assert set(image.info) <= {"dpi"}


def test_pictures_user_s_own_settings_change_nothing_and_stay(tmp_path):
    import matplotlib

    qf_histogram(COUNTS, tmp_path / "plain.png")
    own = {"axes.facecolor": "pink", "font.size": 20.0, "axes.grid": True, "svg.hashsalt": "mine"}
    with matplotlib.rc_context(own):
        qf_histogram(COUNTS, tmp_path / "own.png")
        kept = {key: matplotlib.rcParams[key] for key in own}

    assert (tmp_path / "own.png").read_bytes() == (tmp_path / "plain.png").read_bytes()
    assert kept == own


def test_channel_density_svg_holds_lines_images_and_words(tmp_path):
    from xml.etree import ElementTree

    channel_density(example(), tmp_path / "density.svg")

    root = ElementTree.parse(tmp_path / "density.svg").getroot()
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert root.tag.endswith("}svg")
    assert {"path", "image", "use"} <= names


def test_dollar_signs_in_a_name_are_drawn_as_they_are(tmp_path):
    shares = np.array([[0.5]])

    channel_density(ChannelDensity("a$\\frac$b", ("$x",), 1, shares), tmp_path / "density.png")

    assert pixels(tmp_path / "density.png").size > 0


@pytest.mark.parametrize("name", ["density.jpg", "density"])
def test_picture_of_another_kind_raises_and_writes_nothing(name, tmp_path):
    with pytest.raises(ValueError, match=r"expected \.png or \.svg"):
        qf_histogram(COUNTS, tmp_path / name)

    assert list(tmp_path.iterdir()) == []


def test_picture_in_a_missing_folder_raises(tmp_path):
    with pytest.raises(ShardError, match="cannot be written"):
        qf_histogram(COUNTS, tmp_path / "missing" / "qf.png")


def test_importing_plots_leaves_matplotlib_alone():
    script = "import sys, pipelines.analysis.plots; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
