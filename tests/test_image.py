"""Every kind of picture that users have is read as upright 8-bit RGB, and every kind that cannot be is named."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pydet.image import ImageError, image_size, read_image

DOG = Path(__file__).parent.parent / "pydet" / "assets" / "dog.jpg"


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, bit_depth: int, colour_type: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG written by hand (PNG specification), for what Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def colours(image: torch.Tensor) -> list[list[tuple[int, ...]]]:
    """[3, H, W] as rows of (r, g, b)."""
    return [[tuple(pixel) for pixel in row] for row in image.permute(1, 2, 0).tolist()]


def test_pixels_of_a_photo_are_pillows() -> None:
    image = read_image(DOG)
    assert image.dtype == torch.uint8
    assert image.shape == (3, 576, 768)
    assert image.is_contiguous()
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), np.asarray(Image.open(DOG).convert("RGB")))


def test_every_kind_of_source_gives_the_same_picture() -> None:
    expected = read_image(DOG)
    array = np.asarray(Image.open(DOG))
    sources = [
        str(DOG),
        DOG.read_bytes(),
        Image.open(DOG),
        array,
        array.astype(np.float32) / 255,
        array[:, ::-1][:, ::-1],  # negative strides
        torch.from_numpy(array.copy()).permute(2, 0, 1),
        expected.double() / 255,
    ]
    for source in sources:
        torch.testing.assert_close(read_image(source), expected, rtol=0, atol=0)


def test_the_result_is_the_callers_own() -> None:
    array = np.zeros((2, 2, 3), np.uint8)
    tensor = torch.zeros(3, 2, 2, dtype=torch.uint8)
    read_image(array).fill_(9)
    read_image(tensor).fill_(9)
    assert array.max() == 0
    assert tensor.max() == 0


UPRIGHT = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)
STORED = {  # what a camera stores for UPRIGHT, by the meaning of the eight EXIF orientations (EXIF 2.3, tag 274)
    1: [[10, 20, 30], [40, 50, 60]],
    2: [[30, 20, 10], [60, 50, 40]],
    3: [[60, 50, 40], [30, 20, 10]],
    4: [[40, 50, 60], [10, 20, 30]],
    5: [[10, 40], [20, 50], [30, 60]],
    6: [[30, 60], [20, 50], [10, 40]],
    7: [[60, 30], [50, 20], [40, 10]],
    8: [[40, 10], [50, 20], [60, 30]],
}


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(Image.fromarray(np.array(STORED[orientation], np.uint8)), "PNG", exif=exif)
    for source in (data, Image.open(io.BytesIO(data))):
        np.testing.assert_array_equal(read_image(source)[0].numpy(), UPRIGHT)


def test_a_photo_with_damaged_exif_data_is_read() -> None:
    data = encoded(Image.open(DOG), "JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff broken")
    assert read_image(data).shape == (3, 576, 768)


WIDE = [0x0000, 0x00FF, 0x0100, 0x1234, 0x8000, 0xFFFF]
UPPER_BYTES = [0x00, 0x00, 0x01, 0x12, 0x80, 0xFF]
GREY16 = {
    "png": png(6, 1, 16, 0, b"\0" + struct.pack(">6H", *WIDE)),
    "tiff": encoded(Image.fromarray(np.array([WIDE], np.uint16)), "TIFF"),
    "pgm": b"P5 6 1 65535\n" + struct.pack(">6H", *WIDE),
    "rgb png": png(6, 1, 16, 2, b"\0" + b"".join(struct.pack(">3H", v, v, v) for v in WIDE)),
}


@pytest.mark.parametrize("kind", GREY16)
def test_sixteen_bits_keep_their_upper_eight(kind: str) -> None:
    assert read_image(GREY16[kind]).tolist() == [[UPPER_BYTES]] * 3


def test_big_endian_sixteen_bit_tiff() -> None:
    picture = Image.frombytes("I;16B", (6, 1), struct.pack(">6H", *WIDE))
    assert read_image(encoded(picture, "TIFF")).tolist() == [[UPPER_BYTES]] * 3


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        pytest.param(Image.frombytes("1", (2, 1), b"\x40"), [(0, 0, 0), (255, 255, 255)], id="1-bit"),
        pytest.param(Image.frombytes("L", (2, 1), b"\x07\xc8"), [(7, 7, 7), (200, 200, 200)], id="grey"),
        pytest.param(Image.frombytes("LA", (2, 1), b"\x07\xff\x07\x00"), [(7, 7, 7), (255, 255, 255)], id="grey alpha"),
        # black at alpha 128 over white: 255 - 128
        pytest.param(
            Image.frombytes("RGBA", (3, 1), bytes([1, 2, 3, 255, 9, 9, 9, 0, 0, 0, 0, 128])),
            [(1, 2, 3), (255, 255, 255), (127, 127, 127)],
            id="rgba",
        ),
        pytest.param(Image.frombytes("F", (2, 1), struct.pack("2f", 0.0, 1.0)), [(0,) * 3, (255,) * 3], id="float"),
    ],
)
def test_modes(picture: Image.Image, expected: list[tuple[int, ...]]) -> None:
    assert colours(read_image(picture)) == [expected]


def test_palette_and_its_transparency() -> None:
    picture = Image.frombytes("P", (2, 1), b"\x00\x01")
    picture.putpalette([250, 10, 20, 30, 240, 40])
    assert colours(read_image(encoded(picture, "PNG"))) == [[(250, 10, 20), (30, 240, 40)]]
    assert colours(read_image(encoded(picture, "PNG", transparency=1))) == [[(250, 10, 20), (255, 255, 255)]]


def test_transparent_colour_of_an_rgb_png() -> None:
    picture = Image.fromarray(np.array([[[5, 6, 7], [8, 9, 10]]], np.uint8))
    assert colours(read_image(encoded(picture, "PNG", transparency=(8, 9, 10)))) == [[(5, 6, 7), (255, 255, 255)]]


def test_cmyk_jpeg_as_photoshop_writes_it() -> None:
    data = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    assert b"Adobe" in data  # the marker of inverted ink values
    red, green, blue = read_image(data)[:, 4, 4].tolist()
    assert red > 250
    assert max(green, blue) < 5


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 2
    assert colours(read_image(data))[0][0] == (255, 0, 0)


@pytest.mark.parametrize("size", [(1, 1), (12000, 3), (3, 12000)])
def test_extreme_sizes(size: tuple[int, int]) -> None:
    assert read_image(encoded(Image.new("RGB", size, (1, 2, 3)), "PNG")).shape == (3, size[1], size[0])


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """File and the reason that the error must give."""
    contents = {
        "text.jpg": (b"not a picture", "not an image"),
        "empty.jpg": (b"", "the file is empty"),
        "cut.jpg": (DOG.read_bytes()[:80_000], "truncated"),
        "header_only.jpg": (DOG.read_bytes()[:30], ""),
        "cut.png": (encoded(Image.open(DOG), "PNG")[:100_000], "truncated"),
        "bomb.png": (png(60_000, 60_000, 8, 0, b""), "decompression bomb"),
        "float.tiff": (encoded(Image.frombytes("F", (1, 1), struct.pack("f", 7)), "TIFF"), "must be in 0..1"),
        "wide.tiff": (encoded(Image.frombytes("I", (1, 1), struct.pack("i", 70_000)), "TIFF"), "32-bit"),
    }
    cases = {"missing": (folder / "missing.jpg", "no such file"), "folder": (folder, "is a folder")}
    for name, (data, reason) in contents.items():
        (folder / name).write_bytes(data)
        cases[name] = (folder / name, reason)
    return cases


@pytest.mark.parametrize(
    "case",
    ["missing", "folder", "text.jpg", "empty.jpg", "cut.jpg", "header_only.jpg", "cut.png", "bomb.png", "float.tiff",
     "wide.tiff"],
)  # fmt: skip
def test_bad_files_are_named_with_the_reason(case: str, tmp_path: Path) -> None:
    path, reason = bad_files(tmp_path)[case]
    with pytest.raises(ImageError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert reason in message
    assert "\n" not in message


def test_no_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:  # a real one would not stop the superuser, who runs many CI machines
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImageError, match="no permission to read it"):
        read_image("secret.jpg")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (np.zeros((3, 20, 30), np.uint8), r"array of shape \[3, 20, 30\]: expected \[H, W\] or \[H, W, C\]"),
        (np.zeros((0, 4, 3), np.uint8), "expected"),
        (np.zeros((4, 4, 3), np.int64), "type int64"),
        (np.full((4, 4, 3), 1.5), r"must be in 0\.\.1, got 1\.5\.\.1\.5"),
        (np.full((4, 4), np.nan), "got nan"),
        (torch.zeros(20, 30, 3), r"tensor of shape \[20, 30, 3\]: expected \[C, H, W\]"),
        (torch.zeros(2, 3, 8, 8), "a batch goes in as a list"),
        (b"", "the file is empty"),
        (b"nonsense", "image of 8 bytes: not an image"),
        ("nul\0byte.jpg", "no such file"),
        ("", "'': no such file"),
    ],
)
def test_bad_sources(source: object, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read_image(source)  # type: ignore[arg-type]


def test_a_wrong_type_is_named() -> None:
    with pytest.raises(TypeError, match="got int"):
        read_image(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM"])
def test_damage_anywhere_gives_a_picture_or_an_image_error(kind: str) -> None:
    data = encoded(Image.open(DOG).resize((40, 30)), kind)
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), 4):
            damaged[place] = random.integers(0, 256)
        for candidate in (bytes(damaged), data[: random.integers(0, len(data))]):
            with contextlib.suppress(ImageError):
                assert read_image(candidate).shape[0] == 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_size_from_the_header_is_that_of_the_picture(tmp_path: Path, orientation: int, ending: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{ending}"
    Image.new("RGB", (30, 20)).save(path, exif=exif)
    assert image_size(path) == tuple(read_image(path).shape[1:])
    assert image_size(path) == ((20, 30) if orientation < 5 else (30, 20))


def test_size_of_what_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"a.jpg: no such file"):
        image_size(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(b"text")
    with pytest.raises(ImageError, match=r"a.jpg: not an image"):
        image_size(tmp_path / "a.jpg")
