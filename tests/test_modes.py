"""Modes of inference: mirrored, at several scales, in tiles; merged into detections in the image's pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from centernet.detector import Detector
from centernet.inference import Predictor
from centernet.models import build_network
from centernet.modes import Modes
from centernet.structures import InputError
from centernet.tasks import build_task, task_names
from centernet.tasks.ctdet import CtdetTask
from tests import tiny
from tests.test_inference import NAMES, ColorNetwork, build_detector

BLUE = (0, 0, 255)


def picture(height: int, width: int, *squares: tuple[int, int, int, tuple[int, int, int]]) -> np.ndarray:
    """A black image with squares: left, top, side, color."""
    image = np.zeros((height, width, 3), np.uint8)
    for left, top, side, color in squares:
        image[top : top + side, left : left + side] = color
    return image


def color_detector(**modes) -> Detector:
    return Detector(ColorNetwork(), CtdetTask(3, heatmap={"max_detections": 20}), "coco", modes).eval()


def same(a, b, **tolerance) -> None:
    for name in ("boxes", "scores", "labels"):
        torch.testing.assert_close(a[name], b[name], **tolerance)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"flips": True}, "inference.flips is unknown; did you mean flip"),
        ({"flip": "yes"}, "inference.flip='yes' is not possible; use true or false"),
        ({"scales": []}, r"inference.scales=\[\] is not a list of numbers above 0"),
        ({"scales": [1, 0]}, r"inference.scales=\[1, 0\] is not a list of numbers above 0"),
        ({"scales": "big"}, "inference.scales='big' is not a list"),
        ({"scales": [0.5, 0.5]}, "repeats a scale; give each once"),
        ({"nms": "hard"}, "inference.nms='hard' is unknown; choose one of none, plain, linear, soft"),
        ({"tiles": [640]}, r"inference.tiles=\[640\] is not a size; write \[height, width\] in pixels, or null"),
        ({"tiles": [0, 640]}, "is not a size"),
        ({"overlap": 1.0}, "inference.overlap=1.0 is not a fraction; choose a value from 0 to below 1"),
    ],
)
def test_a_mode_that_is_not_possible_is_named(given, message):
    with pytest.raises(InputError, match=message):
        Modes.of(given)


def test_several_scales_are_merged_softly_unless_said_otherwise():
    assert Modes.of({}).suppression == "none"
    assert Modes.of({"scales": [0.5, 1]}).suppression == "soft"
    assert Modes.of({"scales": [0.5, 1], "nms": "none"}).suppression == "none"
    assert Modes.of({"scales": 2, "tiles": 64}) == Modes(scales=(2.0,), tiles=(64, 64))
    assert Modes.of({"flip": True, "scales": [0.5, 1]}).describe() == "flip, scales 0.5, 1, soft NMS"
    assert Modes().describe() == ""


@pytest.mark.parametrize("name", task_names())
def test_every_task_flips_and_those_that_tell_distances_refuse_scales(name):
    task = build_task(name, 2)
    detector = Detector(tiny.enliven(build_network(tiny.NETWORK, task.heads)), task).eval()
    detector.use({"flip": True})
    with torch.inference_mode():
        found = detector(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    assert torch.isfinite(found["boxes"]).all()
    if name.startswith("ddd"):
        with pytest.raises(InputError, match=f"inference.scales does not apply to task {name}"):
            detector.use({"scales": [0.5, 1]})
    else:
        detector.use({"scales": [0.5, 1]})


def test_a_symmetric_network_finds_the_same_with_its_mirror_image():
    image = torch.from_numpy(picture(64, 96, (16, 16, 16, BLUE), (60, 32, 12, (255, 0, 0)))).permute(2, 0, 1)[None]
    plain, flipped = color_detector()(image), color_detector(flip=True)(image)
    same(plain, flipped)
    assert plain["scores"][0, 0] > 0.5


def test_flip_averages_the_maps_of_an_image_and_its_mirror_image():
    detector = build_detector()
    image = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        plain, mirrored = (detector.find(each) for each in (image, image.flip(-1)))
        detector.use({"flip": True})
        found = detector.find(image)
    wanted = (plain.maps["heatmap"] + mirrored.maps["heatmap"].flip(-1)) / 2
    torch.testing.assert_close(found.maps["heatmap"], wanted, rtol=0, atol=1e-5)
    assert (found.maps["heatmap"] - plain.maps["heatmap"]).abs().max() > 1e-3
    torch.testing.assert_close(found.maps["offset"], plain.maps["offset"], rtol=0, atol=1e-4)  # kept, as the original
    # What the loss reads is the image's own.
    torch.testing.assert_close(found.outputs[-1]["size"], plain.outputs[-1]["size"], rtol=0, atol=1e-4)
    assert len(found.outputs[-1]["size"]) == 1


class Wide(nn.Module):
    """The color network as one that halves its input five times: inputs and tiles are multiples of 32."""

    stride, divisor = 4, 32

    def __init__(self) -> None:
        super().__init__()
        self.inner = ColorNetwork()
        self.seen: list[tuple[int, int]] = []

    def forward(self, images):
        self.seen.append(tuple(images.shape[-2:]))
        return self.inner(images)


def test_tiles_find_what_the_whole_input_shows():
    squares = [(n * 40 + 8, n % 5 * 24 + 8, 20, BLUE) for n in range(7)]
    image = torch.from_numpy(picture(160, 320, *squares)).permute(2, 0, 1)[None]
    task = CtdetTask(3, heatmap={"max_detections": 20})
    whole = Detector(Wide(), task).eval()(image)
    network = Wide()
    detector = Detector(network, task, modes={"tiles": [96, 128], "overlap": 0.25}).eval()
    found = detector(image)
    assert network.seen == [(96, 128)] * (2 * 3)
    assert (whole["scores"][0] > 0.9).sum() == 7
    # The squares' size is the largest color area of what the network sees, so it differs between tile and whole.
    for name in ("scores", "labels"):
        torch.testing.assert_close(found[name][:, :7], whole[name][:, :7])
    centers = [(each["boxes"][0, :7, :2] + each["boxes"][0, :7, 2:]) / 2 for each in (whole, found)]
    torch.testing.assert_close(*(each[each[:, 0].argsort()] for each in centers))
    network.seen.clear()
    same(detector(image[..., :96, :128]), Detector(Wide(), task).eval()(image[..., :96, :128]))
    assert network.seen == [(96, 128)]


def test_tiles_of_a_real_network_equal_the_whole_away_from_seams_and_borders():
    task = CtdetTask(3)
    # Without squeeze-and-excitation, by which every place of an input depends on all others.
    spec = {**tiny.NETWORK, "name": "resnet18", "options": {"channels": [8, 8, 8, 8]}}
    network = tiny.enliven(build_network(spec, task.heads)).eval()
    image = torch.randint(0, 256, (1, 3, 64, 512), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = Detector(network, task).eval().find(image).maps["heatmap"]
        tiled = Detector(network, task, modes={"tiles": [64, 384], "overlap": 0.5}).eval().find(image).maps["heatmap"]
    away = (whole - tiled).abs().amax((0, 1, 2))
    assert away.shape == (128,)
    # Tiles from 0 and 128, which meet at 256: what is half a receptive field from their ends does not see them.
    assert away[:16].max() < 1e-5
    assert away[-16:].max() < 1e-5


def test_tiles_must_fit_the_network():
    with pytest.raises(InputError, match=r"inference.tiles=\[100,96\] must be multiples of 32 for this network"):
        Detector(Wide(), CtdetTask(3), modes={"tiles": [100, 96]})


@pytest.mark.parametrize("mode", ["fit", "keep", "stretch"])
def test_boxes_of_all_scales_are_in_the_pixels_of_the_image(mode):
    image = picture(90, 120, (30, 24, 24, BLUE))
    detector = Detector(ColorNetwork(), CtdetTask(3, heatmap={"max_detections": 5}))
    predictor = Predictor(detector, NAMES, (96, 128), mode, 4, inference={"scales": [0.5, 1, 2]})
    found = predictor(image, threshold=0.5)
    assert found["names"][0] == "blue"
    torch.testing.assert_close(found["boxes"][0], torch.tensor([30.0, 24, 54, 48]), rtol=0, atol=5)
    # The three scales find it once each; the softly lowered ones stay below the best.
    assert len(found["boxes"]) <= 3
    assert found["scores"].tolist() == sorted(found["scores"].tolist(), reverse=True)


def test_a_small_object_is_found_at_the_larger_scale_only():
    image = picture(64, 64, (24, 24, 8, BLUE))
    plain, larger = (
        Predictor(color_detector(), NAMES, (64, 64), divisor=4, inference={"scales": scales})(image)["scores"][0]
        for scales in ([1], [1, 3])
    )
    assert plain < 0.3 < 0.9 < larger


def test_images_of_several_sizes_and_scales_are_predicted_as_one_by_one():
    images = [tiny.make_image(*size, seed=n) for n, size in enumerate([(48, 64), (100, 60), (64, 96), (48, 64)])]
    modes = {"scales": [0.5, 1, 1.5], "flip": True}
    predictor = Predictor(build_detector(), NAMES, (64, 96), "keep", batch_size=4, inference=modes)
    for image, found in zip(images, predictor.predict(images), strict=True):
        same(found, predictor(image), rtol=1e-4, atol=1e-3)


def test_the_folded_copy_keeps_the_modes():
    detector = build_detector()
    detector.use({"flip": True})
    assert detector.fuse().modes == Modes(flip=True)
