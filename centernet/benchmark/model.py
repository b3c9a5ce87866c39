"""Forward passes and training steps of networks, form by form, and networks of other libraries beside them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from centernet.benchmark.forms import in_form, require_forms
from centernet.benchmark.made import some_objects
from centernet.benchmark.networks import count_costs, require_size, spec_of, usual_task
from centernet.benchmark.peers import build_peer
from centernet.benchmark.record import Record, table
from centernet.benchmark.timing import PeakMemory, in_own_process, time_in_turns, waiting_for
from centernet.errors import InputError


class Measured(NamedTuple):
    """What the part ``model`` is to measure: every network in every form, with every batch and number of threads."""

    networks: Sequence[str]
    size: tuple[int, int] = (512, 512)
    batches: Sequence[int] = (1,)
    threads: Sequence[int] = ()  # empty: as many as torch has
    forms: Sequence[str] = ("eager", "channels_last", "fused")
    device: str = "cpu"
    classes: int = 80
    backward: bool = False
    memory: bool = False
    peers: Sequence[str] = ()
    rounds: int = 5
    warmup: int = 1


def measure_model(given: Measured) -> Record:
    """Print and record milliseconds of the forward pass (normalization included, decoding not) or, with ``backward``,
    of a training step without its optimizer, in turns; parameters and multiply-accumulates; with ``memory``, the
    growth at the peak, each in a process of its own. Raises ``InputError`` for what cannot be measured."""
    from centernet.tasks import build_task

    require_forms(given.forms, "model", files=False, trains=given.backward)
    require_device(given.device, "model")
    heads = build_task(usual_task(), given.classes).heads
    record = Record("model", given._asdict())
    for name in given.networks:
        spec = spec_of(name)
        require_size("model", name, spec, given.size)
        parameters, macs = count_costs(spec, heads, given.size)
        record.add({"network": name}, "parameters", "M", parameters, "neither")
        record.add({"network": name}, "multiply-accumulates", "G", macs, "neither")
    for word in given.peers:
        peer = build_peer(word, given.classes, given.size)
        record.add({"network": word}, "parameters", "M", peer.parameters, "neither")
    before = torch.get_num_threads()
    try:
        for threads, batch in itertools.product(given.threads or (before,), given.batches):
            torch.set_num_threads(threads)
            labels, works = _works(given, batch)
            taken = time_in_turns(works, given.rounds, given.warmup, waiting_for(torch.device(given.device)))
            for key, values in taken.items():
                record.add_many({**labels[key], "batch": batch, "threads": threads}, "time", "ms", values)
    finally:
        torch.set_num_threads(before)
    if given.memory:
        for (name, form), batch in itertools.product(_subjects(given), given.batches):
            grown = in_own_process(_grown, given, name, form, batch)
            work = "step" if given.backward else "forward"
            record.add({"network": name, "form": form, "work": work, "batch": batch}, "memory", "MB", grown)
    print(table(record.rows))
    return record


def require_device(device: str, part: str) -> None:
    """Raise ``InputError`` if there is no such device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(f"{part}: no CUDA device is available; use --device cpu")


def _subjects(given: Measured) -> list[tuple[str, str]]:
    return [*itertools.product(given.networks, given.forms), *((word, "eager") for word in given.peers)]


def _works(given: Measured, batch: int) -> tuple[dict[Any, dict[str, Any]], dict[Any, Callable[[], Any]]]:
    """Labels and work of everything that takes turns."""
    work = "step" if given.backward else "forward"
    subjects = _subjects(given)
    labels = {subject: {"network": subject[0], "form": subject[1], "work": work} for subject in subjects}
    return labels, {subject: _work(given, *subject, batch) for subject in subjects}


def _work(given: Measured, name: str, form: str, batch: int) -> Callable[[], Any]:
    """What is timed: the forward pass, or forward, losses and backward."""
    torch.manual_seed(0)
    device = torch.device(given.device)
    images = torch.randint(0, 256, (batch, 3, *given.size), dtype=torch.uint8)
    if name in given.peers:
        peer = build_peer(name, given.classes, given.size)
        network, images = peer.network.to(device), (images.float() / 255).to(device)
        if given.backward:
            network.train()
            return lambda: peer.loss(images).backward()
        network.eval()
        return torch.inference_mode()(lambda: peer.forward(images))
    from centernet.detector import build_detector

    chosen = require_forms([form], "model")[form]
    layout = torch.channels_last if chosen.channels_last else torch.contiguous_format
    detector = in_form(build_detector(usual_task(), given.classes, spec_of(name)).to(device), chosen)
    images = images.to(device).to(memory_format=layout)
    if not given.backward:
        return torch.inference_mode()(lambda: detector.outputs(images))
    detector.train()
    cells = tuple(side // detector.task.stride for side in given.size)
    made = some_objects(batch, min(given.size), given.classes)
    objects = {key: value.to(device) for key, value in made.items()}

    def step() -> None:
        targets = detector.task.encode(objects, cells)
        detector.task.losses(detector.outputs(images), targets)["loss"].backward()
        detector.zero_grad()

    return step


def _grown(given: Measured, name: str, form: str, batch: int) -> float:
    """Megabytes at the peak of two rounds, the network included, the libraries not."""
    import torchvision.models.detection  # noqa: F401

    import centernet.detector  # noqa: F401

    watched = PeakMemory(given.device)
    work = _work(given, name, form, batch)
    work()
    work()
    return watched.growth()
