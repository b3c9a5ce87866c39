"""The findings as one page of HTML that stands alone, with plots and pictures, and as JSON."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from centernet.checks.content import Split
from centernet.checks.doctor import Report, check_json, file_name
from centernet.checks.findings import Example, Finding
from centernet.checks.objects import LOST, SMALL, cells_of, suggested
from centernet.data.images import read_image
from centernet.errors import InputError
from centernet.report import STYLE, contact_sheet, defined, embedded, figure, png_of, table
from centernet.visualize import draw_boxes, resized

COLORS = {"train": "tab:blue", "val": "tab:orange"}
CLASSES = 40  # that are drawn
SAMPLES = 9
SAMPLE_SIDE = 320
BINS = 48

SECTIONS = ("Findings", "Passed", "Classes", "Objects", "Images", "Resolution", "Samples")

PAGE = Template(
    """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>$title</title>
<style>
$style
.finding { border-left: 6px solid #999; padding: 0.2em 1em; margin: 1em 0; background: #f7f7f7; }
.serious { border-color: #c8003c; } .warning { border-color: #e69500; } .note { border-color: #4a90d9; }
.finding h3 { margin: 0.3em 0; font-size: 1em; } .finding p { margin: 0.3em 0; }
.small { color: #666; font-size: 13px; }
</style></head>
<body>
<h1>$title</h1>
<p>$summary</p>
$sections
</body>
</html>
"""
)


def write_page(folder: str | Path, report: Report) -> Path:
    """Write ``check.json`` and ``check.html``; returns the page's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "check.json").write_text(json.dumps(defined(check_json(report)), indent=2))
    makers: dict[str, Callable[[Report], Iterator[str]]] = {
        "Findings": _findings,
        "Passed": _passed,
        "Classes": _classes,
        "Objects": _objects,
        "Images": _images,
        "Resolution": _resolution,
        "Samples": _samples,
    }
    sections = "\n".join(f"<h2>{name}</h2>\n" + "\n".join(makers[name](report)) for name in SECTIONS)
    title = f"Data check: {report.data}"
    path = folder / "check.html"
    page = PAGE.substitute(
        title=html.escape(title), style=STYLE, summary=html.escape(report.summary), sections=sections
    )
    path.write_text(page, encoding="utf-8")
    return path


def _findings(report: Report) -> Iterator[str]:
    if not report.findings:
        yield "<p>None.</p>"
    for each in report.findings:
        where = f"{each.split}: " if each.split else ""
        names = ", ".join(dict.fromkeys(file_name(example.file) for example in each.examples))
        shown = _pictures_of(each, report) if any(report.seen.values()) else ""
        yield (
            f'<div class="finding {each.level}"><h3>{each.level}: {html.escape(each.check)}</h3>'
            f"<p>{html.escape(where + each.what)}</p><p>To do: {html.escape(each.do)}</p>"
            + (f'<p class="small">{html.escape(names)}</p>' if names else "")
            + f"{shown}</div>"
        )


def _pictures_of(finding: Finding, report: Report) -> str:
    """The examples of a finding side by side: the surroundings of boxes, or whole images."""
    rows = []
    for example in finding.examples:
        try:
            pixels = read_image(example.file, None, report.bit_depth)
        except InputError:
            continue
        rows.append(
            {
                "pixels": pixels,
                "box": example.box or (0, 0, pixels.shape[1], pixels.shape[0]),
                "kind": finding.check,
                "class": _caption(example),
                "score": None,
                "name": Path(example.file).name,
            }
        )
    return embedded(finding.check, png_of(contact_sheet(rows))) if rows else ""


def _caption(example: Example) -> str:
    return example.about if example.about else "box" if example.box else "image"


def _passed(report: Report) -> Iterator[str]:
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in report.fine)
    yield f"<ul>{lines}</ul>" if lines else "<p>Not everything could be checked.</p>"


def _classes(report: Report) -> Iterator[str]:
    if not report.splits:
        yield "<p>None.</p>"
        return
    splits = list(report.splits.values())
    names = splits[0].class_names
    order = np.argsort(-sum(split.counts for split in splits), kind="stable")[:CLASSES]

    def draw(axes: Any) -> None:
        height = 0.8 / len(splits)
        for n, split in enumerate(splits):
            axes.barh(
                np.arange(len(order)) + n * height,
                np.maximum(split.counts[order], 0.7),  # 0 is left of the axis
                height,
                label=f"{split.name} ({int(split.is_object.sum())})",
                color=COLORS[split.name],
            )
        axes.set_yticks(np.arange(len(order)) + 0.4 - height / 2, [names[n] for n in order], fontsize=8)
        axes.set(xlabel="objects", xscale="log", xlim=(0.7, None), ylim=(len(order), -0.4))
        axes.grid(alpha=0.3, axis="x")
        axes.legend(fontsize=8)

    yield embedded("classes", figure(draw, (7.6, 1.4 + 0.26 * len(order))))
    if len(names) > len(order):
        yield f"<p>{len(names) - len(order)} more classes are in check.json.</p>"


def _histograms(
    report: Report,
    values: Callable[[Split], np.ndarray],
    bins: np.ndarray,
    label: str,
    line: float,
    what: str,
    **axis: Any,
) -> bytes:
    """Shares of both splits in bins, and a vertical line."""

    def draw(axes: Any) -> None:
        for split in report.splits.values():
            found = values(split)
            found = found[np.isfinite(found)]
            weights = np.full(len(found), 100 / max(len(found), 1))
            axes.hist(
                np.clip(found, bins[0], bins[-1]),
                bins,
                weights=weights,
                histtype="step",
                linewidth=1.5,
                color=COLORS[split.name],
                label=split.name,
            )
        axes.axvline(line, color="0.3", linestyle="--", linewidth=1, label=what)
        axes.set(xlabel=label, ylabel="%", **axis)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)

    return figure(draw, (7.6, 3.2))


def _objects(report: Report) -> Iterator[str]:
    if not any(split.is_object.any() for split in report.splits.values()):
        yield "<p>None.</p>"
        return
    grid = report.grid
    yield "<p>How large objects are in the input, and how many an image has.</p>"
    bins = np.geomspace(1, max(*grid.warp.size, 64), BINS)
    yield embedded(
        "sizes of objects",
        _histograms(
            report,
            lambda split: cells_of(split, grid).side,
            bins,
            "root of the area in input pixels",
            grid.stride,
            f"a cell of {grid.stride} pixels",
            xscale="log",
        ),
    )
    most = max(int(split.per_image.max(initial=0)) for split in report.splits.values())
    counts = np.arange(0, max(most, grid.detections) + 2, max((max(most, grid.detections) + 1) // BINS, 1)) - 0.5
    yield embedded(
        "objects of images",
        _histograms(
            report,
            lambda split: split.per_image.astype(float),
            counts,
            "objects of an image",
            grid.detections,
            f"at most {grid.detections} detections",
        ),
    )
    yield "<p>Where the centers of the training objects are, as shares of the image's width and height.</p>"
    split = next(iter(report.splits.values()))
    limit = split.sizes[split.image][:, ::-1]
    kept = split.is_object & limit.all(1)
    place = ((split.boxes[:, :2] + split.boxes[:, 2:]) / 2)[kept] / limit[kept]

    def draw(axes: Any) -> None:
        axes.hist2d(place[:, 0], place[:, 1], bins=32, range=((0, 1), (0, 1)), cmap="Blues")
        axes.set(xlabel="x", ylabel="y", ylim=(1, 0))

    yield embedded("centers", figure(draw, (5.2, 4.2))) if len(place) else "<p>Image sizes are unknown.</p>"


def _images(report: Report) -> Iterator[str]:
    rows = []
    for name, split in report.splits.items():
        sizes, counts = np.unique(split.sizes, axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:5]
        common = ", ".join(
            f"{counts[n]} of {sizes[n][1]}x{sizes[n][0]}" if sizes[n].all() else f"{counts[n]} of unknown size"
            for n in order
        ) + (", ..." if len(sizes) > len(order) else "")
        known = split.sizes[split.sizes.all(1)]
        median = "x".join(f"{side:.0f}" for side in np.median(known, axis=0)[::-1]) if len(known) else "-"
        empty = int((split.per_image == 0).sum())
        rows.append([name, str(len(split.files)), str(len(report.seen[name])), str(empty), median, common])
    titles = ["split", "images", "opened", "without objects", "median size", "most frequent sizes (width x height)"]
    yield table(titles, rows)


def _resolution(report: Report) -> Iterator[str]:
    if not report.resolutions:
        yield "<p>Nothing is known about it: the training data, or the sizes of its images, cannot be read.</p>"
        return
    stride = report.grid.stride
    rows = [
        [
            f"resolution=[{row.size[0]},{row.size[1]}]" + (" (this training)" if row.is_chosen else ""),
            f"{100 * row.small:.1f} %",
            f"{100 * row.lost:.2f} %",
        ]
        for row in report.resolutions
    ]
    yield f"<p>Training objects below a cell of {stride} pixels, and those whose cell has another one of the class.</p>"
    yield table(["input (height, width)", "smaller than a cell", "lost in the cell of another one"], rows)
    best, own = suggested(report.resolutions), next(row for row in report.resolutions if row.is_chosen)
    limits = f"at most {100 * SMALL[0]:.0f} % of the objects are below a cell and {100 * LOST[0]:.0f} % lost"
    if best is None:
        yield f"<p>In none of these {limits}: cut the images into tiles.</p>"
        return
    verdict = (
        "The input of this training is large enough." if suggested([own]) else "This training's input is too small."
    )
    yield (
        f"<p>{verdict} The smallest one of these in which {limits}: <b>resolution=[{best.size[0]},{best.size[1]}]</b>. "
        "Larger ones cost time in proportion to their area, and find small objects better.</p>"
    )


def _samples(report: Report) -> Iterator[str]:
    """Images with their annotations, evenly spaced among those that were opened."""
    if not any(report.seen.values()):
        yield "<p>No image was opened (--images none).</p>"
        return
    for name, split in report.splits.items():
        fine = [each.index for each in report.seen[name] if not each.fault]
        chosen = [fine[n] for n in np.linspace(0, len(fine) - 1, min(SAMPLES, len(fine))).astype(int)] if fine else []
        cells = [cell for index in chosen if (cell := _sample(split, index, report)) is not None]
        if cells:
            yield f"<p>{name}: truth as it is read</p>" + embedded(f"samples of {name}", png_of(_sheet(cells)))


def _sample(split: Split, index: int, report: Report) -> np.ndarray | None:
    size = tuple(split.sizes[index].tolist())
    try:
        pixels = read_image(str(split.files[index]), size if all(size) else None, report.bit_depth)
    except InputError:  # of another size, which is a finding
        return None
    pixels, factor = resized(pixels, SAMPLE_SIDE, SAMPLE_SIDE)
    rows = (split.image == index) & split.is_object
    return draw_boxes(pixels, split.boxes[rows] * factor, split.labels[rows].tolist(), split.class_names)


def _sheet(cells: Sequence[np.ndarray], columns: int = 3, gap: int = 6) -> np.ndarray:
    """Pictures in rows, on white."""
    rows = []
    for start in range(0, len(cells), columns):
        some = cells[start : start + columns]
        height = max(cell.shape[0] for cell in some)
        placed = [_on_white(cell, height, SAMPLE_SIDE, gap) for cell in some]
        placed += [np.full_like(placed[0], 255)] * (columns - len(some))
        rows.append(np.concatenate(placed, 1))
    return np.concatenate(rows)


def _on_white(cell: np.ndarray, height: int, width: int, gap: int) -> np.ndarray:
    below, right = height - cell.shape[0] + gap, width - cell.shape[1] + gap
    return np.pad(cell, ((0, below), (0, right), (0, 0)), constant_values=255)
