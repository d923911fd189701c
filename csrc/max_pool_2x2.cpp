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

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) { m.def("_max_pool_2x2(Tensor x, int step, SymInt[] size) -> Tensor"); }
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) { m.impl("_max_pool_2x2", TORCH_BOX(&max_pool_2x2_cpu)); }

}  // namespace pydet
