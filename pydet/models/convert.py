"""Makes a checkpoint of Darknet files: python -m pydet.models.convert CFG WEIGHTS OUT.safetensors"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import torch

from pydet.models import MODELS, Darknet, load, save_weights
from pydet.models.checkpoint import save_checkpoint


def convert(cfg: str | None, weights: str, output: str, names: str | None = None, half: bool = True) -> dict[str, str]:
    """Writes a checkpoint, or Darknet's weights; returns the SHA-256 of what it was made from.

    A checkpoint carries these too, and says itself what network it is for.

    Args:
        cfg: A cfg file, or the name of a definition such as "yolov3-tiny"; None as for `pydet.models.load`.
        output: A `.safetensors` file, or `.weights` for Darknet.
        names: File with a class name on each line.
        half: Convolutions in float16.
    """
    model, own_cfg = (cfg, None) if cfg in MODELS else (None, cfg)
    suffix = Path(output).suffix.lower()
    if suffix not in (".safetensors", ".weights"):
        raise ValueError(f"convert: the output must be a .safetensors or .weights file, got {output!r}")
    network = load(model, weights, own_cfg, class_names=names, fuse=False)
    files = [Path(file) for file in (weights, own_cfg) if file is not None]
    sources = {file.name: "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    if suffix == ".weights":
        if not isinstance(network, Darknet):
            raise ValueError(f"convert: {output}: only Darknet's networks have .weights, {network.name} is none")
        save_weights(network, output)
        return sources
    save_checkpoint(network, output, torch.float16 if half else torch.float32, sources)
    return sources


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pydet.models.convert", description=__doc__)
    parser.add_argument("cfg", help=f"a cfg file, or one of {', '.join(MODELS)}")
    parser.add_argument("weights", help="a Darknet .weights file, or a checkpoint")
    parser.add_argument("output", help="the .safetensors file to write")
    parser.add_argument("--names", help="file with a class name on each line")
    parser.add_argument("--float32", action="store_true", help="keep every bit; twice the size")
    options = parser.parse_args(arguments)
    try:
        sources = convert(options.cfg, options.weights, options.output, options.names, not options.float32)
    except (ValueError, OSError) as error:
        raise SystemExit(f"convert: {error}") from error
    size = Path(options.output).stat().st_size
    print("\n".join([f"{options.output}: {size:,} bytes", *(f"  {name} {digest}" for name, digest in sources.items())]))


if __name__ == "__main__":
    main()
