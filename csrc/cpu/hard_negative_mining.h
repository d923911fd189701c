// No include guard: compiled once per instruction set, see cpu_levels.h.
namespace pydet {
namespace PYDET_LEVEL {

// The keys of one image; returns its number of positives.
template <typename T, typename In>
int64_t mining_keys(const In* __restrict__ loss, const bool* __restrict__ positive, int64_t anchors,
                    MiningKey<T>* __restrict__ keys) {
  const uint8_t* __restrict__ flags = reinterpret_cast<const uint8_t*>(positive);
  int64_t positives = 0;
  for (int64_t i = 0; i < anchors; ++i) {
    keys[i] = mining_key(static_cast<T>(widen(loss[i])), flags[i] != 0);
    positives += flags[i] != 0;
  }
  return positives;
}

// selected = what is above the last key taken, and of what is equal to it the anchors before `end`.
template <typename Key>
void mining_mask(const Key* __restrict__ keys, int64_t anchors, Key last, int64_t end, bool* __restrict__ selected) {
  uint8_t* __restrict__ out = reinterpret_cast<uint8_t*>(selected);
  for (int64_t i = 0; i < end; ++i) out[i] = keys[i] >= last;
  for (int64_t i = end; i < anchors; ++i) out[i] = keys[i] > last;
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
