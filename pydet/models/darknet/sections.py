"""Sections of a cfg, written in Python: what the definitions of Darknet's networks are made of."""

from __future__ import annotations

from collections.abc import Iterable

from pydet.models.darknet.cfg import Section


def net(image_size: tuple[int, int]) -> Section:
    height, width = image_size
    return section("net", batch=1, subdivisions=1, width=width, height=height, channels=3)


def convolution(
    filters: int, size: int, stride: int = 1, activation: str = "leaky", batch_normalize: bool = True
) -> Section:
    normalize = {"batch_normalize": 1} if batch_normalize else {}
    shape = {"filters": filters, "size": size, "stride": stride, "pad": 1}
    return section("convolutional", **normalize, **shape, activation=activation)


def maxpool(size: int, stride: int = 1) -> Section:
    return section("maxpool", size=size, stride=stride)


def upsample(stride: int) -> Section:
    return section("upsample", stride=stride)


def route(*layers: int) -> Section:
    return section("route", layers=joined(layers))


def shortcut(origin: int) -> Section:
    return section("shortcut", **{"from": origin}, activation="linear")


def reorg(stride: int) -> Section:
    return section("reorg", stride=stride)


def local(filters: int, size: int) -> Section:
    return section("local", size=size, stride=1, pad=1, filters=filters, activation="leaky")


def dropout(probability: str) -> Section:
    return section("dropout", probability=probability)


def connected(outputs: int, activation: str) -> Section:
    return section("connected", output=outputs, activation=activation)


def joined(numbers: Iterable[float]) -> str:
    return ",".join(f"{number:.9g}" for number in numbers)


def section(name: str, **options: object) -> Section:
    return Section(name, {key: str(value) for key, value in options.items()})
