"""RetinaNet's preparation of pictures as a graph of ONNX: `pydet.preprocess.short_side` with all sizes computed."""

from __future__ import annotations

import onnx.parser
from onnx import ModelProto

from pydet.models.retinanet import MEAN, STD

# Sizes are computed in double, as in Python: 480 * (800 / 480) must not be cut to 799.
_TEXT = """
<ir_version: 10, opset_import: ["" : 18]>
short_side (float[batch, 3, height, width] images)
  => (float[batch, 3, rows, columns] x, float[2] offset, float[2] scale, int64[2] size)
<float[1, 3, 1, 1] mean = {{{mean}}}, float[1, 3, 1, 1] std = {{{std}}},
 double shortest = {{{shortest}}}, double longest = {{{longest}}}, double one = {{1}}, float[2] no_offset = {{0, 0}},
 int64[2] multiple = {{32, 32}}, int64[2] less = {{31, 31}}, int64[6] zeros = {{0, 0, 0, 0, 0, 0}},
 int64[2] swapped = {{1, 0}}>
{{
  picture = Shape <start = 2> (images)
  sides = Cast <to = 11> (picture)
  short = ReduceMin <keepdims = 0> (sides)
  long = ReduceMax <keepdims = 0> (sides)
  to_shortest = Div (shortest, short)
  to_longest = Div (longest, long)
  factor = Min (to_shortest, to_longest)
  product = Mul (sides, factor)
  whole = Floor (product)
  at_least_one = Max (whole, one)
  size = Cast <to = 7> (at_least_one)

  centred = Sub (images, mean)
  normal = Div (centred, std)
  batch_and_channels = Shape <end = 2> (images)
  resized_shape = Concat <axis = 0> (batch_and_channels, size)
  resized = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (normal, , , resized_shape)

  more = Add (size, less)
  blocks = Div (more, multiple)
  canvas = Mul (blocks, multiple)
  margin = Sub (canvas, size)
  pads = Concat <axis = 0> (zeros, margin)
  x = Pad (resized, pads)

  before = Cast <to = 1> (picture)
  after = Cast <to = 1> (size)
  by_side = Div (before, after)
  scale = Gather (by_side, swapped)
  offset = Identity (no_offset)
}}
"""


def model(shortest: int, longest: int) -> ModelProto:
    """Gives x, offset, scale and size of `pydet.onnx.fit.Fitted`."""
    mean, std = (", ".join(map(str, values)) for values in (MEAN, STD))
    return onnx.parser.parse_model(_TEXT.format(mean=mean, std=std, shortest=shortest, longest=longest))
