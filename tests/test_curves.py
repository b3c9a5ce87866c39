"""Curves of a training: a panel for each loss, and what can be read from it."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from centernet.data.images import read_image
from centernet.visualize import history_figure, plot_history


def history(epochs: int, every: int = 1) -> list[dict[str, float]]:
    rows = []
    for n in range(1, epochs + 1):
        row = {"epoch": n, "lr": 1e-3, "train/loss": 90 / n, "train/loss/heatmap": 3 / n, "train/loss/size": 20.0 + n}
        if n % every == 0:
            row |= {"val/loss": 100 / n, "val/loss/heatmap": 4 / n, "val/loss/size": 21.0 + n}
            row |= {"val/AP": n / 100 if n < 9 else 0.01, "val/AP50": n / 50, "val/APs": np.nan}
        rows.append(row)
    return rows


def panels(rows: list[dict[str, float]], **options: dict[str, float]) -> dict[str, Axes]:
    figure = history_figure(rows, ("AP", "AP50", "APs"), **options)
    return {axis.get_title(): axis for axis in figure.axes}


@pytest.mark.parametrize(
    "rows",
    [
        history(1),
        history(5),
        [{"epoch": 1}],
        [*history(2), {"epoch": 3, "train/loss": 2.0}],
        [*history(2), {"epoch": 3, "train/loss": -0.5, "train/loss/depth": -1.0}],
        [{"epoch": 1, "val/AP": 0.5}, {"epoch": 2, "val/AP": 0.25}],
    ],
)
def test_curves_are_drawn_of_whatever_there_is(tmp_path, rows):
    picture = read_image(plot_history(rows, tmp_path / "new" / "curves.png"))
    assert picture.shape[1] > picture.shape[0] > 200
    assert picture.std() > 5


def test_every_loss_has_a_panel_that_says_its_weight():
    shown = panels(history(10), weights={"heatmap": 1.0, "size": 0.1})
    assert list(shown) == [
        "loss, the weighted sum",
        "heatmap (weight 1)",
        "results on the validation data",
        "size (weight 0.1)",
        "learning rate",
    ]


def test_training_is_solid_and_validation_dashed_in_one_color_of_the_panel():
    shown = panels(history(10, every=5))
    colors = []
    for title in ("loss, the weighted sum", "heatmap", "size"):
        train, val = (line for line in shown[title].get_lines() if line.get_label() in ("train", "val"))
        assert (train.get_linestyle(), val.get_linestyle()) == ("-", "--")
        assert to_hex(train.get_color()) == to_hex(val.get_color())
        assert list(val.get_xdata()) == [5, 10]
        assert list(train.get_xdata()) == list(range(1, 11))
        colors.append(to_hex(train.get_color()))
    assert len(set(colors)) == 3


@pytest.mark.parametrize("epochs", [1, 2, 5, 12, 83, 300])
def test_the_axis_has_whole_epochs_only(epochs):
    for axis in panels(history(epochs)).values():
        low, high = axis.get_xlim()
        ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
        assert len(ticks) >= 1
        assert all(tick == round(tick) and 1 <= tick <= epochs for tick in ticks)


def test_the_best_epoch_is_marked_in_every_panel():
    figure = history_figure(history(12), ("AP", "AP50", "APs"))
    for axis in figure.axes:
        (mark,) = (line for line in axis.get_lines() if line.get_linestyle() == ":")
        assert list(mark.get_xdata()) == [8, 8]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["training", "validation", "best epoch: 8 (AP 0.080)"]


def test_legends_lie_outside_of_the_panels():
    figure = history_figure(history(12), ("AP", "AP50", "APs"))
    figure.draw_without_rendering()
    results = next(axis for axis in figure.axes if axis.get_title() == "results on the validation data")
    assert [text.get_text() for text in results.get_legend().get_texts()] == ["AP", "AP50"]  # APs is never defined
    boxes = [legend.get_window_extent() for legend in (*figure.legends, results.get_legend())]
    for axis in figure.axes:
        assert axis is results or axis.get_legend() is None
        frame = axis.get_window_extent()
        assert not any(
            box.x0 < frame.x1 and box.x1 > frame.x0 and box.y0 < frame.y1 and box.y1 > frame.y0 for box in boxes
        )
    for box in boxes:
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1 + 1


def test_a_loss_that_falls_by_orders_of_magnitude_has_a_logarithmic_axis_with_plain_numbers():
    shown = panels(history(30))
    assert shown["loss, the weighted sum"].get_yscale() == "log"
    assert shown["size"].get_yscale() == "linear"
    falling = shown["loss, the weighted sum"]
    low, high = falling.get_ylim()
    labels = [falling.yaxis.get_major_formatter()(tick, None) for tick in falling.get_yticks() if low <= tick <= high]
    assert {"5", "10", "20", "50", "100"} <= set(labels)
    negative = panels([*history(2), {"epoch": 3, "train/loss": -5.0}])
    assert negative["loss, the weighted sum"].get_yscale() == "linear"
