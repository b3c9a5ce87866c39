"""One warp per image: the matrix is what happens to the pixels, and the colors are one affine map."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from centernet.data.transforms import (
    GRAY,
    PCA_VALUES,
    PCA_VECTORS,
    ColorJitter,
    _turn_around_gray,
    eval_pipeline,
    seed_pipeline,
    train_pipeline,
    warp_image,
)
from centernet.data.warps import EvalWarp, JitterWarp, RandomCropWarp, Spans, StretchWarp, ZoomWarp, span
from centernet.fields import move
from centernet.ops.affine import fit_extent, flip_matrix, is_mirrored, transform_points
from centernet.structures import InputError
from tests.tiny import make_image, make_objects

PIPELINES = {
    "crop": lambda: train_pipeline((96, 128)),
    "jitter": lambda: train_pipeline((96, 128), "jitter", scale=0.4, shift=0.1),
    "stretched crop": lambda: train_pipeline((96, 128), "stretch"),
    "turned": lambda: train_pipeline((96, 128), "stretch", short_sides=[512], rotation=30.0),
    "zoomed": lambda: train_pipeline((96, 128), "zoom"),
    "zoomed and turned": lambda: train_pipeline((96, 128), "zoom", rotation=20.0),
    "none": lambda: train_pipeline((96, 128), None),
    "fit": lambda: eval_pipeline((96, 128), "fit"),
    "fit tall": lambda: eval_pipeline((160, 64), "fit"),
    "keep": lambda: eval_pipeline((96, 128), "keep"),
    "stretch": lambda: eval_pipeline((96, 128), "stretch"),
    "width": lambda: eval_pipeline((96, 128), "width"),
    "jitter of the width": lambda: train_pipeline((96, 128), "jitter", fill="width"),
}


def dot(height: int, width: int, x: int, y: int) -> np.ndarray:
    """A black image with a soft white dot."""
    image = np.zeros((height, width), np.float32)
    image[y, x] = 1
    image = cv2.GaussianBlur(image, (0, 0), 3)
    return np.repeat((image / image.max() * 255).astype(np.uint8)[..., None], 3, 2)


@pytest.mark.parametrize("name", PIPELINES)
@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), x=st.integers(30, 170), y=st.integers(30, 120))
def test_convention_the_matrix_is_what_happens_to_the_pixels(name, seed, x, y):
    pipeline = PIPELINES[name]()
    seed_pipeline(pipeline, seed)
    pixels, matrix = warp_image(pipeline, dot(150, 200, x, y))
    at = transform_points(matrix, torch.tensor([[x, y]], dtype=torch.float64))[0]
    height, width = pixels.shape[1:]
    bright = pixels.float().mean(0)
    if not (15 < at[0] < width - 15 and 15 < at[1] < height - 15):
        return  # cropped away
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    found = torch.tensor([(bright * xs).sum(), (bright * ys).sum()]) / bright.sum()
    assert (found - at).abs().max() < 0.25


def test_the_dot_is_mostly_in_sight():
    # The test above proves little if every dot is cropped away.
    seen = 0
    for seed in range(50):
        pipeline = PIPELINES["crop"]()
        seed_pipeline(pipeline, seed)
        _, matrix = warp_image(pipeline, dot(150, 200, 100, 75))
        x, y = transform_points(matrix, torch.tensor([[100.0, 75]]))[0].tolist()
        seen += 15 < x < 113 and 15 < y < 81
    assert seen > 25


@pytest.mark.parametrize("name", PIPELINES)
def test_a_box_moves_with_what_is_in_it(name):
    image = np.zeros((150, 200, 3), np.uint8)
    image[50:90, 80:130] = 255
    for seed in range(10):
        pipeline = PIPELINES[name]()
        seed_pipeline(pipeline, seed)
        pixels, matrix = warp_image(pipeline, image)
        # Pixel centers lie at whole numbers, so that the white area reaches half a pixel less far than its box.
        objects = move(make_objects([[79.5, 49.5, 129.5, 89.5]]), matrix)
        x1, y1, x2, y2 = objects["boxes"][0].tolist()
        height, width = pixels.shape[1:]
        rows, columns = (pixels[0] > 127).nonzero(as_tuple=True)
        if not len(rows):
            assert x2 < 2 or y2 < 2 or x1 > width - 2 or y1 > height - 2
            continue
        found = [columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5]
        wanted = [max(x1, -0.5), max(y1, -0.5), min(x2, width - 0.5), min(y2, height - 0.5)]
        np.testing.assert_allclose(found, wanted, atol=0.8)
        assert objects["boxes"].dtype == torch.float32


def test_boxes_are_moved_and_everything_else_stays():
    objects = make_objects([[1, 2, 3, 4]], [5], [True])
    moved = move(objects, torch.diag(torch.tensor([2.0, 3, 1], dtype=torch.float64)))
    assert moved["boxes"].tolist() == [[2, 6, 6, 12]]
    for name in ("labels", "crowd", "area"):
        assert moved[name] is objects[name]


def matrices(warp: RandomCropWarp | JitterWarp, image_size: tuple[int, int], count: int = 400) -> np.ndarray:
    warp.random_generator = np.random.default_rng(0)
    return np.stack([warp.matrix(image_size) for _ in range(count)])


def window(matrix: np.ndarray, size: tuple[int, int], width: int) -> tuple[float, float, float, bool]:
    """Center in the (perhaps mirrored) image, extent and whether mirrored."""
    mirrored = bool(is_mirrored(torch.from_numpy(matrix)))
    x, y, _ = np.linalg.inv(matrix) @ [size[1] / 2, size[0] / 2, 1]
    return x, y, size[1] / abs(matrix[0, 0]), mirrored


@pytest.mark.parametrize("image_size", [(480, 640), (300, 900), (60, 50)])
def test_the_random_crop_follows_the_original(image_size):
    size = (128, 160)
    warp = RandomCropWarp(size)
    seen = [window(m, size, image_size[1]) for m in matrices(warp, image_size)]
    x, y, extent, mirrored = (np.array(column) for column in zip(*seen, strict=True))
    ratios = extent / fit_extent(image_size, size)
    assert set(np.round(ratios, 6)) == {0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3}
    assert 0.4 < mirrored.mean() < 0.6
    # The border is 128 pixels, halved until it leaves room: a center keeps that distance from the edge.
    for side, centers in ((image_size[1], x), (image_size[0], y)):
        border = next(128 // 2**n for n in range(9) if side - 128 // 2**n > 128 // 2**n)
        assert centers.min() >= border - 1 - 1e-6
        assert centers.max() <= side - border + 1e-6
        assert np.ptp(centers) > 0.7 * (side - 2 * border - 1)


def test_jitter_scales_and_shifts_within_its_bounds():
    size, image_size = (128, 128), (300, 400)
    warp = JitterWarp(size, scale=0.4, shift=0.1, flip=0.0)
    seen = [window(m, size, 400) for m in matrices(warp, image_size)]
    x, y, extent, mirrored = (np.array(column) for column in zip(*seen, strict=True))
    assert not mirrored.any()
    assert extent.min() >= 0.6 * 400 - 1e-6
    assert extent.max() <= 1.4 * 400 + 1e-6
    assert np.abs(x - 200).max() <= 0.2 * 400 + 1e-6
    assert np.abs(y - 150).max() <= 0.2 * 400 + 1e-6
    assert 0.2 < np.std(extent / 400) < 0.4
    assert 0.08 < np.std((x - 200) / 400) < 0.12
    still = JitterWarp(size, p_jitter=0.0, flip=0.0)
    assert np.ptp(matrices(still, image_size, 5), axis=0).max() == 0
    np.testing.assert_allclose(matrices(still, image_size, 1)[0], EvalWarp(size).matrix(image_size))
    half = matrices(JitterWarp(size, p_jitter=0.5, flip=0.0), image_size)
    untouched = np.isclose(half, EvalWarp(size).matrix(image_size)).all((1, 2)).mean()
    assert 0.4 < untouched < 0.6


def test_jitter_of_the_width_shifts_by_the_image_s_own_sides():
    size, image_size = (384, 1280), (370, 1240)
    warp = JitterWarp(size, scale=0.4, shift=0.1, flip=0.0, fill="width")
    seen = [window(m, size, 1240) for m in matrices(warp, image_size)]
    x, y, extent, _ = (np.array(column) for column in zip(*seen, strict=True))
    for side, moved in ((1240, x - 620), (370, y - 185)):
        assert np.abs(moved).max() <= 0.2 * side + 1e-6
        assert 0.08 < np.std(moved / side) < 0.12
    assert extent.min() >= 0.6 * 1240 - 1e-6
    assert extent.max() <= 1.4 * 1240 + 1e-6
    half = matrices(JitterWarp(size, p_jitter=0.5, flip=0.0, fill="width"), image_size)
    untouched = np.isclose(half, EvalWarp(size, "width").matrix(image_size)).all((1, 2)).mean()
    assert 0.4 < untouched < 0.6
    with pytest.raises(InputError, match=r"augment.fill='height' is unknown; choose whole or width"):
        JitterWarp(size, fill="height")


@pytest.mark.parametrize("image_size", [(370, 1224), (375, 1242), (100, 50)])
def test_width_fills_the_width_and_centers_the_height(image_size):
    matrix = EvalWarp((96, 320), "width").matrix(image_size)
    scale = 320 / image_size[1]
    wanted = [[scale, 0, 0], [0, scale, 48 - scale * image_size[0] / 2], [0, 0, 1]]
    np.testing.assert_allclose(matrix, wanted, atol=1e-9)


def test_fit_shows_the_whole_image_in_the_middle_on_black():
    pixels, matrix = warp_image(eval_pipeline((64, 64), "fit"), np.full((30, 120, 3), 200, np.uint8))
    assert matrix[0, 0] == matrix[1, 1] == 64 / 120
    filled = (pixels[0] > 100).nonzero()
    assert filled[:, 1].min() <= 1
    assert filled[:, 1].max() >= 62
    assert (filled[:, 0] >= 24).all()
    assert (filled[:, 0] <= 40).all()
    assert (pixels[:, :20] == 0).all()


def test_keep_leaves_the_resolution_and_pads_to_the_divisor():
    image = make_image(50, 70)
    pixels, matrix = warp_image(eval_pipeline((1, 1), "keep", divisor=32), image)
    assert tuple(pixels.shape) == (3, 64, 96)
    assert matrix[0, 0] == matrix[1, 1] == 1
    dx, dy = int(matrix[0, 2]), int(matrix[1, 2])
    assert np.array_equal(pixels[:, dy : dy + 50, dx : dx + 70].permute(1, 2, 0).numpy(), image)
    assert tuple(warp_image(eval_pipeline((1, 1), "keep", 128), image)[0].shape) == (3, 128, 128)
    # As in the original an exact multiple gets one more.
    assert EvalWarp((1, 1), "keep", 32).output_size((64, 96)) == (96, 128)


def test_stretch_fills_the_input():
    pixels, matrix = warp_image(eval_pipeline((64, 32), "stretch"), np.full((32, 64, 3), 200, np.uint8))
    assert matrix.diag().tolist() == [0.5, 2, 1]
    assert (pixels[:, :60, :30] > 150).all()


def test_the_pipeline_gives_bytes_in_channel_order():
    pixels, _ = warp_image(train_pipeline((32, 32), color={}), make_image())
    assert pixels.dtype == torch.uint8
    assert tuple(pixels.shape) == (3, 32, 32)


def step_by_step(image: np.ndarray, rng: np.random.Generator, amount: float, lighting: float) -> np.ndarray:
    """The original's color augmentation written out on a float image, drawing in the same order."""
    gray = (image * GRAY).sum(-1, keepdims=True)
    mean = gray.mean()
    for step in rng.permutation(3):
        alpha = 1 + rng.uniform(-amount, amount)
        image = image * alpha
        if step == 1:  # contrast: toward the mean gray of the image
            image = image + (1 - alpha) * mean
        elif step == 2:  # saturation: toward the gray of each pixel
            image = image + (1 - alpha) * gray
    return image + PCA_VECTORS @ (PCA_VALUES * rng.normal(0, lighting, 3)) * 255


