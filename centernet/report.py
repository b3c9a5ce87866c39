"""The analysis of an evaluation as pictures, one JSON file and one page of HTML that stands alone."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np

from centernet.metrics.analysis import KINDS

THUMB = 160  # pixels, the side of a picture in the gallery
COLUMNS = 6  # pictures in a row of it
AROUND = 1.8  # how much of the image a thumbnail shows, relative to its box
CAPTION = 18  # pixels, the height of a line below a thumbnail
CURVES = 10  # classes whose curves are drawn

Curves = Mapping[str, Mapping[str, np.ndarray]]
"""By class: ``score``, ``precision``, ``recall`` and ``F1`` of its detections, by falling score."""


def write_report(
    folder: str | Path, title: str, analysis: Mapping[str, Any], curves: Curves, gallery: Sequence[Mapping[str, Any]]
) -> Path:
    """Write ``analysis.json``, the figures as PNG files, and ``report.html`` with all of it; returns the page's path.

    ``analysis``: of ``centernet.metrics.analysis.analyze``; ``gallery``: rows of ``worst`` with their ``pixels``
    (RGB uint8, the image), ``name`` (of its file) and ``class``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "analysis.json").write_text(json.dumps(defined(analysis), indent=2))
    classes = list(analysis["classes"])
    drawn = {
        "precision_recall": figure(lambda axes: _draw_curves(axes, curves, analysis, "recall", "precision")),
        "f1": figure(lambda axes: _draw_curves(axes, curves, analysis, "score", "F1")),
        "errors": figure(lambda axes: _draw_costs(axes, analysis), (6.4, 3.2)),
        "confusion": figure(lambda axes: _draw_confusion(axes, analysis["confusion"], classes)),
        "reliability": figure(lambda axes: _draw_reliability(axes, analysis["reliability"])),
        "worst": png_of(contact_sheet(gallery)) if gallery else b"",
    }
    for name, content in drawn.items():
        if content:
            (folder / f"{name}.png").write_bytes(content)
    path = folder / "report.html"
    path.write_text(_page(title, analysis, drawn), encoding="utf-8")
    return path


