"""Examples to draw, and what can be read back from a drawing."""

from itertools import combinations

import numpy as np
from PIL import Image

from pipelines.analysis.block_curves import BlockAccuracy
from pipelines.analysis.curves import Point, Training
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


def lines(axes):
    """Give the lines of a plot that have a label, as (x, y) lists by it."""
    return {
        line.get_label(): tuple(np.asarray(values).tolist() for values in line.get_data())
        for line in axes.get_lines()
        if not line.get_label().startswith("_")
    }


def badly_placed(figure):
    """List the words of a drawing that reach out of it, and pairs that run into each other."""
    figure.draw_without_rendering()
    words = list(_words(figure))
    boxes = [word.get_window_extent().padded(-1) for word in words]
    whole = figure.bbox
    found = []
    for word, box in zip(words, boxes, strict=True):
        if box.x0 < whole.x0 or box.x1 > whole.x1 or box.y0 < whole.y0 or box.y1 > whole.y1:
            found.append(word.get_text())
    for one, other in combinations(range(len(words)), 2):
        is_turned = words[one].get_rotation() and words[other].get_rotation()  # boxes are not
        if boxes[one].overlaps(boxes[other]) and not is_turned:
            found.append((words[one].get_text(), words[other].get_text()))
    return found


def _words(figure):
    """Give all words of a figure that are in sight."""
    all_axes = [*figure.axes, *(child for axes in figure.axes for child in axes.child_axes)]
    found = [figure._suptitle, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in all_axes:
        found += [axes._left_title, *axes.texts]
        found += axes.get_legend().get_texts() if axes.get_legend() else []
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            margin = 1e-9 * (high - low)
            ticks = [
                tick
                for tick in axis.get_major_ticks()
                if low - margin <= tick.get_loc() <= high + margin
            ]
            found += [axis.label, *(tick.label1 for tick in ticks), *(t.label2 for t in ticks)]
    return [text for text in found if text and text.get_visible() and text.get_text().strip()]


def points(num, every=5, steps_per_epoch=5, *, has_top5=False, rate=0.01, seed=0):
    """Give evaluations of a model that learns: a loss that falls, an accuracy that rises.

    Args:
        num: evaluations, the first before the first step.
        every: steps between them.
        steps_per_epoch: of the train split.
        has_top5: there are more than five classes.
        rate: the learning rate, or a function of the evaluation's number.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    found = []
    for number in range(num):
        left = float(np.exp(-5 * number / num))
        top1 = 0.01 + 0.75 * (1 - left) + rng.uniform(0, 0.02)
        found.append(
            Point(
                step=number * every,
                epoch=number * every / steps_per_epoch,
                learning_rate=rate(number) if callable(rate) else rate,
                train_loss=0.9 + 6 * left + rng.uniform(0, 0.1) if number else None,
                val_loss=1 + 6 * left + rng.uniform(0, 0.1),
                val_top1=top1,
                val_top5=min(1.0, top1 + 0.15) if has_top5 else None,
            )
        )
    return found


def training(topology, default=(), run="mixed_9"):
    return Training(run, "mixed_9", topology, default)


# Thesis, tables 4.4 and 4.5.
THESIS = [
    BlockAccuracy("FC", (0.7777, 0.7759), (0.93936, 0.9383)),
    BlockAccuracy("mixed_10", (0.77896, 0.7759), (0.9413, 0.9383)),
    BlockAccuracy("mixed_9", (0.77936, 0.7759), (0.94176, 0.9383)),
    BlockAccuracy("mixed_8", (0.77964, 0.7759), (0.94158, 0.9383)),
]