@pytest.mark.parametrize("seed", range(8))
def test_the_color_matrix_is_all_steps_in_one(seed):
    image = make_image(seed=seed).astype(np.float64)
    jitter = ColorJitter()
    jitter.random_generator = np.random.default_rng(seed)
    matrix = jitter.color_matrix(float((image * GRAY).sum(-1).mean()))
    ours = image @ matrix[:, :3].T + matrix[:, 3]
    np.testing.assert_allclose(ours, step_by_step(image, np.random.default_rng(seed), 0.4, 0.1), atol=1e-6)
    applied = ColorJitter()
    applied.random_generator = np.random.default_rng(seed)
    pixels = applied.apply(image.astype(np.uint8))
    assert pixels.dtype == np.uint8
    assert np.abs(pixels - ours.clip(0, 255)).max() <= 1


def test_without_amounts_the_colors_stay():
    jitter = ColorJitter(brightness=0, contrast=0, saturation=0, lighting=0)
    jitter.random_generator = np.random.default_rng(0)
    assert np.array_equal(jitter.apply(make_image()), make_image())


def test_gray_stays_gray_without_lighting():
    jitter = ColorJitter(lighting=0)
    jitter.random_generator = np.random.default_rng(3)
    gray = np.repeat(make_image()[..., :1], 3, 2)
    changed = jitter.apply(gray).astype(int)
    assert np.ptp(changed, axis=2).max() <= 1
    assert not np.array_equal(changed, gray)


