"""From raw maps to detections, for every task; and of this, finding the peaks."""

from __future__ import annotations

import torch

from centernet.benchmark.record import Record
from centernet.benchmark.timing import time_in_turns, times, waiting_for

COUNTS = (1, 3, 80)  # of classes


@torch.inference_mode()
def measure_decode(rounds: int, warmup: int = 1, batch: int = 16, side: int = 512, k: int = 100) -> Record:
    """Print and record how long each task takes to activate and decode a batch of random maps, and the search for peaks
    in the plain way and in that of ``centernet/ops/peaks.py``; medians of ``rounds``."""
    from centernet.tasks import build_task, task_names

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    record = Record("decode", {"batch": batch, "side": side, "k": k, "device": device.type})
    print(f"batch {batch}, {side}x{side}, {k} detections an image, {device}, {torch.get_num_threads()} threads, seed 0")
    print(f"{'ms with':<16}" + "".join(f"{f'{n} class' + 'es' * (n > 1):>12}" for n in COUNTS))
    for name in task_names():
        shown = []
        for classes in COUNTS:
            task = build_task(name, classes, heatmap={"max_detections": k})
            generator = torch.Generator().manual_seed(0)
            size = (side // task.stride, side // task.stride)
            maps = {
                head: torch.randn(batch, about.channels, *size, generator=generator).to(device)
                - (4 if about.is_heatmap else 0)
                for head, about in task.heads.items()
            }
            taken = times(lambda task=task, maps=maps: task.detect(maps), rounds, device, warmup)
            shown.append(record.add_many({"task": name, "classes": classes}, "time", "ms", taken).value)
        print(f"{name:<16}" + "".join(f"{each:12.1f}" for each in shown))
    _measure_peaks(record, rounds, warmup, device)
    return record


def _measure_peaks(record: Record, rounds: int, warmup: int, device: torch.device) -> None:
    from centernet.ops import heatmap, peaks

    batch, side, k = record.settings["batch"], record.settings["side"] // 4, record.settings["k"]
    ways = {
        "all channels": (
            80,
            lambda maps: heatmap.find_peaks(heatmap.suppress_non_peaks(maps), k),
            lambda maps: peaks.strongest_peaks(maps, k),
        ),
        "each channel": (
            17,
            lambda maps: heatmap.top_per_channel(heatmap.suppress_non_peaks(maps), k),
            lambda maps: peaks.strongest_peaks_per_channel(maps, k),
        ),
    }
    print(f"\n{'ms for peaks of':<40}{'plain':>12}{'here':>12}")
    for name, (channels, plain, here) in ways.items():
        maps = torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(0)).to(device)
        for layout in (torch.contiguous_format, torch.channels_last):
            held = torch.sigmoid(maps - 4).to(memory_format=layout)
            works = {
                "plain": lambda held=held, plain=plain: plain(held),
                "here": lambda held=held, here=here: here(held),
            }
            taken = time_in_turns(works, rounds, warmup, waiting_for(device))
            what = f"{channels} maps, {name}{', channels last' if layout == torch.channels_last else ''}"
            rows = [record.add_many({"peaks": what, "way": way}, "time", "ms", taken[way]) for way in works]
            print(f"{what:<40}" + "".join(f"{row.value:12.1f}" for row in rows))
