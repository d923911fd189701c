#include "checks/max_pool_2x2.h"

namespace pydet {
constexpr int64_t kPooledAtOnce = 16;  // channels: all detectors have a multiple of them
}

#define PYDET_KERNELS "cpu/max_pool_2x2.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

constexpr int64_t kPooledPerTask = 1 << 14;

Tensor max_pool_2x2_cpu(const Tensor& x,  // [B, C, H, W], channels last
                        int64_t step, std::vector<int64_t> size) {
  const PoolShape shape = check_max_pool_2x2(x, step, size);
  Tensor out = new_channels_last(x, shape.batch, shape.channels, shape.out_height, shape.out_width);
  if (out.numel() == 0) return out;
  PYDET_DISPATCH_POOLED(x.scalar_type(), [&] {
    const scalar_t* data = static_cast<const scalar_t*>(x.data_ptr());
    scalar_t* pooled = static_cast<scalar_t*>(out.data_ptr());
    const int64_t row = shape.out_width * shape.channels;
    torch::stable::parallel_for(
        0, shape.batch * shape.out_height, kPooledPerTask / row + 1, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            const int64_t y = i % shape.out_height * step;
            const scalar_t* above = data + i / shape.out_height * shape.image_stride + y * shape.row_stride;
            const scalar_t* below = y + 1 < shape.height ? above + shape.row_stride : above;
            PYDET_CPU_CALL(max_pool_row, shape, above, below, pooled + i * row);
          }
        });
  });
  return out;
}

Tensor max_pool_2x2_backward_cpu(const Tensor& grad,  // [B, C, h, w] and
                                 const Tensor& x) {   // [B, C, H, W], both channels last
  const PoolShape shape = check_max_pool_2x2_backward(grad, x);
  Tensor out = new_channels_last(x, shape.batch, shape.channels, shape.height, shape.width);
  if (out.numel() == 0) return out;
  PYDET_DISPATCH_POOLED(x.scalar_type(), [&] {
    const scalar_t* data = static_cast<const scalar_t*>(x.data_ptr());
    const scalar_t* gradient = static_cast<const scalar_t*>(grad.data_ptr());
    using Bits = decltype(signed_bits(scalar_t{}));
    Bits* result = static_cast<Bits*>(out.data_ptr());
    const int64_t row = shape.width * shape.channels, pairs = (shape.height + 1) / 2;
    torch::stable::parallel_for(0, shape.batch * pairs, kPooledPerTask / row + 1, [&](int64_t begin, int64_t end) {
      std::vector<Bits> trash(static_cast<size_t>(row + 2 * shape.channels));  // a row and two pixels
      for (int64_t i = begin; i < end; ++i) {
        const int64_t image = i / pairs, pair = i % pairs, first = (image * shape.height + 2 * pair) * row;
        const bool alone = 2 * pair + 1 == shape.height;
        const int64_t line = image * shape.out_height + pair;
        PYDET_CPU_CALL(max_pool_gradient_row, shape, data + first, data + (alone ? first : first + row),
                       pair < shape.out_height ? gradient + line * shape.out_width * shape.channels : nullptr,
                       result + first, alone ? trash.data() : result + first + row, trash.data() + row);
      }
    });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) {
  m.def("_max_pool_2x2(Tensor x, int step, SymInt[] size) -> Tensor");
  m.def("_max_pool_2x2_backward(Tensor grad, Tensor x) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) {
  m.impl("_max_pool_2x2", TORCH_BOX(&max_pool_2x2_cpu));
  m.impl("_max_pool_2x2_backward", TORCH_BOX(&max_pool_2x2_backward_cpu));
}

}  // namespace pydet
