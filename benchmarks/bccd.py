"""Detectors trained on blood cells by `pydet train`, one after the other, and the table of what they reached.

    python benchmarks/bccd.py --data DATA --folder FOLDER             makes all runs, in FOLDER
    python benchmarks/bccd.py ssd300 --data DATA --folder FOLDER      one of them
    python benchmarks/bccd.py                                         only the table

DATA is the BCCD data set in VOC's layout. What a run reached is kept in results/bccd/, and the table, results/bccd.md,
is made of that. Nothing else should run on the machine: the times are part of the results.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import machine
from PIL import Image

from pydet.data import load_dataset
from pydet.image import read_image
from pydet.models.darknet.cfg import format_cfg
from pydet.models.yolov2 import yolov2_tiny

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "bccd"
CLASSES = ("RBC", "WBC", "Platelets")

_SCRATCH = (
    "--weights none --batch-size 8 --set parts=1 --set width=16 --set schedule=cosine --set warmup=200 --set clip=10 "
    "--set ema=0.998 --set vertical_flip=true"
)
_JOINT = (
    "--cfg joint.cfg --weights yolov3-tiny.safetensors --epochs 15 --size 416 --batch-size 8 --set parts=1 "
    "--set schedule=cosine --set warmup=100 --set warmup_power=1 --set clip=10 --set ema=0.998 "
    "--set batch_norm_momentum=0.03 --set multi_scale=false --set square=false --set augmentation=mild"
)
# Name: title, arguments of `pydet train` beside --out and --seed
RUNS = {
    "yolov3-tiny": ("from the official weights, the defaults", "yolov3-tiny --data bccd"),
    "yolov3-tiny-trainval": (
        "the same on train and val, longer, and turned upside down half of the time",
        "yolov3-tiny --data bccd --train-split train+val --epochs 50 --set vertical_flip=true",
    ),
    "ssd300": (
        "a quarter of VGG-16's channels, from random numbers",
        f"ssd300 --data bccd --epochs 100 --learning-rate 0.002 {_SCRATCH} --set augmentation=flip",
    ),
    "retinanet": (
        "version 2, a quarter of ResNet-50's channels, from random numbers, the short side 384 pixels",
        f"retinanet-resnet50-v2 --data bccd --epochs 24 --learning-rate 0.02 --size 384 {_SCRATCH} "
        "--set ema=0.995 --set batch_norm_momentum=0.03",
    ),
    "boxes-only": ("a small YOLO9000 without the labelled pictures", f"--data coarse {_JOINT}"),
    "joint": ("and with them", f"--data coarse --labelled labelled {_JOINT}"),
}
SEED = 0

INTRODUCTION = f"""\
BCCD: pictures of blood of 640 x 480 pixels, 205 to train on, 87 (val) of which the best weights are chosen, and 72
(test) on which they are measured. Average precision at an IoU of .5 over all points, of the mean of the classes and of
each; platelets are 69 in the test split, so that theirs varies by .03.

Made by `benchmarks/bccd.py`, which has all that the commands read; the seed is {SEED}. The minutes are those of the
whole command, its measurements and report included."""

# Boxes say "cell" or "Platelets"; which cell it is, only pictures without boxes say.
TREE = "Platelets -1\ncell -1\nRBC 1\nWBC 1\n"
JOINT = """\
YOLO9000's joint training (section 4) in small. The boxes of the train split have been made coarse: every red and every
white cell is only a "cell". Of which kind one is, is said by pictures without boxes alone, in a folder for each kind:
150 single cells of the train split, each where it was in its picture, of which nothing else is left. The tree:

```
{tree}```

The test split has its own labels, RBC and WBC, for which no box was ever trained."""


def prepare(data: Path, folder: Path) -> None:
    """What the runs read, by names without the paths of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bccd").unlink(missing_ok=True)
    (folder / "bccd").symlink_to(data.resolve())
    shutil.copy(ROOT / "pydet" / "assets" / "yolov3-tiny.safetensors", folder)
    (folder / "joint.tree").write_text(TREE)
    (folder / "joint.cfg").write_text(joint_cfg())
    if not (folder / "coarse").exists():
        coarse(folder / "bccd", folder / "coarse")
    if not (folder / "labelled").exists():
        crops(folder / "bccd", folder / "labelled")


def joint_cfg() -> str:
    """YOLOv2-tiny, the first thirteen layers of which are YOLOv3-tiny's, with a tree of four nodes."""
    anchors = ((0.79, 0.77), (2.13, 2.05), (4.37, 3.90))  # of `pydet anchors bccd --k 3`
    sections = yolov2_tiny(4, anchors, rescore=1)
    sections[-1].options["tree"] = "joint.tree"
    return format_cfg(sections)


def coarse(data: Path, to: Path) -> None:
    """The data set, with no other cells than cells in the boxes of the train split."""
    shutil.copytree(data / "ImageSets", to / "ImageSets")
    (to / "JPEGImages").symlink_to((data / "JPEGImages").resolve())
    (to / "Annotations").mkdir()
    train = (data / "ImageSets" / "Main" / "train.txt").read_text().split()
    for path in sorted((data / "Annotations").glob("*.xml")):
        tree = ElementTree.parse(path)
        for name in tree.iterfind("object/name") if path.stem in train else ():
            name.text = "Platelets" if name.text == "Platelets" else "cell"
        tree.write(to / "Annotations" / path.name)