def test_hue_turns_the_colors_around_gray():
    jitter = ColorJitter(brightness=0, contrast=0, saturation=0, lighting=0, hue=60)
    turns = []
    for seed in range(200):
        jitter.random_generator = np.random.default_rng(seed)
        matrix = jitter.color_matrix(100.0)[:, :3]
        np.testing.assert_allclose(matrix @ [1, 1, 1], [1, 1, 1], atol=1e-12)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
        turns.append(np.rad2deg(np.arccos((np.trace(matrix) - 1) / 2)))
    assert 55 < max(turns) <= 60
    # By a third of the circle red becomes green.
    np.testing.assert_allclose(_turn_around_gray(120) @ [1, 0, 0], [0, 1, 0], atol=1e-12)


def test_blur_and_noise_touch_as_many_images_as_they_should():
    image = make_image()
    for name in ("blur", "noise"):
        pipeline, changed = train_pipeline((32, 48), None, **{name: 0.3}), 0
        plain = warp_image(eval_pipeline((32, 48)), image)[0]
        for seed in range(100):
            seed_pipeline(pipeline, seed)
            changed += not torch.equal(warp_image(pipeline, image)[0], plain)
        assert 15 < changed < 45


def test_noise_is_slight_and_so_is_blur():
    image = np.full((64, 64, 3), 128, np.uint8)
    image[:, 32:] = 178
    noise, blur = train_pipeline((64, 64), None, noise=1.0), train_pipeline((64, 64), None, blur=1.0)
    for seed in range(20):
        for pipeline in (noise, blur):
            seed_pipeline(pipeline, seed)
        noisy, blurred = (warp_image(pipeline, image)[0].float() for pipeline in (noise, blur))
        assert 0.01 * 255 * 0.9 < noisy[:, :, :32].std() < 0.05 * 255 * 1.1
        # A blurred edge rises as the normal distribution: by 1 / (sigma sqrt(2 pi)) of its height per pixel.
        assert 0.18 < blurred[0, 32].diff().max() / 50 < 0.8


