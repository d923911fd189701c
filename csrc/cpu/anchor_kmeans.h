// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

// The IoUs of `count` boxes with the nearest centre after one more.
inline void nearer_centre(const Shapes& boxes, int64_t first, int64_t count, Shape centre,
                          const double* __restrict__ before, double* __restrict__ after) {
  const double* __restrict__ width = boxes.width + first;
  const double* __restrict__ height = boxes.height + first;
  const double area = centre.width * centre.height;
  for (int64_t i = 0; i < count; ++i) {
    const double iou = shape_iou(width[i], height[i], width[i] * height[i], centre.width, centre.height, area);
    after[i] = maximum(iou, before[i]);
  }
}

// The nearest centre of `count` boxes, the first of equals, and its IoU.
inline void nearest_centres(const Shapes& boxes, int64_t first, int64_t count, const std::vector<Shape>& centres,
                            double* __restrict__ best, int64_t* __restrict__ label) {
  const double* __restrict__ width = boxes.width + first;
  const double* __restrict__ height = boxes.height + first;
  std::fill_n(best, count, -1.0);
  for (size_t c = 0; c < centres.size(); ++c) {
    const Shape centre = centres[c];
    const double area = centre.width * centre.height;
    for (int64_t i = 0; i < count; ++i) {
      const double iou = shape_iou(width[i], height[i], width[i] * height[i], centre.width, centre.height, area);
      const bool better = iou > best[i];
      best[i] = better ? iou : best[i];
      label[i] = better ? static_cast<int64_t>(c) : label[i];
    }
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