def crops(data: Path, to: Path, each: int = 150) -> None:
    """As many cells of each kind, from as many pictures as possible; each alone in its picture, at its own size."""
    train = load_dataset(data, "train")
    found: dict[str, list[tuple[int, str, list[int]]]] = {"RBC": [], "WBC": []}
    for record in train:
        taken = dict.fromkeys(found, 0)
        for label, box in zip(record.labels.tolist(), record.boxes.int().tolist(), strict=True):
            kind = train.class_names[label]
            if kind in found and min(box[2] - box[0], box[3] - box[1]) > 20:
                found[kind].append((taken[kind], record.path, box))
                taken[kind] += 1
    for kind, places in found.items():
        (to / kind).mkdir(parents=True)
        for number, (_, path, (x1, y1, x2, y2)) in enumerate(sorted(places)[:each]):
            picture = read_image(path)
            rows, columns = (slice(max(low - 8, 0), high + 8) for low, high in ((y1, y2), (x1, x2)))
            alone = picture.flatten(1).median(1).values[:, None, None].expand_as(picture).clone()
            alone[:, rows, columns] = picture[:, rows, columns]
            Image.fromarray(alone.permute(1, 2, 0).numpy()).save(to / kind / f"{number:03}.png")


def run(name: str, folder: Path) -> None:
    command = ["train", *shlex.split(RUNS[name][1]), "--seed", str(SEED), "--out", name]
    shutil.rmtree(folder / name, ignore_errors=True)
    commit = machine.commit()
    start, began = time.perf_counter(), datetime.datetime.now(datetime.timezone.utc)
    with (folder / f"{name}.log").open("w") as log:
        paths = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run(
            [sys.executable, "-m", "pydet", *command], cwd=folder, env=paths, stdout=log, stderr=log, check=True
        )
    seconds = time.perf_counter() - start
    reached = json.loads((folder / name / "report" / "metrics.json").read_text())
    facts = {
        "command": shlex.join(["pydet", *command]),
        "seconds": seconds,
        "date": f"{began:%Y-%m-%d}",
        "commit": commit,
        "machine": machine.description(),
        "versions": machine.versions(),
        "metrics": reached["metrics"],
        "classes": {item["name"]: item["ap50"] for item in reached["classes"]},
        "printed": printed(folder, name),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")


def table(results: Path) -> str:
    """The results of all runs that are there, as Markdown."""
    files = {name: results / f"{name}.json" for name in RUNS}
    done = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    lines = ["# Training on blood cells", "", INTRODUCTION, ""]
    lines += ["| run | minutes | AP50 | " + " | ".join(CLASSES) + " | AP .5:.95 |", "|---" * 7 + "|"]
    for name, facts in done.items():
        numbers = [facts["metrics"]["AP50"], *(facts["classes"][kind] for kind in CLASSES), facts["metrics"]["AP"]]
        shown = " | ".join(f"{number:.3f}" for number in numbers)
        lines.append(f"| [{name}](#{name}), {RUNS[name][0]} | {facts['seconds'] / 60:.1f} | {shown} |")
    for name, facts in done.items():
        lines += ["", f"## {name}", ""]
        if name == "boxes-only":
            lines += [JOINT.format(tree=TREE), ""]
        lines += [f"    {facts['command']}", "", made_by(facts), ""]
        lines += ["<details><summary>What it printed</summary>", "", "```", facts["printed"], "```", "</details>"]
    return "\n".join(lines) + "\n"


def made_by(facts: dict[str, Any]) -> str:
    """Of which commit, with the + of a checkout that was changed, when, and where."""
    commit = re.sub(r"^(\w{12})\w*", r"\1", facts["commit"])
    about = f"{facts['machine']['cpu']}, {facts['machine']['threads']} threads, torch {facts['versions']['torch']}"
    return f"Commit {commit}, {facts['date']}; {about}."


def printed(folder: Path, name: str) -> str:
    text = (folder / f"{name}.log").read_text()
    return text.replace(f"{ROOT}{os.sep}", "").replace(f"{folder.resolve()}{os.sep}", "").strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"one of {', '.join(RUNS)} (default: all)")
    parser.add_argument("--data", type=Path, help="train on it; without, only the table is written")
    parser.add_argument("--folder", type=Path, help="where the runs are made")
    options = parser.parse_args()
    if unknown := [name for name in options.runs if name not in RUNS]:
        parser.error(f"RUN must be one of {', '.join(RUNS)}, got {unknown[0]}")
    if bool(options.data) != bool(options.folder) or (options.runs and not options.data):
        parser.error("a run needs both --data and --folder")
    if options.data:
        prepare(options.data, options.folder)
        for name in options.runs or RUNS:
            print(f"{name}: pydet train {RUNS[name][1]}", flush=True)
            run(name, options.folder)
    RESULTS.with_suffix(".md").write_text(table(RESULTS))


if __name__ == "__main__":
    main()
