"""The pictures' files: whole, always the same, of the kinds that they may be."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from drawn import COUNTS, example, pixels
from PIL import Image

from pipelines.analysis.plots import (
    ChannelDensity,
    channel_density,
    qf_histogram,
)
from pipelines.errors import ShardError

ROOT = Path(__file__).resolve().parents[1]


def test_pictures_same_data_same_bytes_in_another_process(tmp_path):
    # PNG alone: ids in an SVG are matplotlib's own.
    channel_density(example(num_branches=2, num_channels=16), tmp_path / "density.png")
    qf_histogram(COUNTS, tmp_path / "qf.png")
    again = tmp_path / "again"
    again.mkdir()

    script = (
        "import sys, pathlib; sys.path.insert(0, 'tests')\n"
        "import drawn; from pipelines.analysis import plots\n"
        f"folder = pathlib.Path({str(again)!r})\n"
        "plots.channel_density(drawn.example(2, 16), folder / 'density.png')\n"
        "plots.qf_histogram(drawn.COUNTS, folder / 'qf.png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)

    for name in ("density.png", "qf.png"):
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
