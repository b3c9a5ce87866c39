"""Make ``tests/reference/golden``: a small part of the reference numbers that travels with the repository.

``CENTERNET_REFERENCE=FOLDER CENTERNET_DATA=FOLDER python -m tests.reference.make_golden`` reads the whole reference and
COCO's evaluation fixture, chooses by the rules below, and writes the folder anew. The same input gives the same bytes.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.places import DATA, GOLDEN, REFERENCE

KB = 1024
# Of every function: the cheapest case of each kind (see ``kind_of``), then second ones, up to so many bytes together.
# A function whose cheapest case costs more comes with that one; one without an entry stays out.
FUNCTIONS: dict[str, dict[str, float]] = {
    "image_xy": {
        "gaussian_radius(": 0,
        "gaussian2D(": 0,
        "draw_umich_gaussian(heatmap, center": 3 * KB,
        "draw_umich_gaussian(heatmap, ...) FIRST": 0,
        "draw_dense_reg(": 3 * KB,
        "get_affine_transform(": 4 * KB,
    },
    "image_hardnet": {"draw_dense_reg(": 0, "get_affine_transform(": 4 * KB, "get_border_coord(": 4 * KB},
    "losses_xy": {
        "FocalLoss()(pred": 4 * KB,
        "FocalLoss()(_sigmoid": 4 * KB,
        "RegL1Loss()": 0,
        "RegWeightedL1Loss()": 0,
        "RegLoss()": 0,
        "L1Loss()": 0,
        "BinRotLoss()": 0,
        "CtdetLoss(": 0,
    },
    "losses_hardnet": {"HarDNet CtdetLoss(": 0},
    "decode_xy": {
        "ctdet_decode(": 13.5 * KB,
        "_nms(": 0,
        "multi_pose_decode(": 0,
        "ddd_decode(": 0,
        "CtdetDetector.process": 0,
    },
    "decode_hardnet": {"CtdetDetector.process": 0},
    "postprocess_xy": {
        "ctdet_post_process(": 2 * KB,
        "multi_pose_post_process(": 0,
        "ddd_post_process(": 0,
        "get_alpha(": 0,
    },
    "postprocess_hardnet": {"ctdet_post_process(": 2 * KB},
    "ddd_utils": dict.fromkeys(
        (
            "compute_box_3d(",
            "project_to_image(",
            "project_3d_bbox(",
            "compute_orientation_3d(",
            "unproject_2d_to_3d(",
            "alpha2rot_y(",
            "rot_y2alpha(",
            "ddd2locrot(",
        ),
        0,
    ),
}
# What the one case of a function must have, so that the cheapest one does not leave out what is special about it.
NEEDED: dict[str, Callable[[dict[str, Any]], bool]] = {
    "multi_pose_decode(": lambda entry: {"hm_hp", "hp_offset"} <= set(entry["inputs"]),
    "CtdetDetector.process": lambda entry: entry["params"]["flip_test"],
    "CtdetLoss(": lambda entry: entry["params"]["reg_offset"] and not entry["params"]["mse_loss"],
    "get_border_coord(": lambda entry: entry["params"]["flipped"],
}
# Targets: of one picture (of the annotations that have 3D boxes, any) each kind of configuration that costs no more.
TARGETS = {"targets_ctdet": "instances", "targets_multi_pose": "person_keypoints", "targets_hardnet_ctdet": "instances"}
TARGETS_3D = {"targets_ddd": "kitti"}
MOST_PER_TARGET = 24 * KB
PIXELS = ("targets_ctdet", "targets_hardnet_ctdet")  # whose pixels are compared, too
# One network of each kind that converts differently, the one with the shortest list of tensors.
FAMILIES = ("resdcn_", "hardnet_")
COCO_IMAGES = 6  # of the evaluation fixture


def main() -> None:
    if REFERENCE == GOLDEN or not (REFERENCE / "networks.json").is_file():
        sys.exit(f"no whole reference in {REFERENCE}; set CENTERNET_REFERENCE")
    readme = (GOLDEN / "README.md").read_text()
    shutil.rmtree(GOLDEN)
    GOLDEN.mkdir()
    (GOLDEN / "README.md").write_text(readme)
    for name, budgets in FUNCTIONS.items():
        copy_cases(name, budgets)
    copy_targets()
    copy_networks()
    copy_kitti()
    write_json("voc_eval.json", read_json("voc_eval.json"))
    results = read_json("results_format.json")
    write_json("results_format.json", {"coco_hp": results["coco_hp"]})
    copy_coco_eval()
    total = sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file())
    print(f"{GOLDEN}: {total / KB:.0f} KB")


# Reading and writing -------------------------------------------------------------------------------------------------


def read_json(name: str) -> Any:
    return json.loads((REFERENCE / name).read_text())


def write_json(name: str, content: Any) -> None:
    """Compact, with the rows of a list or the fields of a mapping on lines of their own."""
    path = GOLDEN / name
    path.parent.mkdir(parents=True, exist_ok=True)
    compact = {"separators": (",", ":")}
    if isinstance(content, list):
        text = "[\n" + ",\n".join(json.dumps(row, **compact) for row in content) + "\n]\n"
    else:
        rows = (f"{json.dumps(key)}:{json.dumps(value, **compact)}" for key, value in content.items())
        text = "{\n" + ",\n".join(rows) + "\n}\n"
    path.write_text(text)


def copy_arrays(name: str, prefixes: Iterable[str], left_out: str = "-") -> None:
    """The arrays of NAME.npz below these prefixes, but not those called ``left_out...``.

    Without dates, and packed as tightly as ``numpy.load`` can read.
    """
    wanted = tuple(f"{prefix}/" for prefix in prefixes)
    with zipfile.ZipFile(REFERENCE / f"{name}.npz") as source, zipfile.ZipFile(GOLDEN / f"{name}.npz", "w") as target:
        for entry in sorted(source.namelist()):
            if entry.startswith(wanted) and not entry.split("/")[-1].startswith(left_out):
                packed = min(pack(source.read(entry)), key=lambda way: way[1])[0]
                target.writestr(zipfile.ZipInfo(entry), source.read(entry), compress_type=packed, compresslevel=9)


def pack(content: bytes) -> list[tuple[int, int]]:
    """Ways to pack bytes and the sizes that come out."""
    ways = []
    for way in (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(io.BytesIO(), "w") as trial:
            trial.writestr(zipfile.ZipInfo("x"), content, compress_type=way, compresslevel=9)
            ways.append((way, trial.infolist()[0].compress_size))
    return ways


@cache
def costs(name: str, depth: int) -> dict[str, int]:
    """Bytes of the arrays of NAME.npz by the first parts of their names."""
    found: dict[str, int] = defaultdict(int)
    with zipfile.ZipFile(REFERENCE / f"{name}.npz") as source:
        for entry in source.infolist():
            found["/".join(entry.filename.split("/")[:depth])] += entry.compress_size
    return found


def choose(
    entries: list[dict[str, Any]],
    cost: Callable[[dict[str, Any]], int],
    kind: Callable[[dict[str, Any]], Any],
    most: float,
) -> list[dict[str, Any]]:
    """The cheapest of each kind, then second ones, while they cost no more than ``most`` together; one at least."""
    seen: Counter[Any] = Counter()
    ranked = []
    for entry in sorted(entries, key=cost):
        ranked.append((seen[kind(entry)], cost(entry), entry))
        seen[kind(entry)] += 1
    chosen, spent = [], 0
    for _, price, entry in sorted(ranked, key=lambda row: row[:2]):
        if not chosen or spent + price <= most:
            chosen.append(entry)
            spent += price
    return [entry for entry in entries if entry in chosen]


# The parts -----------------------------------------------------------------------------------------------------------


def kind_of(entry: dict[str, Any]) -> Any:
    """What makes a case differ from others of its function: what goes in, and switches."""
    switches = [(key, value) for key, value in entry["params"].items() if isinstance(value, (bool, str))]
    return repr((sorted(entry["inputs"]), switches))


def copy_cases(name: str, budgets: dict[str, float]) -> None:
    entries = read_json(f"{name}.json")
    names = set()
    for function, most in budgets.items():
        is_fit = NEEDED.get(function, bool)
        fitting = [entry for entry in entries if entry["function"].startswith(function) and is_fit(entry)]
        names |= {e["name"] for e in choose(fitting, lambda e: costs(name, 1)[e["name"]], kind_of, most)}
    write_json(f"{name}.json", [entry for entry in entries if entry["name"] in names])
    copy_arrays(name, names)


def kind_of_target(entry: dict[str, Any]) -> Any:
    """What makes a configuration of the samplers differ from others."""
    is_turned = bool(entry.get("rot") or entry.get("rot_deg"))
    switches = sorted(key for key, value in entry["options"].items() if value is True)
    return repr((entry["fields"], entry["split_mode"], entry.get("flipped"), is_turned, switches))


def copy_targets() -> None:
    pictures = read_json("dataset/instances.json")
    with_objects = {row["image_id"] for row in pictures["annotations"]}
    files = {row["id"]: REFERENCE / "dataset" / "images" / row["file_name"] for row in pictures["images"]}
    cheapest = min(with_objects, key=lambda image_id: files[image_id].stat().st_size)
    for name, truth in {**TARGETS, **TARGETS_3D}.items():
        entries = read_json(f"{name}.json")
        if name in TARGETS:
            entries = [entry for entry in entries if entry["image_id"] == cheapest]
        prefix = {id(entry): f"{entry['config']}/{entry['image_id']}" for entry in entries}
        chosen = []
        for kind in sorted({kind_of_target(entry) for entry in entries}):
            same = [entry for entry in entries if kind_of_target(entry) == kind]
            best = min(same, key=lambda entry: costs(name, 2)[prefix[id(entry)]])
            if costs(name, 2)[prefix[id(best)]] <= MOST_PER_TARGET:
                chosen.append(best)
        chosen = [entry for entry in entries if entry in chosen]
        write_json(f"{name}.json", chosen)
        copy_arrays(name, [prefix[id(entry)] for entry in chosen], left_out="-" if name in PIXELS else "input_")
        copy_annotations(truth, {entry["image_id"] for entry in chosen})
    copy_annotations("pascal", {cheapest})
    (GOLDEN / "dataset" / "images").mkdir()
    shutil.copyfile(files[cheapest], GOLDEN / "dataset" / "images" / files[cheapest].name)


def copy_annotations(name: str, image_ids: set[int]) -> None:
    content = read_json(f"dataset/{name}.json")
    content["images"] = [row for row in content["images"] if row["id"] in image_ids]
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] in image_ids]
    write_json(f"dataset/{name}.json", content)


def copy_networks() -> None:
    networks, parity = read_json("networks.json"), read_json("network_parity.json")
    sizes = {arch: len(json.dumps(tasks)) for arch, tasks in networks["archs"].items()}
    chosen = {min((a for a in sizes if a.startswith(family)), key=sizes.__getitem__) for family in FAMILIES}
    networks["archs"] = {
        arch: {task: row for task, row in tasks.items() if not task.startswith("exdet")}
        for arch, tasks in networks["archs"].items()
        if arch in chosen
    }
    write_json("networks.json", networks)
    # Per network the smallest input, and of several tasks the one with the fewest heads.
    cases: dict[str, str] = {}
    for name, case in sorted(parity.items(), key=lambda item: (np.prod(item[1]["input_shape"]), len(item[1]["heads"]))):
        if case["arch"] in chosen:
            cases.setdefault(case["arch"], name)
    write_json("network_parity.json", {name: case for name, case in parity.items() if name in cases.values()})
    copy_arrays("network_parity", cases.values())


def copy_kitti() -> None:
    """The set of results with the fewest frames, and the labels of those."""
    files, expected = read_json("kitti_eval/files.json"), read_json("kitti_eval/expected.json")
    name = min(expected["results"], key=lambda one: (len(files[one]), one))
    labels = {frame: text for frame, text in files["label"].items() if frame in files[name]}
    write_json("kitti_eval/files.json", {"label": labels, name: files[name]})
    write_json("kitti_eval/expected.json", {**expected, "results": {name: expected["results"][name]}})


def copy_coco_eval() -> None:
    """Truth, made-up detections and numbers of the fixture's first images; neither masks nor images."""
    folder = DATA / "coco-eval-fixture"
    truth = json.loads(next(folder.glob("instances_*.json")).read_text())
    results = json.loads(next(folder.glob("*results.json")).read_text())
    official = next(folder.glob("*eval_res.txt")).read_text().split("type=bbox")[1]
    official = {" ".join(line.split()) for line in official.splitlines()}
    missing = {" ".join(line.split()) for line in summary(truth, results).splitlines()} - official
    assert not missing, f"on the whole fixture COCO's numbers do not come out: {missing}"
    ids = {row["id"] for row in truth["images"][:COCO_IMAGES]}
    keep = {
        "images": ("id", "file_name", "height", "width"),
        "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd"),
        "categories": ("id", "name", "supercategory"),
    }
    part = {side: [{key: row[key] for key in keys} for row in truth[side]] for side, keys in keep.items()}
    part["images"] = [row for row in part["images"] if row["id"] in ids]
    part["annotations"] = [row for row in part["annotations"] if row["image_id"] in ids]
    part = {"info": truth["info"], **part}
    found = [row for row in results if row["image_id"] in ids]
    write_json("coco_eval/instances_part.json", part)
    write_json("coco_eval/part_results.json", found)
    (GOLDEN / "coco_eval" / "part_eval_res.txt").write_text(f"type=bbox\n{summary(part, found)}")


def summary(truth: dict[str, Any], results: list[dict[str, Any]]) -> str:
    """The twelve lines that pycocotools prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluator.summarize()
    return printed.getvalue()


if __name__ == "__main__":
    main()