def test_a_seed_repeats_the_whole_pipeline_and_another_does_not():
    pipeline, image = train_pipeline((32, 32), color={}), make_image()
    seed_pipeline(pipeline, 1, 2, 3)
    first = warp_image(pipeline, image)
    second = warp_image(pipeline, image)
    assert not torch.equal(first[1], second[1])  # the stream goes on
    seed_pipeline(pipeline, 1, 2, 3)
    again = warp_image(pipeline, image)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    seed_pipeline(pipeline, 1, 2, 4)
    assert not torch.equal(first[1], warp_image(pipeline, image)[1])


def test_every_step_has_a_stream_of_its_own():
    pipeline = train_pipeline((32, 32), color={})
    seed_pipeline(pipeline, 5)
    first, second = (step.random_generator.random(4).tolist() for step in pipeline.transforms)
    assert first != second


def test_no_augmentation_is_the_evaluations_warp():
    image = make_image()
    plain, evaluated = (warp_image(p, image) for p in (train_pipeline((32, 48), None), eval_pipeline((32, 48))))
    assert torch.equal(plain[0], evaluated[0])
    assert torch.equal(plain[1], evaluated[1])


def test_an_unknown_option_is_an_error():
    with pytest.raises(InputError, match=r"augment.warp='pan' is unknown; choose one of crop, jitter, stretch, zoom"):
        train_pipeline((32, 32), "pan")
    with pytest.raises(InputError, match=r"augment.scale=\[2, 1\] is not a range; give two numbers above 0, such as"):
        train_pipeline((32, 32), "zoom", scale=[2, 1])
    with pytest.raises(InputError, match=r"augment.blur=2 is not a probability; choose a value from 0 to 1"):
        train_pipeline((32, 32), blur=2)
    with pytest.raises(InputError, match="test_mode='crop' is unknown; choose one of fit, keep, stretch"):
        eval_pipeline((32, 32), "crop")
    with pytest.raises(
        InputError, match=r"augment.flipp is unknown; RandomCropWarp has the options scales, border, flip"
    ):
        train_pipeline((32, 32), flipp=0.5)
    with pytest.raises(
        InputError, match=r"augment.color.bright is unknown; ColorJitter has the options brightness, contrast, "
    ):
        train_pipeline((32, 32), color={"bright": 0.5})


