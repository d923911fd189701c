"""The command as a user types it: what is printed, what is written, and what the exit code says."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import shared_path
from data_files import BCCD
from PIL import Image

from pydet.cli import main
from pydet.detect_files import find_inputs, picture_targets

DOG = Path(__file__).parent.parent / "pydet" / "assets" / "dog.jpg"
COMMAND = [sys.executable, "-m", "pydet"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def dog(folder: Path) -> Path:
    (folder / "dog.jpg").write_bytes(DOG.read_bytes())
    return Path("dog.jpg")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message of argparse, which exits by itself."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_the_demo(dog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "dog.jpg"]) == 0
    output = capsys.readouterr()
    rows = {line.split()[0] for line in output.out.splitlines() if line.startswith("  ")}
    assert {"dog", "bicycle"} < rows
    assert rows & {"car", "truck"}
    assert output.out.startswith("dog.jpg (768x576): ")
    assert "1 of 1 pictures done" in output.err
    assert "annotated pictures are in detections" in output.err
    with Image.open("detections/dog.jpg") as drawn:
        assert drawn.size == (768, 576)
        assert np.abs(np.asarray(drawn).astype(int) - np.asarray(Image.open(dog))).max() > 100
    assert dog.read_bytes() == DOG.read_bytes()


def test_json_and_csv(dog: Path) -> None:
    dog.rename("000000000042.jpg")
    assert main(["detect", "000000000042.jpg", "--json", "out/r.json", "--csv", "r.csv", "--no-pictures"]) == 0
    assert not Path("detections").exists()
    results = json.loads(Path("out/r.json").read_text())
    assert {entry["image_id"] for entry in results} == {42}
    assert {1 + 1, 17 + 1} < {entry["category_id"] for entry in results}  # bicycle and dog in COCO's counting
    with Path("r.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows[:3]] == ["car", "bicycle", "dog"]
    for row, entry in zip(rows, results, strict=True):
        x, y, w, h = entry["bbox"]
        corners = [float(row[side]) for side in ("x1", "y1", "x2", "y2")]
        assert corners == pytest.approx([x, y, x + w, y + h], abs=0.02)


def test_options_reach_the_detector(dog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def classes(*options: str) -> list[str]:
        assert main(["detect", "dog.jpg", "--no-pictures", *options]) == 0
        return [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:] if line]

    usual = classes()
    assert len(classes("--threshold", "0.01")) > len(usual) > len(classes("--threshold", "0.59"))
    assert len(classes("--threshold", "0.01", "--iou-threshold", "1")) > len(classes("--threshold", "0.01"))
    tables = [classes("--size", size) for size in ("320", "320x320", "608x416")]
    assert tables[0] == tables[1]
    Path("names.txt").write_text("\n".join(f"thing{number}" for number in range(80)))
    weights = shared_path("data/weights/yolov3-tiny.weights")
    assert "thing16" in classes("--weights", str(weights), "--names", "names.txt")


def test_a_folder_with_other_files_and_bad_pictures(dog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = Path("photos")
    (photos / "within").mkdir(parents=True)
    good = photos / "good.JPG"
    good.write_bytes(DOG.read_bytes())
    (photos / "within" / "deeper.jpg").write_bytes(DOG.read_bytes())
    (photos / "notes.txt").write_text("not a picture, and not meant as one")
    (photos / ".hidden.jpg").write_text("what some systems leave behind")
    (photos / "empty.png").touch()
    (photos / "lies.jpg").write_text("no picture")
    (photos / "truncated.jpg").write_bytes(DOG.read_bytes()[:70_000])
    assert main(["detect", "photos", "gone.jpg", "*.nothing", "--json", "r.json"]) == 1
    output = capsys.readouterr()
    assert output.out.count("objects\n") == 1
    assert [file.name for file in Path("detections").iterdir()] == ["good.JPG"]
    assert len(json.loads(Path("r.json").read_text())) >= 3
    assert "1 of 5 pictures done" in output.err
    assert "1 other files in the folders were skipped" in output.err
    assert "5 failed:" in output.err
    for sentence in (
        "*.nothing: no file matches",
        f"{photos / 'empty.png'}: the file is empty",
        f"{photos / 'lies.jpg'}: not an image",
        f"{photos / 'truncated.jpg'}: truncated image",
        "gone.jpg: no such file",
    ):
        assert sentence in output.err
    assert "Traceback" not in output.err


def save_all_kinds(folder: Path) -> int:
    """Pictures of every kind that must simply work; returns how many."""
    dog = Image.open(DOG)
    grey16 = Image.fromarray(np.asarray(dog.convert("L")).astype(np.uint16) * 257)
    pictures = {
        "grey.png": dog.convert("L"),
        "one_bit.png": dog.convert("1"),
        "palette.gif": dog.quantize(64),
        "rgba.png": dog.convert("RGBA"),
        "cmyk.jpg": dog.convert("CMYK"),
        "sixteen.png": grey16,
        "sixteen.tif": grey16,
        "one_pixel.png": Image.new("RGB", (1, 1)),
        "wide.png": Image.new("RGB", (12000, 200), (200, 10, 10)),
    }
    for name, picture in pictures.items():
        picture.save(folder / name)
    return len(pictures)


def test_every_kind_of_picture(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "kinds").mkdir()
    count = save_all_kinds(folder / "kinds")
    assert main(["detect", "kinds", "--batch-size", "4"]) == 0
    output = capsys.readouterr()
    assert f"{count} of {count} pictures done" in output.err
    assert len(list(Path("detections").iterdir())) == count
    for name in ("grey.png", "rgba.png", "cmyk.jpg", "palette.gif", "sixteen.png", "sixteen.tif"):
        block = output.out.split(str(Path("kinds", name)), 1)[1].split("kinds")[0]
        assert "dog" in block, name


def test_nothing_detected_says_so_and_writes_the_picture(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (64, 48), (128, 128, 128)).save("grey.png")
    assert main(["detect", "grey.png", "--json", "r.json", "--csv", "r.csv"]) == 0
    assert capsys.readouterr().out == "grey.png (64x48): nothing detected\n"
    with Image.open("detections/grey.png") as picture:
        assert picture.getcolors() == [(64 * 48, (128, 128, 128))]
    assert json.loads(Path("r.json").read_text()) == []
    assert len(Path("r.csv").read_text().splitlines()) == 1


@pytest.mark.parametrize("option", ["--out", "--json", "--csv"])
def test_unwritable_outputs_are_refused_before_any_work(
    option: str, dog: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").write_text("in the way")
    monkeypatch.setattr("pydet.commands.detect.load_model", lambda _: pytest.fail("a model was loaded"))
    assert main(["detect", "dog.jpg", option, "file/below"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pydet: cannot write in the folder file")
    assert error.count("\n") == 1
    assert Path("file").read_text() == "in the way"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing stops the superuser")
def test_a_folder_without_write_permission(dog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("closed").mkdir(mode=0o555)
    assert main(["detect", "dog.jpg", "--out", "closed"]) == 2
    assert "cannot write in the folder closed: Permission denied" in capsys.readouterr().err


def test_result_files_that_would_destroy_something(dog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("results").mkdir()
    assert main(["detect", "dog.jpg", "--csv", "./dog.jpg"]) == 2
    assert "it is one of the inputs" in capsys.readouterr().err
    assert main(["detect", "dog.jpg", "--json", "results"]) == 2
    assert "it is a folder" in capsys.readouterr().err
    assert main(["detect", "dog.jpg", "--json", "r", "--csv", "r"]) == 2
    assert "cannot be the same file" in capsys.readouterr().err
    assert dog.read_bytes() == DOG.read_bytes()


def test_a_picture_that_cannot_be_written_does_not_stop_the_others(
    dog: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.jpg").write_bytes(DOG.read_bytes())
    Path("detections/a.jpg").mkdir(parents=True)  # a folder lies where the picture should go
    assert main(["detect", "a.jpg", "dog.jpg"]) == 1
    error = capsys.readouterr().err
    assert f"cannot write {Path('detections/a.jpg')}: " in error
    assert Path("detections/dog.jpg").is_file()


def test_an_input_is_never_overwritten(dog: Path) -> None:
    assert main(["detect", "dog.jpg", "--out", "."]) == 0
    assert dog.read_bytes() == DOG.read_bytes()
    assert Path("dog-2.jpg").is_file()


def test_equal_names_get_places_of_their_own() -> None:
    out = Path("out")
    paths = ["a/x.jpg", "b/x.jpg", "b/x-2.jpg", "c/X.JPG", "x.bmp", "x.tif", "y.webp"]
    assert picture_targets(paths, out) == [
        out / "x.jpg", out / "x-2.jpg", out / "x-2-2.jpg", out / "X-3.JPG", out / "x.png", out / "x-2.png",
        out / "y.webp",
    ]  # fmt: skip
    many = [f"{number}/x.jpg" for number in range(3000)]
    assert len(set(picture_targets(many, out))) == 3000
    assert picture_targets(["out/x.jpg", "a/x.jpg"], out) == [out / "x-2.jpg", out / "x-3.jpg"]


def test_symbolic_links_are_inputs_too(dog: Path) -> None:
    Path("store").mkdir()
    Path("links").mkdir()
    dog.rename("store/dog.jpg")
    Path("links/link.jpg").symlink_to(Path("../store/dog.jpg"))
    targets = picture_targets(["links/link.jpg"], Path("links")) + picture_targets(["links/link.jpg"], Path("store"))
    assert targets == [Path("links/link-2.jpg"), Path("store/link.jpg")]
    assert picture_targets(["links/link.jpg", "x/dog.jpg"], Path("store"))[1] == Path("store/dog-2.jpg")


def test_which_files_are_meant(folder: Path) -> None:
    for name in ("b.jpg", "a.png", "c.txt", "sub/d.jpg", "odd[1].jpg", "sub/none/readme"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert find_inputs(["."]).paths == ["a.png", "b.jpg", "odd[1].jpg"]
    assert find_inputs(["."]).skipped == 1
    assert find_inputs(["*.jpg", "b.jpg", "./b.jpg", "a.png"]).paths == ["b.jpg", "odd[1].jpg", "a.png"]
    assert find_inputs(["**/*.jpg"]).paths == ["b.jpg", "odd[1].jpg", "sub/d.jpg"]
    assert find_inputs(["./**/*.jpg"]).paths == ["./b.jpg", "./odd[1].jpg", "./sub/d.jpg"]
    assert find_inputs([f"{folder}/s*/**"]).paths == [f"{folder}/sub/d.jpg", f"{folder}/sub/none/readme"]
    assert find_inputs(["**/none/**/r*"]).paths == ["sub/none/readme"]
    Path(".hidden").mkdir()
    Path(".hidden/e.jpg").touch()
    for name in ("one", "two"):  # more ways than anybody can go
        Path("sub", name).symlink_to(".")
    assert find_inputs(["**/*.jpg"]).paths == ["b.jpg", "odd[1].jpg", "sub/d.jpg"]
    assert find_inputs(["odd[1].jpg"]).paths == ["odd[1].jpg"]
    assert find_inputs(["c.txt"]).paths == ["c.txt"]  # named: it is tried, and fails as a picture
    assert find_inputs(["sub/none"]).problems == [f"{Path('sub/none')}: no images in this folder"]
    Path("lost.jpg").symlink_to("gone.jpg")
    Path("round.jpg").symlink_to("round.jpg")
    assert find_inputs(["."]).paths == ["a.png", "b.jpg", "lost.jpg", "odd[1].jpg", "round.jpg"]  # tried, and fail
    assert find_inputs([""]).paths == [""]  # an unset variable of a script is not the current folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["detect"], "the following arguments are required: IMAGES"),
        (["detect", "x", "--threshold", "25"], "--threshold: must be a number in 0..1, got '25'"),
        (["detect", "x", "--iou-threshold", "nan"], "--iou-threshold: must be a number in 0..1, got 'nan'"),
        (["detect", "x", "--size", "4x4x4"], "--size: must be a size such as 416"),
        (["detect", "x", "--batch-size", "0"], "--batch-size: must be a whole number above 0, got '0'"),
        (["detect", "x", "--device", "tpu"], "--device: must be cpu, cuda or cuda:N, got 'tpu'"),
        (
            ["anchors", "x", "--seed", "9223372036854775808"],
            "--seed: must be a whole number in 0..2^63 - 1, got '922337",
        ),
        (["evaluate", "--images", "x"], "one of the arguments DATA --annotations is required"),
        (["teach"], "invalid choice: 'teach'"),
    ],
)
def test_usage_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capsys, *arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "yolov9"], "unknown model 'yolov9'; known ones are"),
        (["--model", "yolov3"], "the weights of yolov3 do not come with pydet"),
        (["--weights", "gone.weights"], "gone.weights"),
        (["--cfg", "gone.cfg", "--weights", "w.weights"], "gone.cfg"),
        (["--size", "100"], "multiples of 32"),
        (["--names", "gone.names"], "gone.names"),
        (["--device", "cuda:99"], "device cuda:99: torch "),
    ],
)
def test_mistakes_about_the_model(
    options: list[str], message: str, dog: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["detect", "dog.jpg", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("pydet: ")
    assert error.count("\n") == 1


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "evaluate" in capsys.readouterr().out


def test_help_and_mistakes_do_not_wait_for_torch() -> None:
    for arguments in (["--help"], ["detect", "--help"], ["detect", "x", "--threshold", "7"], ["--version"]):
        lines = [
            "import sys, contextlib, pydet.cli",
            f"with contextlib.suppress(SystemExit): pydet.cli.main({arguments})",
            "assert 'torch' not in sys.modules",
        ]
        subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, capture_output=True)


def test_evaluate(dog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {
        "images": [{"id": 1, "file_name": "dog.jpg"}, {"id": 2, "file_name": "gone.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [125, 200, 190, 340]}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    Path("a.json").write_text(json.dumps(content))
    arguments = ["evaluate", "--annotations", "a.json", "--images", ".", "--json", "out/ap.json"]
    assert main([*arguments, "--limit", "1"]) == 0
    assert "AP50   1.000" in capsys.readouterr().out
    assert json.loads(Path("out/ap.json").read_text())["metrics"]["AP50"] == pytest.approx(1)
    assert main(arguments) == 1
    assert "pydet: gone.jpg: no such file" in capsys.readouterr().err
    assert main([*arguments, "--strict"]) == 2
    assert "has 1 problem:\n  gone.jpg: no such file" in capsys.readouterr().err
    Path("a.json").write_text("{")
    assert main(arguments) == 2
    assert "pydet: a.json: not a JSON file" in capsys.readouterr().err


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    assert "torch" in capsys.readouterr().out


def test_file_names_that_are_not_utf8(dog: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    dog.rename(name)
    done = subprocess.run([*COMMAND, "detect", name, "--csv", "r.csv", "--json", "r.json"], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"caf" in done.stdout
    assert Path("detections", name).is_file()
    assert b"caf\xe9.jpg,car," in Path("r.csv").read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c(folder: Path) -> None:
    Path("photos").mkdir()
    small = Image.open(DOG).resize((160, 120))
    for number in range(500):
        small.save(f"photos/{number:03}.jpg")
    process = subprocess.Popen(
        [*COMMAND, "detect", "photos", "--json", "r.json", "--batch-size", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background starts without it
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not Path("detections/002.jpg").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: " in errors
    assert "no results file was written" in errors
    assert "Traceback" not in errors
    assert not Path("r.json").exists()
    assert not list(Path("detections").glob(".*"))
    for picture in Path("detections").iterdir():
        Image.open(picture).load()  # raises where it is cut off


def test_ctrl_c_while_it_is_being_imported() -> None:
    lines = [
        "import sys",
        "class Interrupted:",
        "    def find_spec(name, path, target=None):",
        "        if name == 'pydet.commands':",
        "            raise KeyboardInterrupt",
        "sys.meta_path.insert(0, Interrupted)",
        "from pydet.__main__ import run",
        "sys.exit(run())",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "pydet: interrupted\n")


@pytest.mark.parametrize(
    "words", ["CUDA out of memory. Tried to allocate 20 GiB", "DefaultCPUAllocator: can't allocate memory", "odd"]
)
def test_out_of_memory(
    words: str, dog: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*args: Any) -> Any:
        raise RuntimeError(words)

    monkeypatch.setattr("pydet.commands.detect.load_model", load)
    if words == "odd":
        with pytest.raises(RuntimeError, match="odd"):
            main(["detect", str(dog)])
    else:
        assert main(["detect", str(dog)]) == 2
        assert capsys.readouterr().err == "pydet: out of memory; a smaller --batch-size or --size needs less\n"


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("sent", [True, False])
def test_ctrl_c_of_which_torch_makes_an_error(sent: bool, dog: Path) -> None:
    """Reading weights, torch asks for the first byte of a storage and hides whatever error comes of that."""
    lines = [
        "import os, signal, sys, torch",
        "from pydet.__main__ import run",
        "signal.signal(signal.SIGINT, signal.default_int_handler)",
        "get = torch.UntypedStorage.__getitem__",
        "def first_byte(self, index):",
        "    if isinstance(index, slice): return get(self, index)",
        f"    if {sent}: os.kill(os.getpid(), signal.SIGINT)",
        "    raise IndexError",
        "torch.UntypedStorage.__getitem__ = first_byte",
        "sys.argv[1:] = ['detect', 'dog.jpg']",
        "sys.exit(run())",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    if sent:
        assert (done.returncode, done.stderr) == (130, "pydet: interrupted\n")
    else:
        assert done.returncode == 2
        assert "could not determine the shape of object type" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_reader_that_goes_away(dog: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m pydet detect dog.jpg --no-pictures | true", shell=True, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    assert "broken" not in done.stderr.lower()


@pytest.mark.skipif(os.name == "nt", reason="POSIX shell")
def test_closed_streams(dog: Path) -> None:
    command = f"{sys.executable} -m pydet detect dog.jpg --csv r.csv >&- 2>&-"
    assert subprocess.run(command, shell=True).returncode == 0
    assert Path("r.csv").read_text().count("\n") > 1


def test_evaluate_a_split_with_a_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folder, split and format are found; the tables and plots are written."""
    for split in ("train", "valid"):
        (folder / split / "images").mkdir(parents=True)
        (folder / split / "labels").mkdir()
        (folder / split / "images" / "dog.jpg").write_bytes(DOG.read_bytes())
        (folder / split / "labels" / "dog.txt").write_text(f"0 {220 / 768} {370 / 576} {190 / 768} {340 / 576}\n")
    (folder / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['dog']\n")
    assert main(["evaluate", ".", "--report", "report"]) == 0
    output = capsys.readouterr()
    assert "pydet: evaluating the split val" in output.err
    assert "tables and plots are in report" in output.err
    assert "1 images, 1 annotated objects" in output.out
    names = {path.name for path in Path("report").iterdir()}
    assert names == {
        "classes.csv",
        "confusion.csv",
        "confusion.png",
        "metrics.json",
        "precision_recall.csv",
        "precision_recall.png",
    }
    assert main(["evaluate", ".", "--split", "dev"]) == 2
    assert "no split named 'dev'; it has: train, val" in capsys.readouterr().err


def test_anchors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["anchors", str(BCCD), "--k", "3", "--plot", "elbow.svg"]) == 1  # of bad annotations
    output = capsys.readouterr()
    assert "(VOC, train): 3 pictures, 43 objects of 3 classes" in output.out
    assert "3 anchors for pictures of 416 x 416, average IoU 0." in output.out
    assert re.search(r"^anchors = \d+,\d+,  \d+,\d+,  \d+,\d+$", output.out, re.MULTILINE)
    assert len(re.findall(r"^ +\d+  0\.\d{3}  #+", output.out, re.MULTILINE)) == 12
    assert main(["anchors", str(BCCD), "--plot", "elbow.txt"]) == 2
    assert "elbow.txt: no format of plots ends with '.txt'; use .png or .svg" in capsys.readouterr().err
    assert output.err.count("its box has no width") == 2
    assert "<svg" in Path("elbow.svg").read_text()
    assert main(["anchors", str(BCCD), "--strict"]) == 2
    assert "has 2 problems" in capsys.readouterr().err
    assert main(["anchors", str(BCCD), "--split", "test", "--k", "99"]) == 2
    assert "99 anchors need as many boxes of different size, and there are" in capsys.readouterr().err
