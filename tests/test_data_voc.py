"""VOC's XML: layouts, whose pixels count from where, what is checked, and files that mean harm."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_files import picture, voc_object, voc_xml, write

from pydet.data import DataError, DataWarning, load_dataset
from pydet.data.voc import VOC_CLASSES, parse_xml

VOC = "<source><database>The VOC2007 Database</database></source>"


def devkit(folder: Path, *stems: str, xml: str | None = None) -> Path:
    for stem in stems:
        picture(folder / "JPEGImages" / f"{stem}.jpg")
        write(folder / "Annotations" / f"{stem}.xml", voc_xml(voc_object()) if xml is None else xml)
    return folder


def test_layouts(tmp_path: Path) -> None:
    devkit(tmp_path / "voc", "a", "b")
    write(tmp_path / "voc" / "ImageSets" / "Main" / "val.txt", "b\n")
    write(tmp_path / "voc" / "ImageSets" / "Main" / "cat_val.txt", "a -1\nb 1\n")  # of one class: no split
    assert [Path(path).name for path in load_dataset(tmp_path / "voc", strict=True).paths] == ["a.jpg", "b.jpg"]
    assert [Path(path).name for path in load_dataset(tmp_path / "voc", "val", strict=True).paths] == ["b.jpg"]
    with pytest.raises(DataError, match=r"it has: val$"):
        load_dataset(tmp_path / "voc", "cat_val")
    for stem in ("train/a", "valid/b"):  # Roboflow
        picture(tmp_path / "roboflow" / f"{stem}.jpg")
        write(tmp_path / "roboflow" / f"{stem}.xml", voc_xml(voc_object("cat" if stem == "train/a" else "ant")))
    parts = [load_dataset(tmp_path / "roboflow", split, strict=True) for split in ("train", "val")]
    assert [part.class_names for part in parts] == [("ant", "cat")] * 2  # the same labels in every split
    assert [part.labels.tolist() for part in parts] == [[1], [0]]


def test_endings_in_upper_case(tmp_path: Path) -> None:
    devkit(tmp_path, "a")
    picture(tmp_path / "JPEGImages" / "B.JPG")
    write(tmp_path / "Annotations" / "B.XML", voc_xml(voc_object()))
    assert [Path(path).name for path in load_dataset(tmp_path, strict=True).paths] == ["B.JPG", "a.jpg"]


def test_names_with_spaces_in_a_list(tmp_path: Path) -> None:
    devkit(tmp_path, "my cat 1", "my cat 2", "c")
    write(tmp_path / "ImageSets" / "Main" / "train.txt", "my cat 1\n\nmy cat 2\nnot there\n")
    with pytest.warns(DataWarning, match=r"train.txt: line 4 \(not there\): there is no not there.xml"):
        found = load_dataset(tmp_path, "train").paths
    assert [Path(path).stem for path in found] == ["my cat 1", "my cat 2"]


def test_a_link_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    devkit(tmp_path, "a", "b")
    (tmp_path / "JPEGImages" / "b.jpg").unlink()
    (tmp_path / "JPEGImages" / "b.jpg").symlink_to("store/b.jpg")
    with pytest.warns(DataWarning, match=r"b.jpg: no such file"):
        assert len(load_dataset(tmp_path)) == 1


def test_a_named_folder_of_pictures(tmp_path: Path) -> None:
    write(tmp_path / "xml" / "a.xml", voc_xml(voc_object()))
    picture(tmp_path / "pictures" / "a.png")
    assert len(load_dataset(tmp_path / "xml", images=tmp_path / "pictures", strict=True)) == 1


def test_vocs_own_pixels_count_from_one(tmp_path: Path) -> None:
    """In VOC's files the last pixel belongs to the object; others who write the format write edges."""
    for name, head, expected in (("voc", VOC, [9, 19, 40, 60]), ("other", "", [10, 20, 40, 60])):
        data = load_dataset(devkit(tmp_path / name, "a", xml=voc_xml(voc_object(), head=head)), strict=True)
        assert data.boxes.tolist() == [expected]
        assert data.class_names == (tuple(VOC_CLASSES) if head else ("cat",))


def test_difficult(tmp_path: Path) -> None:
    objects = [voc_object(extra=f"<difficult>{flag}</difficult>") for flag in (0, 1)] + [voc_object()]
    assert load_dataset(devkit(tmp_path, "a", xml=voc_xml(*objects))).difficult.tolist() == [False, True, False]