def test_an_unknown_argument_of_an_albumentations_transform_is_an_error_in_tests():
    import albumentations as A

    # By itself albumentations only warns and goes on without the argument; pyproject.toml turns that into an error.
    with pytest.raises(UserWarning, match="not valid for transform"):
        A.HorizontalFlip(probability=0.5)


@given(seed=st.integers(0, 10_000))
def test_the_stretched_crop_draws_scale_aspect_and_shift_from_their_ranges(seed):
    size, image = (256, 384), (300, 400)
    warp = StretchWarp(size)
    warp.random_generator = np.random.default_rng(seed)
    matrix = warp.matrix(image)
    if is_mirrored(torch.from_numpy(matrix)):
        matrix = matrix @ flip_matrix(image[1])
    along_x, along_y = matrix[0, 0], matrix[1, 1]
    short = along_y * image[0]
    assert min(abs(short - side / 2) for side in range(192, 897, 64)) < 1e-6  # half of those for 512
    assert 0.4 <= along_x / along_y <= 1.6
    center = matrix @ [200, 150, 1]
    for at, shown, room in ((center[0], along_x * 400, 384), (center[1], short, 256)):
        assert abs(at - room / 2) <= max((shown - room) / 2, 0.2 * room) + 1e-6


def test_the_stretched_crop_distorts_the_longer_side_of_an_upright_image():
    warp = StretchWarp((512, 512), short_sides=[512], distortion=(1.6, 1.6), flip=0)
    warp.random_generator = np.random.default_rng(0)
    matrix = warp.matrix((400, 200))
    assert (matrix[0, 0] * 200, matrix[1, 1] * 400) == pytest.approx((512, 1024 * 1.6))


