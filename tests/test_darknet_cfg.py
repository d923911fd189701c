"""Reading, writing and checking of Darknet's cfg files, among them those that a stranger could send."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import pytest
import torch

from pydet.models.darknet import CfgError, Darknet, format_cfg, parse_cfg, read_cfg

CONVOLUTION = "[convolutional]\nfilters=8\nsize=3\npad=1\nactivation=leaky\n"
YOLO = "[yolo]\nmask=0\nanchors=10,13,16,30\nclasses=3\nnum=2\n"
REGION = "[region]\nanchors=1,2\nclasses=3\nnum=1\n"


def build(layers: str, width: int = 32, height: int = 32, channels: int = 3) -> Darknet:
    text = f"[net]\nwidth={width}\nheight={height}\nchannels={channels}\n{layers}"
    return Darknet(parse_cfg(text, "own.cfg"))


def test_white_space_comments_and_the_first_of_equal_keys() -> None:
    text = "# note\n[ net ]\n wid th = 6 4 \n;height\f=1\u2028two\nheight=32 # not a comment\r\n\theight = 96\n"
    text += "[conv]\nfilters=2\n"
    net, convolution = parse_cfg(text)
    assert net.options == {"width": "64", "height": "32#notacomment"}
    assert (net.integer("width"), net.integer("height")) == (64, 32)
    assert (convolution.name, convolution.options) == ("convolutional", {"filters": "2"})


def test_an_indented_comment_is_none_but_a_remark_after_a_number_is_ignored() -> None:
    """Darknet drops white space before it looks at the first character."""
    (net,) = parse_cfg("[net]\n   # width=1\nwidth=3 ; 4\nanchors = 1,2.5px,  3e1 \nmask=1,2 # 3")
    assert net.options == {"width": "3;4", "anchors": "1,2.5px,3e1", "mask": "1,2#3"}
    assert net.integer("width") == 3
    assert net.numbers("anchors") == [1, 2.5, 30]
    assert net.integers("mask") == [1, 2]


def test_integers_with_a_point_or_an_exponent() -> None:
    """C's atoi takes 4e2 for 4; nobody who wrote it means that. 416.0 is 416 for both."""
    (net,) = parse_cfg("[net]\nwidth=416.0\nheight=4e2\nchannels=3.5\nbatch=64.;half\nclasses=80each")
    assert [net.integer(key) for key in ("width", "batch", "classes")] == [416, 64, 80]
    for key in ("height", "channels"):
        with pytest.raises(
            CfgError, match=rf"{key} must start with an integer of at most 18 digits, got '{net.text(key)}'"
        ):
            net.integer(key)


@pytest.mark.parametrize(
    ("alias", "name"),
    [("network", "net"), ("conv", "convolutional"), ("conn", "connected"), ("max", "maxpool"), ("soft", "softmax")],
)
def test_section_aliases(alias: str, name: str) -> None:
    assert parse_cfg(f"[{alias}]")[0].name == name


def test_written_cfg_is_read_back_the_same(tmp_path: Path) -> None:
    sections = parse_cfg(f"[net]\nwidth=32\nheight=64\n{CONVOLUTION}{YOLO}")
    text = format_cfg(sections)
    assert parse_cfg(text) == sections
    assert format_cfg(parse_cfg(text)) == text
    (tmp_path / "a.cfg").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert read_cfg(tmp_path / "a.cfg") == sections


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "own.cfg: no [section] in it"),
        ("[net]\nwidth", "own.cfg, line 2: expected [section] or key=value, got 'width'"),
        ("[net]\nwidth=", "own.cfg, line 2: expected [section] or key=value, got 'width='"),
        ("\nwidth=3\n[net]", "own.cfg, line 2: 'width' comes before the first [section]"),
        ("[net\nwidth=3", "own.cfg, line 1: a section must look like [name], got '[net'"),
    ],
)
def test_text_that_is_no_cfg(text: str, message: str) -> None:
    with pytest.raises(CfgError, match="^" + re.escape(message)):
        parse_cfg(text, "own.cfg")


