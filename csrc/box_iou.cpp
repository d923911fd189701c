#include <vector>

#include "op_checks.h"

#define PYDET_KERNELS "cpu/box_iou.h"
#include "cpu_levels.h"

namespace pydet {
namespace {

constexpr int64_t kPairsPerTask = 1 << 15;  // about 20 us of work

template <typename T>
std::vector<Box<T>> load_boxes(const Tensor& tensor, BoxFormat format) {
  const Tensor dense = torch::stable::contiguous(tensor);
  std::vector<Box<T>> boxes(dense.numel() / 4);
  PYDET_DISPATCH_FLOATING_AND_INTEGRAL(dense.scalar_type(), "box_iou", [&] {
    const scalar_t* data = dense.const_data_ptr<scalar_t>();
    for (size_t i = 0; i < boxes.size(); ++i, data += 4) {
      boxes[i] = to_xyxy<T>(static_cast<T>(data[0]), static_cast<T>(data[1]), static_cast<T>(data[2]),
                            static_cast<T>(data[3]), format);
    }
  });
  return boxes;
}

// Five runs over all boxes: x1, y1, x2, y2, area.
template <typename T>
std::vector<T> to_columns(const std::vector<Box<T>>& boxes) {
  const size_t n = boxes.size();
  std::vector<T> columns(5 * n);
  for (size_t i = 0; i < n; ++i) {
    columns[i] = boxes[i].x1;
    columns[n + i] = boxes[i].y1;
    columns[2 * n + i] = boxes[i].x2;
    columns[3 * n + i] = boxes[i].y2;
    columns[4 * n + i] = area(boxes[i]);
  }
  return columns;
}

template <typename T, typename Out>
void box_iou_fill(const Tensor& boxes1, const Tensor& boxes2, BoxFormat format, Tensor& out) {
  const int64_t n = boxes1.size(-2), m = boxes2.size(-2);
  const std::vector<Box<T>> rows = load_boxes<T>(boxes1, format);
  const std::vector<Box<T>> columns_aos = load_boxes<T>(boxes2, format);
  const std::vector<T> columns = to_columns(columns_aos);
  const int64_t total = static_cast<int64_t>(columns_aos.size());
  Out* out_data = out.mutable_data_ptr<Out>();
  const int64_t grain = kPairsPerTask / m + 1;
  torch::stable::parallel_for(0, static_cast<int64_t>(rows.size()), grain, [&](int64_t begin, int64_t end) {
    while (begin < end) {  // a task may cross from one batch entry into the next
      const int64_t batch = begin / n;
      const int64_t stop = std::min(end, (batch + 1) * n);
      PYDET_CPU_CALL(box_iou_rows, rows.data() + begin, stop - begin, columns.data() + batch * m, total, m,
                     out_data + begin * m);
      begin = stop;
    }
  });
}

Tensor box_iou_cpu(const Tensor& boxes1,  // [..., N, 4]
                   const Tensor& boxes2,  // [..., M, 4]
                   std::string fmt) {
  const BoxFormat format = check_box_iou(boxes1, boxes2, fmt);
  const bool out_double = boxes1.scalar_type() == ScalarType::Double || boxes2.scalar_type() == ScalarType::Double;
  std::vector<int64_t> shape(boxes1.sizes().begin(), boxes1.sizes().end());
  shape.back() = boxes2.size(-2);
  Tensor out = new_dense(boxes1, shape, out_double ? ScalarType::Double : ScalarType::Float);
  if (out.numel() == 0) return out;
  if (out_double) {
    box_iou_fill<double, double>(boxes1, boxes2, format, out);
  } else if (computes_in_double(boxes1) || computes_in_double(boxes2)) {
    box_iou_fill<double, float>(boxes1, boxes2, format, out);
  } else {
    box_iou_fill<float, float>(boxes1, boxes2, format, out);
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pydet, m) { m.def("box_iou(Tensor boxes1, Tensor boxes2, str fmt='xyxy') -> Tensor"); }
STABLE_TORCH_LIBRARY_IMPL(pydet, CPU, m) { m.impl("box_iou", TORCH_BOX(&box_iou_cpu)); }

}  // namespace pydet
