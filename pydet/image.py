"""Pictures as tensors: one function that reads what a user has and says in one sentence why it cannot."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[np.generic] | Tensor"

T = TypeVar("T")

_DTYPES = "uint8, uint16, bool or floating point in 0..1"


class ImageError(ValueError):
    """A picture that cannot be used; the message is one sentence: which picture, and why."""


def read_image(source: ImageSource) -> Tensor:
    """Reads a picture of any kind as 8-bit RGB, upright.

    For an ordinary file the pixels are those of ``cv2.imread`` (in RGB order) and of
    ``PIL.Image.open(...).convert("RGB")``. Beyond that:

    * the EXIF orientation of a file or PIL image is honoured;
    * transparent parts become white, as they look on a page;
    * 16 bits are reduced to the upper 8, as ``cv2.imread`` does; floating point 0..1 is scaled to 0..255;
    * of an animation, the first frame is taken; colour profiles are not applied.

    Args:
        source: A path; the bytes of an image file; a PIL image; an array ``[H, W]`` or ``[H, W, C]``; or a tensor
            ``[C, H, W]``, with C = 1 (grey), 3 (RGB, not OpenCV's BGR) or 4 (RGB and alpha).

    Returns:
        A new uint8 tensor ``[3, H, W]``, RGB, on the CPU.

    Raises:
        ImageError: The picture is missing, unreadable, damaged, not a picture, or too large to be a sane one.
    """
    if isinstance(source, Tensor):
        return _from_tensor(source)
    if isinstance(source, np.ndarray):
        return _from_array(source, f"array of shape {list(source.shape)}", "[H, W] or [H, W, C] with C = 1, 3 or 4")
    if isinstance(source, Image.Image):
        name = str(getattr(source, "filename", "")) or "PIL image"
        return _decoded(source, name)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _opened(io.BytesIO(source), f"image of {len(source)} bytes", len(source), _decoded)
    if isinstance(source, (str, os.PathLike)):
        return _from_path(os.fspath(source), _decoded)
    raise TypeError(
        f"read_image: expected a path, bytes, PIL image, numpy array or tensor, got {type(source).__name__}"
    )


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(height, width) that `read_image` would give a file, from its header alone (of a TIFF file, from all of it).

    Raises:
        ImageError: The file is missing, unreadable, not a picture, or too large to be a sane one.
    """
    return _from_path(os.fspath(path), _upright_size)


def _upright_size(image: Image.Image, name: str) -> tuple[int, int]:
    if image.format == "TIFF":  # which Pillow turns itself when it decodes it, or before that, by its version
        image.load()
    with contextlib.suppress(Exception):  # as in _decoded
        # Image's own method: that of PNG files decodes them to look for EXIF data behind the pixels.
        if Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8):  # lies on its side
            return image.width, image.height
    return image.height, image.width


def _from_path(path: str, use: Callable[[Image.Image, str], T]) -> T:
    if not path or "\0" in path:  # Path("") is the current folder
        raise ImageError(f"{path!r}: no such file")
    try:
        with Path(path).open("rb") as file:
            return _opened(file, path, os.fstat(file.fileno()).st_size, use)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold and no file name can
        raise ImageError(f"{path!r}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{path}: is a folder, not an image") from None
    except PermissionError:
        raise ImageError(f"{path}: no permission to read it") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error})") from error


def _opened(file: IO[bytes], name: str, size: int, use: Callable[[Image.Image, str], T]) -> T:
    if size == 0:
        raise ImageError(f"{name}: the file is empty")
    try:
        with Image.open(file) as image:
            return use(image, name)
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image, or of a format that Pillow cannot read") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(f"{name}: more than {limit:,} pixels, which could be a decompression bomb") from None
    except ImageError:
        raise
    except Exception as error:  # the headers of damaged files raise nearly everything, by format
        raise ImageError(f"{name}: damaged image ({error})") from error


def _decoded(image: Image.Image, name: str) -> Tensor:
    try:
        image.load()
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ... by format
        reason = "truncated image" if "truncated" in str(error).lower() else "damaged image"
        raise ImageError(f"{name}: {reason} ({error})") from error
    with contextlib.suppress(Exception):  # unreadable EXIF data: the picture itself is fine
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
    return _from_array(_pixels(image, name), name, "a picture of at least one pixel")


def _pixels(image: Image.Image, name: str) -> NDArray[np.generic]:
    """The pixels ``[H, W]`` or ``[H, W, 3 or 4]``, in a type that `_from_array` knows how to scale."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode == "I":  # what Pillow makes of 16-bit PGM and of 32-bit TIFF; only the first has a known range
        wide = np.asarray(image)
        if wide.size and (wide.min() < 0 or wide.max() > 65535):
            raise ImageError(f"{name}: 32-bit grey values beyond 0..65535; convert it to 8 or 16 bits")
        return wide.astype(np.uint16)
    if image.mode == "F":
        return np.asarray(image)
    mode = "RGBA" if image.has_transparency_data else "RGB"
    try:
        return np.asarray(image if image.mode == mode else image.convert(mode))
    except ValueError:
        raise ImageError(f"{name}: colour mode {image.mode} cannot be turned into RGB") from None


def _from_tensor(image: Tensor) -> Tensor:
    name = f"tensor of shape {list(image.shape)}"
    if image.dim() != 3 or image.shape[0] not in (1, 3, 4):
        raise ImageError(f"{name}: expected [C, H, W] with C = 1, 3 or 4 (a batch goes in as a list)")
    image = image.detach().cpu()
    if image.is_floating_point():
        image = image.float()  # numpy has no bfloat16
    return _from_array(image.permute(1, 2, 0).numpy(), name, "[C, H, W] with C = 1, 3 or 4")


def _from_array(array: NDArray[np.generic], name: str, expected: str) -> Tensor:
    """``[H, W]`` or ``[H, W, C]`` of any supported type to a fresh uint8 tensor ``[3, H, W]``."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.size == 0:
        raise ImageError(f"{name}: expected {expected}")
    pixels = _to_uint8(array, name)
    if pixels.shape[2] == 4:
        pixels = _over_white(pixels)
    planes = np.broadcast_to(pixels.transpose(2, 0, 1), (3, *pixels.shape[:2]))
    return torch.from_numpy(np.array(planes, order="C"))


def _to_uint8(array: NDArray[np.generic], name: str) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array  # type: ignore[return-value]
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return (array >> 8).astype(np.uint8)  # type: ignore[operator]
    if np.issubdtype(array.dtype, np.floating):
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 1):  # also catches NaN
            raise ImageError(f"{name}: floating point pixels must be in 0..1, got {low:g}..{high:g}")
        return np.rint(array * 255.0).astype(np.uint8)  # type: ignore[operator]
    raise ImageError(f"{name}: pixels of type {array.dtype} are not understood; expected {_DTYPES}")


def _over_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``[H, W, 4]`` to ``[H, W, 3]``; opaque pixels keep their exact value."""
    alpha = rgba[:, :, 3:].astype(np.uint16)
    ink = (255 - rgba[:, :, :3].astype(np.uint16)) * alpha
    return (255 - (ink + 127) // 255).astype(np.uint8)