def test_weights_given_as_cfg(tmp_path: Path) -> None:
    (tmp_path / "a.cfg").write_bytes(bytes(range(256)) * 10)
    with pytest.raises(CfgError, match=r"a\.cfg, line 1: "):
        read_cfg(tmp_path / "a.cfg")
    with (tmp_path / "b.cfg").open("wb") as file:
        file.truncate(11 * 1024 * 1024)
    with pytest.raises(CfgError, match=r"b\.cfg: 11,534,336 bytes are too many"):
        read_cfg(tmp_path / "b.cfg")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("[magic]\n", r"line 5, layer 0 \[magic\]: unknown layer; known ones are connected, convolutional"),
        ("[convolutional]\nsize=3\n", r"line 5, layer 0 \[convolutional\]: the key 'filters' is missing"),
        (CONVOLUTION + "[dropout]\n" * 5000, r"line 1, \[net\]: 5,001 layers are too many; the limit is 5,000"),
        (
            CONVOLUTION + "[upsample]\nscale=1e999\n",
            r"layer 1 \[upsample\]: scale must be a number below 2\^1024, got 1e999",
        ),
        ("[convolutional]\nfilters=many\n", r"layer 0 \[convolutional\]: filters must start with an integer.*'many'"),
        ("[convolutional]\nfilters=0\n", r"layer 0 \[convolutional\]: filters must be at least 1, got 0"),
        ("[convolutional]\nfilters=-8\n", "filters must be at least 1, got -8"),
        ("[convolutional]\nfilters=8\nstride=0\n", "stride must be at least 1, got 0"),
        ("[convolutional]\nfilters=8\nsize=0\n", "size must be at least 1, got 0"),
        ("[convolutional]\nfilters=8\ngroups=2\n", "groups=2 must divide its 3 input channels and 8 filters"),
        ("[convolutional]\nfilters=8\nactivation=swoosh\n", "activation must be one of linear, leaky.*got 'swoosh'"),
        ("[convolutional]\nfilters=8\nxnor=1\n", "xnor=1 is not supported"),
        ("[convolutional]\nfilters=8\ndilation=2\n", "dilation=2 is not supported"),
        ("[convolutional]\nfilters=8\ndontloadscales=1\n", "dontloadscales=1 is not supported"),
        (CONVOLUTION + "[route]\nlayers=0\ngroups=2\ngroup_id=1\n", r"layer 1 \[route\]: groups=2 is not supported"),
        (CONVOLUTION + "[shortcut]\nfrom=0,0\n", "from must be one layer, got '0,0'"),
        (CONVOLUTION + "[reorg]\nstride=2\nflatten=1\n", "flatten=1 is not supported"),
        (CONVOLUTION + YOLO + "scale_x_y=1.05\n", r"layer 1 \[yolo\]: scale_x_y=1.05 is not supported"),
        (CONVOLUTION + REGION + "background=1\n", r"layer 1 \[region\]: background=1 is not supported"),
        (CONVOLUTION + YOLO + "[upsample]\n", r"layer 2 \[upsample\]: it takes the output of layer 1 \[yolo\], no map"),
        (CONVOLUTION + YOLO + "[route]\nlayers=0,1\n", r"layer 2 \[route\]: it takes the output of layer 1 \[yolo\]"),
        ("[convolutional]\nfilters=8\nsize=99\n", "a 99x99 filter does not fit into 32x32 padded by 0"),
        ("[maxpool]\nsize=40\npadding=0\n", "a window of 40 does not fit into 32x32 padded by 0"),
        (CONVOLUTION + "[upsample]\nstride=0\n", r"layer 1 \[upsample\]: stride must be at least 1"),
        (CONVOLUTION + "[route]\n", r"line 10, layer 1 \[route\]: the key 'layers' is missing"),
        (CONVOLUTION + "[route]\nlayers=1\n", r"layer 1 \[route\]: layers=1 refers to itself"),
        (CONVOLUTION + "[route]\nlayers=-1,5\n", r"layers=5 refers to layer 5, only layers before layer 1"),
        (CONVOLUTION + "[route]\nlayers=-2\n", "layers=-2 refers to layer -1, only"),
        (CONVOLUTION + "[route]\nlayers=-1,\n", "layers must start with an integer"),
        (CONVOLUTION + "[maxpool]\nsize=2\nstride=2\n[route]\nlayers=-1,0\n", "16x16 of layer 1, 32x32 of layer 0"),
        (CONVOLUTION + "[shortcut]\n", "the key 'from' is missing"),
        (CONVOLUTION + "[shortcut]\nfrom=1\n", "from=1 refers to itself"),
        (CONVOLUTION + "[reorg]\nstride=4\n", "its square the channels of 8x32x32"),
        ("[crop]\ncrop_height=32\ncrop_width=33\n", "32x33 cannot be cut out of 32x32"),
        (CONVOLUTION + "[dropout]\nprobability=2\n", "probability must be in 0..1, got 2"),
        (CONVOLUTION + YOLO.replace("mask=0", "mask=2"), "mask must hold indices of the anchors, 0 to 1, got 2"),
        (CONVOLUTION + YOLO.replace("mask=0", "mask=-1"), "mask must hold indices of the anchors, 0 to 1, got -1"),
        (CONVOLUTION + YOLO.replace("classes=3\n", ""), "the key 'classes' is missing"),
        (CONVOLUTION + YOLO.replace("num=2", "num=3"), "num=3 anchors are 6 numbers, got 4"),
        (CONVOLUTION + YOLO.replace("10,13", "0,13"), "anchors must be sizes in pixels, greater than 0"),
        (
            CONVOLUTION + YOLO.replace("classes=3", "classes=20"),
            r"layer 1 \[yolo\]: layer 0 before it must give 25 filters, 1 anchors x \(5 \+ 20 classes\), but gives 8",
        ),
        (
            CONVOLUTION
            + YOLO
            + "[route]\nlayers=0\n"
            + CONVOLUTION.replace("filters=8", "filters=9")
            + YOLO.replace("classes=3", "classes=4"),
            r"all \[yolo\] layers must have the same number of classes, got \[3, 4\]",
        ),
        ("", "there is no layer after"),
    ],
)
def test_cfgs_that_describe_no_network(layers: str, message: str) -> None:
    with pytest.raises(CfgError, match=message) as caught:
        build(layers)
    assert str(caught.value).startswith("own.cfg, line ")