@given(seed=st.integers(0, 10_000))
def test_the_zoom_draws_scale_and_aspect_from_their_ranges_and_wastes_no_room(seed):
    warp = ZoomWarp((96, 128), scale=(0.5, 2.0), aspect=(0.8, 1.25), flip=0.0)
    warp.random_generator = np.random.default_rng(seed)
    matrix = warp.matrix((300, 500))
    sx, sy = matrix[0, 0], matrix[1, 1]
    fitted = 128 / fit_extent((300, 500), (96, 128))
    rounded = 0.02  # half a pixel of 30, the smallest height that is drawn
    assert 0.5 * (1 - rounded) <= (sx * sy) ** 0.5 / fitted <= 2.0 * (1 + rounded)
    assert 0.8 * (1 - rounded) <= sx / sy <= 1.25 * (1 + rounded)
    for side, scale, shift, room in ((500, sx, matrix[0, 2], 128), (300, sy, matrix[1, 2], 96)):
        # Edges of pixels lie half a pixel before their centers.
        low, high = scale * -0.5 + shift + 0.5, scale * (side - 0.5) + shift + 0.5
        assert round(low, 6) == round(low) or low < 0
        if side * scale <= room:  # all of it is in sight
            assert low >= -1e-6
            assert high <= room + 1e-6
        else:  # it fills the input
            assert low <= 1e-6
            assert high >= room - 1e-6


@given(side=st.integers(1, 700), room=st.integers(1, 700), scale=st.floats(0.01, 20), share=st.floats(0, 1))
def test_whole_pixels_become_whole_pixels_near_the_place_that_was_drawn(side, room, scale, share):
    reach = abs(side * scale - room) / 2
    middle = room / 2 + (2 * share - 1) * reach
    found = span(side, scale, middle, room)
    (first, last), (start, end) = found
    assert 0 <= first < last <= side
    assert 0 <= start < end <= room
    assert (first, last) == (0, side) or (start, end) == (0, room)
    factor, shift = found.line
    assert factor * (first - 0.5) + shift == pytest.approx(start - 0.5)
    assert factor * (last - 0.5) + shift == pytest.approx(end - 0.5)
    if min(last - first, end - start) > 20:
        assert factor == pytest.approx(scale, rel=0.03)
        assert abs(factor * (side / 2 - 0.5) + shift - (middle - 0.5)) < 1.5 * max(1, scale) + 0.03 * side * scale


@pytest.mark.parametrize("mirrored", [None, 50])
def test_resizing_agrees_with_the_warp_of_the_same_matrix(mirrored):
    image = cv2.GaussianBlur(make_image(40, 50, seed=3), (0, 0), 2)
    for rows, columns in (
        (span(40, 0.7, 20.0, 48), span(50, 0.9, 30.0, 64)),  # black on all sides
        (span(40, 2.3, 20.0, 48), span(50, 2.0, 30.0, 64)),  # cropped on all sides
        (span(40, 1.1, 20.0, 48), span(50, 2.0, 40.0, 64)),  # both
    ):
        spans = Spans(rows, columns, mirrored)
        found = spans.resize(image, (48, 64))
        warped = cv2.warpAffine(image, spans.matrix[:2], (64, 48), borderMode=cv2.BORDER_REPLICATE)
        (y, below), (x, after) = rows.target, columns.target
        inside = np.zeros((48, 64), bool)
        inside[y:below, x:after] = True
        assert not found[~inside].any()
        # The warp rounds its places to a 32nd of a pixel; at a crop's edge, it sees pixels that are cut off.
        difference = np.abs(found.astype(int) - warped)[y + 2 : below - 2, x + 2 : after - 2]
        assert difference.max() <= 4
        assert difference.mean() < 0.6


def test_small_and_large_zooms_are_equally_likely():
    warp = ZoomWarp((64, 64), scale=(0.5, 2.0), aspect=(1.0, 1.0))
    warp.random_generator = np.random.default_rng(0)
    factors = np.array([warp.matrix((64, 64)) for _ in range(400)])
    scales = np.abs(factors[:, 0, 0])
    assert 0.42 < (scales < 1).mean() < 0.58
    assert 0.4 < (factors[:, 0, 0] < 0).mean() < 0.6