def defined(value: Any) -> Any:
    """Plain data with null in place of numbers that are not defined."""
    if isinstance(value, Mapping):
        return {key: defined(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [defined(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Figures.


def figure(draw: Callable[[Any], None], size: tuple[float, float] = (6.4, 4.8)) -> bytes:
    """A PNG of what ``draw`` puts on axes of this size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure.subplots())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _draw_curves(axes: Any, curves: Curves, analysis: Mapping[str, Any], x: str, y: str) -> None:
    ordered = sorted(curves, key=lambda name: -analysis["classes"][name]["objects"])[:CURVES]
    for name in ordered:
        about = analysis["classes"][name]
        value = "AP50" if y == "precision" else "F1"
        label = f"{name} ({value} {about[value]:.2f})" if about[value] == about[value] else f"{name} (no objects)"
        axes.plot(curves[name][x], curves[name][y], label=label, linewidth=1.5)
    if len(curves) > CURVES:
        axes.plot([], [], " ", label=f"{len(curves) - CURVES} more classes")
    if x == "score":
        axes.axvline(analysis["best"]["threshold"], color="0.4", linestyle="--", linewidth=1)
    axes.set(xlabel=x, ylabel=y, xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _draw_costs(axes: Any, analysis: Mapping[str, Any]) -> None:
    names = list(KINDS)[::-1]
    values = [analysis["errors"][name]["cost"] for name in names]
    axes.barh(names, values, color="tab:blue")
    for row, name in enumerate(names):
        axes.annotate(
            f" {values[row]:.3f}  ({analysis['errors'][name]['count']})", (max(values[row], 0), row), va="center"
        )
    axes.set(xlabel="AP50 gained without these errors (number of them)", xlim=(0, max([*values, 0.01]) * 1.35))


def oracle_figure(values: Mapping[str, float], name: str) -> bytes:
    """A PNG with a bar for each variant of an oracle evaluation: the result ``name``, and what it gains over the first
    one."""

    def draw(axes: Any) -> None:
        names, first = list(values)[::-1], next(iter(values.values()))
        axes.barh(names, [values[each] for each in names], color=["tab:blue"] * (len(names) - 1) + ["0.6"])
        for row, each in enumerate(names):
            gain = f"  {values[each] - first:+.3f}" if each != next(iter(values)) else ""
            axes.annotate(f" {values[each]:.3f}{gain}", (values[each], row), va="center")
        axes.set(xlabel=f"{name} with the truth in place of a head's output", xlim=(0, 1.25))

    return figure(draw, (6.4, 1.2 + 0.4 * len(values)))


def _draw_confusion(axes: Any, confusion: Mapping[str, Any], classes: Sequence[str]) -> None:
    counts = np.array(confusion["counts"], float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(classes) + 1)
    small = 9 if len(classes) < 12 else 5
    axes.set_xticks(ticks, [*classes, "nothing"], rotation=90, fontsize=small)
    axes.set_yticks(ticks, [*classes, "no object"], fontsize=small)
    if len(classes) < 12:
        for row in ticks:
            for column in ticks:
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", color=color, fontsize=8)
    axes.set(xlabel=f"found, from score {confusion['threshold']:.2f} on", ylabel="truth")


def _draw_reliability(axes: Any, reliability: Mapping[str, Any]) -> None:
    count = np.array(reliability["count"])
    some = count > 0
    score, right = np.array(reliability["score"])[some], np.array(reliability["right"])[some]
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="as sure as right")
    axes.scatter(score, right, s=20 + 200 * count[some] / count.max(), alpha=0.6, label="ten bins of the score")
    axes.set(xlabel="mean score", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(f"expected calibration error {reliability['error']:.3f}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def png_of(image: np.ndarray) -> bytes:
    """The PNG of an RGB uint8 image."""
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def contact_sheet(gallery: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The errors of a gallery side by side, RGB uint8: what is around each box, with kind, class, score and file."""
    cells = [_thumbnail(row) for row in gallery]
    blank = np.full_like(cells[0], 255)
    cells += [blank] * (-len(cells) % COLUMNS)
    rows = [np.concatenate(cells[start : start + COLUMNS], 1) for start in range(0, len(cells), COLUMNS)]
    return np.concatenate(rows, 0)


def _thumbnail(row: Mapping[str, Any]) -> np.ndarray:
    pixels, (x1, y1, x2, y2) = row["pixels"], row["box"]
    side = max(x2 - x1, y2 - y1, 8) * AROUND
    scale = THUMB / side
    left, top = (x1 + x2 - side) / 2, (y1 + y2 - side) / 2
    matrix = np.array([[scale, 0, -left * scale], [0, scale, -top * scale]])
    shrinks = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    cell = cv2.warpAffine(pixels, matrix, (THUMB, THUMB), flags=shrinks, borderValue=(225, 225, 225))
    corners = [(round((x - left) * scale), round((y - top) * scale)) for x, y in ((x1, y1), (x2, y2))]
    color = (230, 120, 0) if row["kind"] == "missed" else (200, 0, 60)
    cv2.rectangle(cell, *corners, color, 2, cv2.LINE_AA)
    score = "" if row["score"] is None else f" {row['score']:.2f}"
    for text in (f"{row['kind']}: {row['class']}{score}", row["name"]):
        line = np.full((CAPTION, THUMB, 3), 255, np.uint8)
        plain = text.encode("ascii", "replace").decode()  # OpenCV's fonts have no other letters
        cv2.putText(line, plain[:26], (3, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (30, 30, 30), 1, cv2.LINE_AA)
        cell = np.concatenate([cell, line])
    return cv2.copyMakeBorder(cell, 3, 3, 3, 3, cv2.BORDER_CONSTANT, value=(255, 255, 255))


# The page.

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: 2px 12px; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child, .left { text-align: left; }
img { max-width: 100%; }
h2 { margin-top: 2em; }
"""
PAGE = Template(
    """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>$title</title>
<style>
$style</style></head>
<body>
<h1>$title</h1>
<p>$images images. AP50 $ap. The best threshold for all classes together is $threshold: precision $precision, recall
$recall, F1 $f1.</p>
<h2>What the errors cost</h2>
<p>Kinds of errors of detections (TIDE, arXiv:2008.08115, at an overlap of 0.5), and how much AP50 would rise without
each.</p>
$errors
$errors_figure
<h2>Worst errors</h2>
<p>The most confident false detections, then the largest missed objects.</p>
$worst_figure
<h2>Classes</h2>
<p>The threshold is the score with the best F1 of the class; precision and recall are those at it.</p>
$classes
<p>$without</p>
$precision_recall_figure
$f1_figure
<h2>Confusion</h2>
$confusion_figure
<h2>Reliability of scores</h2>
<p>Whether scores are probabilities: how many detections of a score are right.</p>
$reliability_figure
<h2>Size and crowding</h2>
<p>The share of objects found, by area (COCO's limits) and by the largest overlap with another object (none, up to 0.3,
more).</p>
$groups
</body>
</html>
"""
)


def _page(title: str, analysis: Mapping[str, Any], drawn: Mapping[str, bytes]) -> str:
    best, shown = analysis["best"], ("AP50", "threshold", "precision", "recall", "F1")
    by_count = sorted(analysis["classes"].items(), key=lambda item: -item[1]["objects"])
    classes = [
        [name, str(about["objects"]), *(_number(about[key]) for key in shown)]
        for name, about in by_count
        if about["objects"]
    ]
    without = len(by_count) - len(classes)
    errors = [
        [name, about["about"], str(about["count"]), _number(about["cost"])]
        for name, about in analysis["errors"].items()
    ]
    groups = [[name, str(about["objects"]), _number(about["recall"])] for name, about in analysis["groups"].items()]
    return PAGE.substitute(
        title=html.escape(title),
        style=STYLE,
        images=analysis["images"],
        ap=_number(analysis["AP50"]),
        threshold=f"{best['threshold']:.2f}",
        precision=_number(best["precision"]),
        recall=_number(best["recall"]),
        f1=_number(best["F1"]),
        errors=table(["kind", "meaning", "number", "cost"], errors, left=2),
        classes=table(["class", "objects", *shown], classes),
        without=f"{without} classes without objects are not shown." if without else "",
        groups=table(["group", "objects", "recall"], groups),
        **{f"{name}_figure": embedded(name, content) for name, content in drawn.items()},
    )


def _number(value: float) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """An HTML table; the text of the first ``left`` columns is aligned to the left."""

    def line(cells: Sequence[str], tag: str) -> str:
        styled = (
            f"<{tag}{' class=left' if n < left else ''}>{html.escape(cell)}</{tag}>" for n, cell in enumerate(cells)
        )
        return f"<tr>{''.join(styled)}</tr>"

    return "<table>" + line(titles, "th") + "".join(line(row, "td") for row in rows) + "</table>"


def embedded(name: str, content: bytes) -> str:
    """A PNG as part of a page; ``None.`` for no bytes."""
    if not content:
        return "<p>None.</p>"
    return f'<p><img alt="{name}" src="data:image/png;base64,{base64.b64encode(content).decode()}"></p>'