@pytest.mark.parametrize(
    "layers",
    [
        "[convolutional]\nfilters=1000000000000\n",
        "[convolutional]\nfilters=8\nsize=100000\npad=1\n",
        "[convolutional]\nfilters=8\npadding=1000000000\n",
        "[convolutional]\nfilters=99999999999999999999\n",
        "[maxpool]\nsize=1000000000\nstride=1\n",
        "[upsample]\nstride=1000000\n",
        CONVOLUTION + "[route]\nlayers=" + ",".join(["-1"] * 60000) + "\n[route]\nlayers=" + ",".join(["-1"] * 60000),
    ],
    ids=["filters", "size", "padding", "digits", "window", "upsample", "route"],
)
def test_nothing_huge_is_allocated(layers: str) -> None:
    """Errors come from the numbers in the cfg, before torch is asked for memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CfgError, match=r"own\.cfg, line \d+, layer \d+"):
        build(layers)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # kB


def test_the_sum_of_the_weights_is_limited() -> None:
    layers = CONVOLUTION + "[convolutional]\nfilters=10000\nsize=5\n[convolutional]\nfilters=1000\nsize=5\n" * 2
    message = r"layer 4 .*up to here the network has [0-9,]+ weights; the limit is 536,870,912"
    with torch.device("meta"), pytest.raises(CfgError, match=message):
        build(layers)


def test_networks_that_cannot_find_anything() -> None:
    with pytest.raises(CfgError, match=r"own\.cfg, line 1, \[net\]: no layer of the network has weights"):
        build(REGION, channels=8).eval()([torch.zeros(8, 8, 8)])
    with pytest.raises(CfgError, match=r"own\.cfg, line 1, \[net\]: no layer of the network finds objects"):
        build(CONVOLUTION).eval()([torch.zeros(3, 8, 8)])


def test_huge_pictures_are_refused() -> None:
    with pytest.raises(CfgError, match="3x1000000x1000000 is too large"):
        build(CONVOLUTION, width=1_000_000, height=1_000_000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[convolutional]\nfilters=8\n", r"line 1, \[convolutional\]: the first section must be \[net\]"),
        (f"[net]\nwidth=32\n{CONVOLUTION}", "the key 'height' is missing"),
        (f"[net]\nwidth=0\nheight=32\n{CONVOLUTION}", "width must be at least 1, got 0"),
        (f"[net]\nwidth=-32\nheight=32\n{CONVOLUTION}", "width must be at least 1, got -32"),
    ],
)
def test_net_sections_that_cannot_be_used(text: str, message: str) -> None:
    with pytest.raises(CfgError, match=message):
        Darknet(parse_cfg(text, "own.cfg"))


def test_defaults_of_missing_keys() -> None:
    """As Darknet's: size 1, stride 1, no padding, logistic; mask: all anchors."""
    network = build("[convolutional]\nfilters=16\n[yolo]\nanchors=1,2,3,4\nclasses=3\nnum=2\n")
    convolution, yolo = network.layers
    assert (convolution.conv.kernel_size, convolution.conv.stride, convolution.conv.padding) == ((1, 1), (1, 1), (0, 0))
    assert convolution.section.text("activation", "logistic") == convolution.activation == "logistic"
    assert yolo.mask == [0, 1]
    assert yolo.anchors.tolist() == [[1, 2], [3, 4]]


def test_pad_is_half_the_size_and_padding_counts_pixels() -> None:
    same = build("[convolutional]\nfilters=1\nsize=5\npad=1\npadding=7\n").layers[0]
    assert same.output_shape((3, 20, 20)) == (1, 20, 20)
    wider = build("[convolutional]\nfilters=1\nsize=5\npadding=3\n").layers[0]
    assert wider.output_shape((3, 20, 20)) == (1, 22, 22)