def test_parts_of_a_person_are_no_objects(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></part>"
    data = load_dataset(devkit(tmp_path, "a", xml=voc_xml(voc_object("person", extra=part))), strict=True)
    assert data.boxes.tolist() == [[10, 20, 40, 60]]


@pytest.mark.parametrize(
    ("told", "there"),
    [("old name.jpg", "a.jpg"), ("b.jpg", "b.jpg"), ("b", "b.jpg"), ("C:\\photos\\b.jpg", "b.jpg"), ("b.jpg", "a.png")],
)
def test_which_picture(tmp_path: Path, told: str, there: str) -> None:
    """The one that is named as the XML file is, else the one that the file names."""
    write(tmp_path / "a.xml", voc_xml(voc_object(), head=f"<filename>{told}</filename>"))
    picture(tmp_path / there)
    assert load_dataset(tmp_path, strict=True).paths == (str(tmp_path / there),)


@pytest.mark.parametrize("told", ["a.jpg", "a.png"])
def test_a_mask_beside_the_picture(tmp_path: Path, told: str) -> None:
    write(tmp_path / "a.xml", voc_xml(voc_object(), head=f"<filename>{told}</filename>"))
    for name in ("a.jpg", "a.png"):
        picture(tmp_path / name)
    assert load_dataset(tmp_path, strict=True).paths == (str(tmp_path / told),)


def test_no_picture_outside_of_the_folder(tmp_path: Path) -> None:
    picture(tmp_path / "secret.jpg")
    devkit(tmp_path / "voc", "a")
    write(tmp_path / "voc/Annotations/b.xml", voc_xml(voc_object(), head="<filename>../../secret.jpg</filename>"))
    write(tmp_path / "voc/ImageSets/Main/val.txt", "a\n../../secret\n")
    with pytest.warns(DataWarning, match="b.xml: its picture is not in .*JPEGImages"):
        assert len(load_dataset(tmp_path / "voc")) == 1
    with pytest.warns(DataWarning, match=r"val.txt: line 2 \(../../secret\): there is no ../../secret.xml in"):
        assert len(load_dataset(tmp_path / "voc", "val")) == 1


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (voc_xml(voc_object(name=None)), "object 1: has no name"),
        (voc_xml(voc_object(box=("", 2, 3, 4))), r"object 1 \(cat\): xmin must be a number, got ''"),
        (voc_xml(voc_object(box=(1, 2, "3 px", 4))), r"object 1 \(cat\): xmax must be a number, got '3 px'"),
        (voc_xml(voc_object(box=(1, "nan", 3, 4))), r"object 1 \(cat\): ymin must be a number, got 'nan'"),
        (voc_xml("<object><name>cat</name></object>"), r"object 1 \(cat\): xmin must be a number, got ''"),
        (voc_xml(voc_object(), size=(300, 200)), r"bad.xml: size: is 300 x 200 there, but .*bad.jpg is 100 x 80"),
        ("no xml", "bad.xml: not an XML file"),
        ("", "bad.xml: not an XML file"),
        (b"<?xml version='1.0' encoding='nonsense'?><a></a>", "bad.xml: in an unknown encoding, nonsense"),
    ],
)
def test_what_is_bad_is_named_and_left_out(tmp_path: Path, xml: str | bytes, message: str) -> None:
    devkit(tmp_path, "good")
    picture(tmp_path / "JPEGImages" / "bad.jpg")
    write(tmp_path / "Annotations" / "bad.xml", xml)
    with pytest.warns(DataWarning, match=message):
        data = load_dataset(tmp_path)
    assert data.boxes.tolist() == [[10, 20, 40, 60]]


def test_some_tools_write_no_size(tmp_path: Path) -> None:
    assert len(load_dataset(devkit(tmp_path, "a", xml=voc_xml(voc_object(), size=(0, 0))), strict=True)) == 1


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))


@pytest.mark.parametrize(
    "xml",
    [
        f'<!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]><annotation>&l9;</annotation>',
        '<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/passwd">]><annotation><object><name>&f;</name></object></annotation>',
        '<!DOCTYPE a SYSTEM "http://localhost/a.dtd"><annotation/>',
    ],
    ids=["billion laughs", "file", "network"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig"])
def test_entities_are_never_expanded(tmp_path: Path, xml: str, encoding: str) -> None:
    file = write(tmp_path / "evil.xml", xml.encode(encoding))
    with pytest.raises(DataError, match=r"evil.xml: has a document type, which annotations do not need"):
        parse_xml(file)


def test_a_document_type_does_not_hide_in_another_encoding(tmp_path: Path) -> None:
    """UTF-7 hides its < from who looks at bytes; what is parsed is the text that was looked at."""
    xml = "<?xml version='1.0' encoding='utf-7'?>" + '<!DOCTYPE a [<!ENTITY l "ha">]><a>&l;</a>'.replace("<", "+ADw-")
    with pytest.raises(DataError, match="has a document type"):
        parse_xml(write(tmp_path / "evil.xml", xml))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "gb2312"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    text = f"<?xml version='1.0' encoding='{encoding}'?>" + voc_xml(voc_object("猫"))
    picture(tmp_path / "a.jpg")
    write(tmp_path / "a.xml", text.encode(encoding))
    assert load_dataset(tmp_path, strict=True).class_names == ("猫",)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.xml").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(DataError, match=r"a.xml: larger than 4 MiB"):
        parse_xml(tmp_path / "a.xml")
