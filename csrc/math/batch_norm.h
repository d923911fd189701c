// Batch normalisation (Ioffe and Szegedy 2015) and the leaky rectifier behind it, for one number of a channel.
#pragma once

#include "scalar.h"

namespace pydet {

// Algorithm 1, its last two lines: scale is weight / sqrt(variance + epsilon). The mean first, though x scale + shift
// would be one operation less: of numbers far from 0 the two would be large, and their difference inexact.
template <typename T>
PYDET_HD T normalised(T x, T mean, T scale, T bias) {
  return (x - mean) * scale + bias;
}

template <typename T>
PYDET_HD T leaky_relu(T x, T slope) {
  return x > 0 ? x : x * slope;
}

// Of the loss by x, from that by leaky_relu(x).
template <typename T>
PYDET_HD T leaky_relu_gradient(T x, T gradient, T slope) {
  return x > 0 ? gradient : gradient * slope;
}

}  // namespace pydet
