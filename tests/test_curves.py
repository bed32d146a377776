"""The picture of a run's training: what is drawn in it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn import badly_placed, colour, lines, pixels, points, training, words

from pipelines.analysis import curves
from pipelines.analysis.curves import Point, training_figure
from pipelines.errors import ShardError

ROOT = Path(__file__).resolve().parents[1]
PRETRAINED = Point(0, 0.0, None, None, 1.04, 0.7759, 0.9383)


def panels(figure):
    """Give the axes of losses, accuracies and rates, and those of the table."""
    return (*figure.axes[0:6:2], figure.axes[3])


def numbers(axis):
    """Give the numbers at an axis that are in sight."""
    axis.axes.figure.draw_without_rendering()
    low, high = sorted(axis.get_view_interval())
    labels = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
    return [label.get_text() for place, label in labels if low <= place <= high]


def stars(axes):
    """Give where the stars are, by colour."""
    from matplotlib.colors import to_rgb

    return {
        to_rgb(line.get_color()): (line.get_xdata()[0], line.get_ydata()[0])
        for line in axes.get_lines()
        if line.get_marker() == "*"
    }


def test_training_losses_are_the_evaluations_of_both_models():
    topology, default = points(7), points(4, seed=1)
    drawn = lines(panels(training_figure(training(topology, default)))[0])
    assert drawn == {
        "topology, train": ([5, 10, 15, 20, 25, 30], [p.train_loss for p in topology[1:]]),
        "topology, val": ([0, 5, 10, 15, 20, 25, 30], [p.val_loss for p in topology]),
        "default model, train": ([5, 10, 15], [p.train_loss for p in default[1:]]),
        "default model, val": ([0, 5, 10, 15], [p.val_loss for p in default]),
    }


def test_training_star_is_the_earliest_of_the_best_evaluations():
    topology, default = points(7), points(7, seed=1)
    for number in (3, 5):
        topology[number] = replace(topology[number], val_top1=0.9)
    default[0] = replace(default[0], val_top1=0.95)
    axes, table = panels(training_figure(training(topology, default)))[1::2]
    assert stars(axes) == {colour("#0072B2"): (15, 0.9), colour("#D55E00"): (0, 0.95)}
    assert words(table) == [
        *("topology", "90.00%", "    step", "15", "    epoch", "3"),
        *("default model", "95.00%", "    step", "0", "    epoch", "0"),
        *("difference", "-5.00 pp"),
    ]


def test_training_top5_where_there_is_one_is_that_of_the_best_checkpoint():
    topology = points(3, has_top5=True)
    topology[1] = replace(topology[1], val_top1=0.9, val_top5=0.91)
    assert words(panels(training_figure(training(topology)))[3])[:4] == [
        *("topology", "90.00%", "    top-5", "91.00%")
    ]


def test_training_pretrained_default_model_is_a_level():
    data = training(points(7, has_top5=True), [PRETRAINED])
    losses, accuracies, rates, table = panels(training_figure(data))
    assert lines(losses)["default model, val"] == ([0, 1], [1.04, 1.04])  # of the axes' width
    assert "default model, train" not in lines(losses)
    assert list(stars(accuracies)) == [colour("#0072B2")]
    assert [0.7759, 0.7759] in [list(line.get_ydata()) for line in accuracies.get_lines()]
    assert len(rates.get_lines()) == 1
    assert words(table)[8:12] == ["default model", "77.59%", "    top-5", "93.83%"]


@pytest.mark.parametrize(
    ("every", "steps_per_epoch", "shown"),
    [(5, 5, ["0", "1", "2", "3", "4"]), (2000, 12811, ["0.0", "0.1", "0.2", "0.3", "0.4"])],
)
def test_training_epochs_stand_above_the_steps(every, steps_per_epoch, shown):
    figure = training_figure(training(points(5, every, steps_per_epoch), points(3, every)))
    losses, _, rates, _ = panels(figure)
    (above,) = losses.child_axes
    assert numbers(above.xaxis)[:5] == shown
    low, high = (step / steps_per_epoch for step in rates.get_xlim())
    assert above.get_xlim() == pytest.approx((low, high))
    assert low < 0 < 4 * every / steps_per_epoch < high


def test_training_learning_rates_that_vary_by_more_than_ten_are_on_a_logarithmic_axis():
    cut = points(6, rate=lambda number: 0.01 if number < 3 else 0.0001)
    rates = panels(training_figure(training(cut)))[2]
    assert rates.get_yscale() == "log"
    assert numbers(rates.yaxis) == ["0.0001", "0.001", "0.01"]
    assert list(rates.get_lines()[0].get_ydata()) == [0.01, 0.01, 0.01, 0.0001, 0.0001, 0.0001]


@pytest.mark.parametrize("last", [0.003, 0.0003])
def test_training_learning_rates_that_vary_by_less_begin_at_zero(last):
    cut = points(6, rate=lambda number: 0.003 if number < 3 else last)
    rates = panels(training_figure(training(cut)))[2]
    assert rates.get_yscale() == "linear"
    assert numbers(rates.yaxis) == ["0", "0.003"]


def test_training_learning_rate_of_zero_at_the_end_of_a_cosine_stays_out_of_a_logarithmic_axis():
    rates = panels(training_figure(training(points(6, rate=lambda number: [1, 0][number == 5]))))[2]
    assert rates.get_ylim()[0] == 0
    falling = points(6, rate=lambda number: [1, 0.5, 0.1, 0.01, 0.001, 0][number])
    rates = panels(training_figure(training(falling)))[2]
    low, high = rates.get_ylim()
    assert 0 < low <= 0.001 < 1 <= high
    assert not np.isfinite(rates.yaxis.get_transform().transform(np.zeros(1)))


def test_training_of_many_evaluations_lets_the_first_tenth_lie_outside():
    topology = points(500)
    losses, accuracies, _, _ = panels(training_figure(training(topology)))
    low, high = accuracies.get_ylim()
    assert topology[25].val_top1 < low < topology[50].val_top1
    assert max(p.val_top1 for p in topology) < high
    assert topology[50].val_loss < losses.get_ylim()[1] < topology[25].val_loss
    assert {line.get_marker() for line in losses.get_lines()} == {"None"}


def test_training_of_many_evaluations_keeps_a_worse_model_of_few_in_sight():
    default = [replace(p, val_top1=p.val_top1 / 2) for p in points(20)]
    axes = panels(training_figure(training(points(500), default)))[1]
    assert default[0].val_top1 < axes.get_ylim()[0] < default[2].val_top1


def test_training_of_many_evaluations_shows_a_star_among_the_first():
    topology = points(500)
    topology[3] = replace(topology[3], val_top1=0.95)
    axes = panels(training_figure(training(topology)))[1]
    assert stars(axes)[colour("#0072B2")] == (15, 0.95)
    assert axes.get_ylim()[1] > 0.95


def test_training_of_few_evaluations_shows_them_all():
    topology = points(9)
    losses, accuracies, _, _ = panels(training_figure(training(topology)))
    shown = [(low, high) for low, high in (losses.get_ylim(), accuracies.get_ylim())]
    for values, (low, high) in zip(
        ([p.val_loss for p in topology], [p.val_top1 for p in topology]), shown, strict=True
    ):
        assert low < min(values) < max(values) < high


def test_training_differences_of_a_hair_are_not_stretched():
    topology = [replace(p, val_top1=0.5 + 1e-6 * i) for i, p in enumerate(points(5))]
    low, high = panels(training_figure(training(topology)))[1].get_ylim()
    assert high - low > 0.002


@pytest.mark.parametrize(
    ("topology", "default"),
    [
        (points(1), []),
        (points(2), points(2, seed=1)),
        (points(21), points(12, seed=1)),
        (points(6, 1000, 12811, has_top5=True), [PRETRAINED]),
        (points(500, 2000, 12811, has_top5=True), points(420, 2000, 12811, has_top5=True)),
        (points(60, 2000, 12811, rate=lambda number: 0.01 / 10 ** (number // 20)), []),
    ],
    ids=["one evaluation", "two", "twenty", "a part of an epoch", "five hundred", "cuts"],
)
def test_training_words_stay_inside_and_apart(topology, default):
    data = training(topology, default, "a-rather-long-name-of-a-run-$\\frac$-with-signs")
    assert badly_placed(training_figure(data)) == []


def test_training_without_evaluations_raises():
    with pytest.raises(ValueError, match="run mixed_9: no evaluation yet, nothing to draw"):
        training_figure(training([]))


def test_training_png_other_history_other_pixels(tmp_path):
    curves.training(training(points(7)), tmp_path / "one.png")
    curves.training(training(points(7, seed=1)), tmp_path / "other.png")
    one, other = pixels(tmp_path / "one.png"), pixels(tmp_path / "other.png")
    assert one.shape == other.shape == (1050, 1500, 3)
    assert 0.001 < (one != other).any(axis=2).mean() < 0.2
    assert np.all(one == (0, 0x72, 0xB2), axis=2).sum() > 1000


def test_training_same_history_same_bytes_in_another_process(tmp_path):
    curves.training(training(points(7), points(4)), tmp_path / "one.png")
    script = (
        "import sys, pathlib; sys.path.insert(0, 'tests')\n"
        "from drawn import points, training\n"
        "from pipelines.analysis import curves\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"path = pathlib.Path({str(tmp_path)!r}) / 'other.png'\n"
        "curves.training(training(points(7), points(4)), path)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
    assert (tmp_path / "other.png").read_bytes() == (tmp_path / "one.png").read_bytes()


def test_training_in_a_missing_folder_raises(tmp_path):
    with pytest.raises(ShardError, match="cannot be written"):
        curves.training(training(points(2)), tmp_path / "missing" / "training.png")


def test_words_that_are_badly_placed_are_found():
    figure = training_figure(training(points(2), run="m" * 70))
    figure.axes[0].annotate("loss", (0.5, 0.5), xycoords="axes fraction")
    figure.axes[0].annotate("less", (0.51, 0.5), xycoords="axes fraction")
    outside, pair = badly_placed(figure)
    assert outside.startswith("Run\nmmm")
    assert pair == ("loss", "less")
