#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "checks/batch_norm_leaky_relu.h"
#include "math/batch_norm.h"
#include "widen.h"

namespace pydet {
namespace {

// Of the columns of a line.
template <typename T>
struct NormColumns {
  const T *mean, *scale, *bias;
};

}  // namespace
}  // namespace pydet

#define PYDET_KERNELS "cpu/batch_norm_leaky_relu.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

constexpr int64_t kNormWidth = 256;         // numbers of a line, so that few channels too fill vectors
constexpr int64_t kNormLines = 128;  // of a block: it stays in a cache, and as many float32 are summed exactly enough
constexpr int64_t kNormChunks = 64;  // at most: what is summed in each is added up by one thread

// How the numbers are cut up, which is the same for any number of threads, so that sums are too.
struct NormLayout {
  int64_t channels, numbers, width, chunks, per_chunk;

  explicit NormLayout(const NormShape& shape)
      : channels(shape.channels),
        numbers(shape.rows * shape.channels),
        width(channels * std::max<int64_t>(kNormWidth / channels, 1)) {
    const int64_t lines = (numbers - 1) / width + 1;
    const int64_t wanted = std::clamp<int64_t>(lines / kNormLines, 1, kNormChunks);
    const int64_t lines_of_chunk = (lines - 1) / wanted + 1;
    chunks = (lines - 1) / lines_of_chunk + 1;
    per_chunk = lines_of_chunk * width;
  }

  // body(chunk, first, count) for each block of each chunk
  template <typename Body>
  void blocks(const Body& body) const {
    torch::stable::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        const int64_t stop = std::min(numbers, (chunk + 1) * per_chunk);
        for (int64_t first = chunk * per_chunk; first < stop; first += kNormLines * width) {
          body(chunk, first, std::min(kNormLines * width, stop - first));
        }
      }
    });
  }

  // A number of each channel as one of each column.
  template <typename T, typename V>
  std::vector<T> columns(const V* values) const {
    std::vector<T> line(static_cast<size_t>(width));
    for (int64_t i = 0; i < width; i += channels) {
      for (int64_t c = 0; c < channels; ++c) line[static_cast<size_t>(i + c)] = static_cast<T>(values[c]);
    }
    return line;
  }

  // Adds a number of each column to that of its channel.
  template <typename T>
  void fold(const std::vector<T>& line, double* sums) const {
    for (int64_t i = 0; i < width; i += channels) {
      for (int64_t c = 0; c < channels; ++c) sums[c] += static_cast<double>(line[static_cast<size_t>(i + c)]);
    }
  }
};

// Mean of each channel, and the sum of the squares of the distances from it.
struct Moments {
  double count = 0;
  std::vector<double> mean, squares;

  explicit Moments(int64_t channels) : mean(static_cast<size_t>(channels)), squares(static_cast<size_t>(channels)) {}

  // Chan, Golub and LeVeque 1979: no sum of squares of large numbers, which would hide their differences.
  void add(double n, const double* their_mean, const double* their_squares) {
    const double part = n / (count + n);
    for (size_t c = 0; c < mean.size(); ++c) {
      const double apart = their_mean[c] - mean[c];
      mean[c] += apart * part;
      squares[c] += their_squares[c] + apart * apart * count * part;
    }
    count += n;
  }
};

template <typename In>
Moments moments_of(const In* x, const NormLayout& layout) {
  using T = Wide<In>;
  const int64_t channels = layout.channels;
  std::vector<Moments> of_chunks(static_cast<size_t>(layout.chunks), Moments(channels));
  layout.blocks([&](int64_t chunk, int64_t first, int64_t count) {
    const double rows = static_cast<double>(count / channels);
    std::vector<T> sums(static_cast<size_t>(layout.width)), squares(sums);
    std::vector<double> mean(static_cast<size_t>(channels)), off(mean);
    PYDET_CPU_CALL(norm_sums, x + first, count, layout.width, sums.data());
    layout.fold(sums, mean.data());
    for (double& sum : mean)
      sum = static_cast<double>(static_cast<T>(sum / rows));  // as the distances are taken from it
    PYDET_CPU_CALL(norm_squares, x + first, count, layout.width, layout.columns<T>(mean.data()).data(), squares.data());
    layout.fold(squares, off.data());
    of_chunks[static_cast<size_t>(chunk)].add(rows, mean.data(), off.data());
  });
  for (size_t i = 1; i < of_chunks.size(); ++i) {
    of_chunks[0].add(of_chunks[i].count, of_chunks[i].mean.data(), of_chunks[i].squares.data());
  }
  return std::move(of_chunks[0]);
}

