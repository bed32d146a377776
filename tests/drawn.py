"""Examples to draw, and what can be read back from a drawing."""

import numpy as np
from PIL import Image

from pipelines.analysis.plots import ChannelDensity

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
