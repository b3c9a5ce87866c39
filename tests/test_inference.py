"""Detector and Predictor: an image goes in, boxes in its own pixels come out, the same one by one and in batches."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

from centernet.data.images import pixels_of, read_image
from centernet.data.transforms import eval_pipeline, warp_image
from centernet.detector import NORMALIZATIONS, Detector
from centernet.inference import Predictor
from centernet.models import build_network
from centernet.ops.affine import transform_boxes
from centernet.structures import Detections, InputError
from centernet.tasks.ctdet import CtdetTask
from tests import tiny
from tests.data.test_images import deep, photograph
from tests.places import ROOT

NAMES = ["red", "green", "blue"]


class ColorNetwork(nn.Module):
    """A network without weights that finds filled squares of pure colors: class by color, size from the area."""

    stride, divisor = 4, 4

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        colors = nn.functional.avg_pool2d((images > 0).float(), 4)
        heat = nn.functional.avg_pool2d(colors, 5, stride=1, padding=2)
        side = colors.sum((2, 3), keepdim=True).amax(1, keepdim=True).sqrt()
        size = side.expand(-1, 2, *heat.shape[2:])
        return [{"heatmap": torch.logit(heat, 1e-4), "size": size, "offset": torch.zeros_like(size)}]


def build_detector() -> Detector:
    torch.manual_seed(0)
    task = CtdetTask(3, heatmap={"max_detections": 20})
    network = tiny.enliven(build_network(tiny.NETWORK, task.heads))
    return Detector(network, task).eval()


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(build_detector(), NAMES, (64, 96))


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [tiny.make_image(*size, seed=n) for n, size in enumerate([(48, 64), (100, 60), (64, 96), (33, 77)])]


def test_a_prediction_in_sixteen_bits_is_nearly_the_same(predictor):
    image = tiny.make_image(64, 96)
    halved = Predictor(predictor.detector, NAMES, (64, 96), precision="bf16-mixed")
    wanted, found = predictor(image), halved(image)
    assert found["scores"].dtype == found["boxes"].dtype == torch.float32
    assert not torch.equal(found["scores"], wanted["scores"])
    assert torch.allclose(found["scores"], wanted["scores"], atol=0.02)


def test_an_unknown_precision_is_refused(predictor):
    with pytest.raises(InputError, match="precision='16' is unknown; choose one of 32-true, bf16-mixed"):
        Predictor(predictor.detector, NAMES, (64, 96), precision="16")


def test_a_predictor_gets_the_bits_of_16_bit_images_from_the_training_or_its_caller(tmp_path):
    path = tmp_path / "deep.png"
    deep(path, 4095, 48, 64)
    detector = build_detector()
    with pytest.raises(InputError, match="values up to 4095; set bit_depth"):
        Predictor(detector, NAMES, (64, 96))(path)
    described = Predictor(detector, NAMES, resolution=(64, 96), mode="fit", bit_depth=12)
    assert torch.equal(described(path)["scores"], described(read_image(path, bit_depth=12))["scores"])
    described.heatmap(path)
    with pytest.raises(InputError, match="bit_depth=20 does not fit"):
        Predictor(detector, NAMES, (64, 96), bit_depth=20)


def by_hand(predictor: Predictor, image: np.ndarray) -> Detections:
    """The same by the parts: warp, normalize, network, decode, move back."""
    pixels, matrix = warp_image(eval_pipeline((64, 96)), image)
    mean, std = (np.array(values)[:, None, None] * 255 for values in NORMALIZATIONS["coco"])
    normalized = torch.from_numpy((pixels.numpy() - mean) / std).float()
    detector = predictor.detector
    with torch.no_grad():
        found = detector.task.decode(detector.task.activate(detector.network(normalized[None])[-1]))
    boxes = transform_boxes(torch.linalg.inv(matrix), found["boxes"][0])
    return {"boxes": boxes, "scores": found["scores"][0], "labels": found["labels"][0]}


def assert_close(found: Detections, wanted: Detections) -> None:
    assert torch.allclose(found["scores"], wanted["scores"], atol=1e-5)
    assert torch.equal(found["labels"], wanted["labels"])
    assert torch.allclose(found["boxes"], wanted["boxes"], atol=1e-2)


def test_predicting_is_what_the_parts_do_by_hand(predictor, images):
    for image in images:
        found = predictor(image)
        assert found["scores"].std() > 1e-3  # or the network says the same everywhere
        assert_close(found, by_hand(predictor, image))
        assert found["names"] == [NAMES[label] for label in found["labels"].tolist()]
        assert len(found["scores"]) == 20


def test_images_in_a_batch_are_predicted_as_one_by_one(predictor, images):
    for together, image in zip(predictor.predict(images), images, strict=True):
        assert_close(together, predictor(image))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_images_of_several_sizes_keep_their_order_in_keep_mode(images, batch_size):
    predictor = Predictor(build_detector(), NAMES, (64, 96), mode="keep", batch_size=batch_size)
    mixed = [images[1], images[0], images[1], images[3]]
    found = predictor.predict(mixed)
    assert_close(found[0], found[2])
    for together, image in zip(found, mixed, strict=True):
        assert_close(together, predictor(image))


def test_files_and_arrays_give_the_same(predictor, images, tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), images[0][..., ::-1])
    assert_close(predictor(path), predictor(images[0]))
    assert_close(predictor(str(path)), predictor(images[0]))


def test_an_image_may_come_in_any_usual_form(predictor, images, tmp_path):
    image = images[0]
    height, width = image.shape[:2]
    alpha = np.full((height, width, 1), 7, np.uint8)
    tensor = torch.from_numpy(image)
    forms = {
        "PIL": PIL.Image.fromarray(image),
        "PIL with alpha": PIL.Image.fromarray(np.concatenate([image, alpha], 2)),
        "with alpha": np.concatenate([image, alpha], 2),
        "channels first": image.transpose(2, 0, 1),
        "tensor": tensor.permute(2, 0, 1),
        "tensor, channels last": tensor,
        "floats up to 255": image.astype(np.float32),
        "floats up to 1": image / 255,
        "tensor of floats up to 1": tensor.permute(2, 0, 1).float() / 255,
        "large integers": image.astype(np.int64),
        "a view": np.ascontiguousarray(image[:, ::-1])[:, ::-1],
    }
    wanted = predictor(image)
    for name, form in forms.items():
        found = predictor(form)
        assert torch.equal(found["boxes"], wanted["boxes"]), name
        assert torch.equal(found["scores"], wanted["scores"]), name
    assert len(predictor.predict(list(forms.values()))) == len(forms)
    assert np.array_equal(predictor.heatmap(forms["PIL"])[0], predictor.heatmap(image)[0])


def test_gray_images_count_as_three_equal_channels(predictor, images):
    gray = images[0][..., 0]
    wanted = predictor(np.stack([gray] * 3, 2))
    for form in (
        gray,
        gray[..., None],
        gray[None],
        PIL.Image.fromarray(gray),
        torch.from_numpy(gray)[None],
        gray / 255,
    ):
        assert torch.equal(predictor(form)["scores"], wanted["scores"])
    pair = np.stack([gray, np.zeros_like(gray)], 2)  # gray and alpha
    assert torch.equal(predictor(pair)["scores"], wanted["scores"])


def test_a_photograph_opened_by_pil_is_turned_as_its_file_is(predictor, tmp_path):
    photograph(tmp_path / "a.jpg", 6)
    with PIL.Image.open(tmp_path / "a.jpg") as opened:
        assert pixels_of(opened).shape == read_image(tmp_path / "a.jpg").shape == (60, 40, 3)
        assert_close(predictor(opened), predictor(tmp_path / "a.jpg"))


def test_16_bit_arrays_and_pil_images_need_their_bits_too(tmp_path):
    deep(tmp_path / "deep.png", 4095, 48, 64)
    with PIL.Image.open(tmp_path / "deep.png") as opened:
        assert np.array_equal(pixels_of(opened, 12), read_image(tmp_path / "deep.png", bit_depth=12))
        with pytest.raises(InputError, match=r"image \(an array\) has 16 bits per channel and values up to 4095"):
            pixels_of(opened)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            np.random.default_rng(0).normal(size=(8, 8, 3)),
            r"with values from -.* to .* cannot be used; .* not normalized",
        ),
        (np.full((8, 8, 3), np.nan), "with values from nan to nan cannot be used"),
        (np.full((8, 8, 3), 70_000), "with values from 70000 to 70000 cannot be used"),
        (np.zeros((8, 8), bool), "is a mask, not an image"),
        (np.zeros((8, 8, 3), complex), "an array of complex128 is not an image"),
        (
            np.zeros((8, 8, 7), np.uint8),
            r"an array of shape \[8, 8, 7\] is not an image; give \[H, W, 3\], \[3, H, W\] or",
        ),
        (np.zeros((0, 8, 3), np.uint8), r"an array of shape \[0, 8, 3\] is not an image"),
        (
            torch.zeros(2, 3, 8, 8),
            r"an array of shape \[2, 3, 8, 8\] holds several images; give them to predict\(images\)",
        ),
        ([np.zeros((8, 8, 3), np.uint8)], r"of type list cannot be read; for several images use predict\(images\)"),
        (b"bytes", "image given as bytes is not an image that OpenCV can read"),
        (3.5, "of type float cannot be read; give a path, a PIL image, an array or a tensor"),
        (None, "of type NoneType cannot be read; give a path"),
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence(predictor, image, message):
    with pytest.raises(InputError, match=message) as raised:
        predictor(image)
    assert "\n" not in str(raised.value)


def test_one_image_in_the_place_of_several_is_refused_and_a_batch_is_several(predictor, images):
    for one in ("a.jpg", images[0], torch.from_numpy(images[0]), PIL.Image.fromarray(images[0])):
        with pytest.raises(InputError, match="predict takes several images; give a list, or call the predictor itself"):
            predictor.predict(one)
    batch = np.stack([images[0], images[0][::-1]])
    for together, image in zip(predictor.predict(batch), batch, strict=True):
        assert_close(together, predictor(image))


def test_the_threshold_drops_what_is_less_sure(predictor, images):
    scores = predictor(images[0])["scores"]
    cut = float(scores[4])
    found = predictor(images[0], threshold=cut)
    assert found["scores"].tolist() == scores[scores >= cut].tolist()
    nothing = predictor(images[0], threshold=1.1)
    assert nothing["boxes"].shape == (0, 4)
    assert nothing["names"] == []


def test_no_images_give_no_detections(predictor):
    assert predictor.predict([]) == []
    assert list(predictor.stream(iter([]), about=[])) == []


@pytest.mark.parametrize("batch_size", [1, 3])
def test_images_are_taken_only_when_their_batch_is_due(images, batch_size):
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        for image in itertools.cycle(images):
            taken += 1
            yield image

    predictor = Predictor(build_detector(), NAMES, (64, 96), batch_size=batch_size)
    stream = predictor.stream(endless())
    assert taken == 0
    for n, image in enumerate([*images, *images]):
        assert_close(next(stream), predictor(image))
        assert taken == batch_size * (n // batch_size + 1)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_holds_at_least_one_image(batch_size):
    with pytest.raises(InputError, match=f"^batch_size={batch_size} is too small; use at least 1$"):
        Predictor(build_detector(), NAMES, (64, 96), batch_size=batch_size)


@pytest.mark.parametrize("count", [0, 3, 5])
def test_what_is_known_of_images_must_be_of_as_many(predictor, images, count):
    with pytest.raises(InputError, match=r"^images and about differ in length; give one mapping"):
        predictor.predict(images, about=[{}] * count)
    assert len(predictor.predict(images, about=[{}] * 4)) == 4


def test_an_image_that_cannot_be_had_is_named_and_not_called_a_missing_one(predictor, images):
    def broken() -> Iterator[np.ndarray]:
        yield images[0]
        raise InputError("the camera is off")

    for about in (None, [{}, {}]):
        with pytest.raises(InputError, match=r"^the camera is off$"):
            predictor.predict(broken(), about=about)


def test_a_task_refuses_what_it_has_no_use_for(predictor, images):
    with pytest.raises(InputError, match=r"^task ctdet needs only the image; remove focal$"):
        predictor(images[0], focal=700.0)


@pytest.mark.parametrize("mode", ["fit", "keep", "stretch"])
def test_boxes_are_in_the_pixels_of_the_image(mode):
    image = np.zeros((120, 200, 3), np.uint8)
    image[40:72, 100:132, 1] = 255  # a green square of 32 pixels
    predictor = Predictor(
        Detector(ColorNetwork(), CtdetTask(3, heatmap={"max_detections": 5})), NAMES, (160, 160), mode=mode
    )
    best = {name: value[0] for name, value in predictor(image).items()}
    assert best["names"] == "green"
    x1, y1, x2, y2 = best["boxes"].tolist()
    # The network sees cells of four input pixels, and its size is that of a square of the same area.
    assert (x1 + x2) / 2 == pytest.approx(116, abs=8)
    assert (y1 + y2) / 2 == pytest.approx(56, abs=8)
    assert (x2 - x1) * (y2 - y1) == pytest.approx(32 * 32, rel=0.2)


def test_the_heatmap_is_the_largest_over_classes_in_grid_space(predictor, images):
    heatmap, matrix = predictor.heatmap(images[0])
    assert heatmap.shape == (16, 24)
    assert heatmap.dtype == np.float32
    pixels, wanted = warp_image(predictor.pipeline, images[0])
    with torch.no_grad():
        maps = predictor.detector.find(pixels[None]).maps
    np.testing.assert_allclose(heatmap, maps["heatmap"][0].amax(0))
    assert np.array_equal(matrix, wanted.numpy())
    assert heatmap.max() == pytest.approx(predictor(images[0])["scores"][0].item())


def test_bytes_and_floats_are_normalized_alike():
    detector = Detector(nn.Identity(), CtdetTask(1), "imagenet")
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    normalized = detector.normalize(pixels)
    assert normalized.dtype == torch.float32
    assert torch.equal(normalized, detector.normalize(pixels.float()))
    channel = (pixels[0, 0, 0, 0].item() / 255 - 0.485) / 0.229
    assert normalized[0, 0, 0, 0].item() == pytest.approx(channel, abs=1e-5)


def test_the_normalization_is_no_weight():
    assert not [name for name in build_detector().state_dict() if "mean" in name.split(".")[:1] or name == "std"]


def test_the_predictor_switches_to_evaluation():
    detector = build_detector().train()
    assert not Predictor(detector, NAMES, (64, 64)).detector.training


def test_prediction_is_imported_without_what_only_training_needs():
    spy = (
        "import sys, centernet.inference\n"
        "print(sorted({'pytorch_lightning', 'lightning', 'hydra', 'omegaconf'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", spy], capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout == "[]\n"