// What both directions multiply by, for each column.
template <typename T>
struct NormTables {
  std::vector<T> mean, scale, bias;

  NormTables(const NormLayout& layout, const T* means, const T* variances, const Tensor& weight,
             const Tensor& bias_vector, double eps) {
    std::vector<T> scales(static_cast<size_t>(layout.channels));
    const T* weights = weight.const_data_ptr<T>();
    for (size_t c = 0; c < scales.size(); ++c) scales[c] = weights[c] / std::sqrt(variances[c] + static_cast<T>(eps));
    mean = layout.template columns<T>(means);
    scale = layout.template columns<T>(scales.data());
    bias = layout.template columns<T>(bias_vector.const_data_ptr<T>());
  }

  NormColumns<T> columns() const { return {mean.data(), scale.data(), bias.data()}; }
};

std::tuple<Tensor, Tensor, Tensor> batch_norm_leaky_relu_cpu(const Tensor& x,  // [B, C, H, W], channels last
                                                             const Tensor& weight_vector, const Tensor& bias_vector,
                                                             double eps, double slope) {
  const NormLayout layout(check_batch_norm_leaky_relu("_batch_norm_leaky_relu", x, {&weight_vector, &bias_vector}));
  const ScalarType wide = wide_dtype(x);
  const Tensor weight = as_contiguous(weight_vector, wide), bias = as_contiguous(bias_vector, wide);
  Tensor out = new_channels_last(x, x.size(0), x.size(1), x.size(2), x.size(3));
  Tensor mean = new_dense(x, {layout.channels}, wide), variance = new_dense(x, {layout.channels}, wide);
  PYDET_DISPATCH_FLOATING(x.scalar_type(), "_batch_norm_leaky_relu", [&] {
    using T = Wide<scalar_t>;
    const scalar_t* data = x.const_data_ptr<scalar_t>();
    const Moments moments = moments_of(data, layout);
    T* means = mean.mutable_data_ptr<T>();
    T* variances = variance.mutable_data_ptr<T>();
    for (size_t c = 0; c < moments.mean.size(); ++c) {
      means[c] = static_cast<T>(moments.mean[c]);
      variances[c] = static_cast<T>(moments.squares[c] / moments.count);
    }
    const NormTables<T> tables(layout, means, variances, weight, bias, eps);
    scalar_t* result = out.mutable_data_ptr<scalar_t>();
    layout.blocks([&](int64_t, int64_t first, int64_t count) {
      PYDET_CPU_CALL(norm_apply, data + first, count, layout.width, tables.columns(), static_cast<T>(slope),
                     result + first);
    });
  });
  return {out, mean, variance};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_leaky_relu_backward_cpu(const Tensor& grad, const Tensor& x,
                                                                      const Tensor& weight_vector,
                                                                      const Tensor& bias_vector, const Tensor& mean,
                                                                      const Tensor& variance, double eps,
                                                                      double slope) {
  const NormLayout layout(check_batch_norm_leaky_relu("_batch_norm_leaky_relu_backward", x,
                                                      {&weight_vector, &bias_vector, &mean, &variance}, &grad));
  const ScalarType wide = wide_dtype(x);
  const Tensor weight = as_contiguous(weight_vector, wide), bias = as_contiguous(bias_vector, wide);
  const Tensor means = as_contiguous(mean, wide), variances = as_contiguous(variance, wide);
  Tensor out = new_channels_last(x, x.size(0), x.size(1), x.size(2), x.size(3));
  Tensor of_weight = new_dense(x, {layout.channels}, wide), of_bias = new_dense(x, {layout.channels}, wide);
  PYDET_DISPATCH_FLOATING(x.scalar_type(), "_batch_norm_leaky_relu_backward", [&] {
    using T = Wide<scalar_t>;
    const scalar_t* data = x.const_data_ptr<scalar_t>();
    const scalar_t* gradient = grad.const_data_ptr<scalar_t>();
    const int64_t channels = layout.channels;
    const NormTables<T> tables(layout, means.const_data_ptr<T>(), variances.const_data_ptr<T>(), weight, bias, eps);
    // Of each chunk the sums of the gradients, then those of their products.
    std::vector<double> sums(static_cast<size_t>(layout.chunks * 2 * channels));
    layout.blocks([&](int64_t chunk, int64_t first, int64_t count) {
      std::vector<T> gradients(static_cast<size_t>(layout.width)), products(gradients);
      PYDET_CPU_CALL(norm_gradient_sums, data + first, gradient + first, count, layout.width, tables.columns(),
                     static_cast<T>(slope), gradients.data(), products.data());
      layout.fold(gradients, sums.data() + chunk * 2 * channels);
      layout.fold(products, sums.data() + (chunk * 2 + 1) * channels);
    });
    for (int64_t chunk = 1; chunk < layout.chunks; ++chunk) {
      const double* of_chunk = sums.data() + chunk * 2 * channels;
      for (int64_t i = 0; i < 2 * channels; ++i) sums[static_cast<size_t>(i)] += of_chunk[i];
    }
    // Ioffe and Szegedy 2015, section 3: what comes back through the variance, and through the mean.
    const double rows = static_cast<double>(layout.numbers / channels);
    const T* variance_of = variances.const_data_ptr<T>();
    T* by_weight = of_weight.mutable_data_ptr<T>();
    T* by_bias = of_bias.mutable_data_ptr<T>();
    std::vector<T> by_offset(static_cast<size_t>(channels)), constant(by_offset);
    for (int64_t c = 0; c < channels; ++c) {
      const size_t at = static_cast<size_t>(c);
      const double inverse = 1 / std::sqrt(static_cast<double>(variance_of[c]) + eps);
      const double sum = sums[at], product = sums[static_cast<size_t>(channels + c)] * inverse;
      by_bias[c] = static_cast<T>(sum);
      by_weight[c] = static_cast<T>(product);
      by_offset[at] = static_cast<T>(-static_cast<double>(tables.scale[at]) * product * inverse / rows);
      constant[at] = static_cast<T>(-static_cast<double>(tables.scale[at]) * sum / rows);
    }
    by_offset = layout.columns<T>(by_offset.data());
    constant = layout.columns<T>(constant.data());
    scalar_t* result = out.mutable_data_ptr<scalar_t>();
    layout.blocks([&](int64_t, int64_t first, int64_t count) {
      PYDET_CPU_CALL(norm_gradient, data + first, gradient + first, count, layout.width, tables.columns(),
                     by_offset.data(), constant.data(), static_cast<T>(slope), result + first);
    });
  });
  return {out, of_weight, of_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def(
      "_batch_norm_leaky_relu(Tensor x, Tensor weight, Tensor bias, float eps, float slope) -> (Tensor out, Tensor "
      "mean, Tensor variance)");
  m.def(
      "_batch_norm_leaky_relu_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor "
      "variance, float eps, float slope) -> (Tensor x_grad, Tensor weight_grad, Tensor bias_grad)");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) {
  m.impl("_batch_norm_leaky_relu", TORCH_BOX(&batch_norm_leaky_relu_cpu));
  m.impl("_batch_norm_leaky_relu_backward", TORCH_BOX(&batch_norm_leaky_relu_backward_cpu));
}

}  // namespace pydet
