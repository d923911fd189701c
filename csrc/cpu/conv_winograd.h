// A part of conv.h: Winograd's minimal filtering, Lavin and Gray 2015, section 4.1.
namespace pydet {
namespace PYDET_LEVEL {

// B^T d B of tiles of 4 x 4 pixels, 2 apart, into tiles[16][tiles_of_block][C].
template <typename T>
void transform_tiles(const Conv<T>& conv, int64_t first, int64_t count, T* __restrict__ tiles) {
  const int64_t to_next = conv.tiles_of_block * conv.channels;
  ConvWindow tile = conv.window(first);
  for (int64_t i = 0; i < count; ++i, tiles += conv.channels, tile = conv.next(tile)) {
    const T* pixels[4][4];
    const T* corner = conv.pixel(tile.image, tile.y - 1, tile.x - 1);
    const bool inside = conv.has(tile.y - 1, tile.x - 1) && conv.has(tile.y + 2, tile.x + 2);
    for (int y = 0; y < 4; ++y) {
      for (int x = 0; x < 4; ++x) {
        const bool given = inside || conv.has(tile.y + y - 1, tile.x + x - 1);
        pixels[y][x] = given ? corner + (y * conv.width + x) * conv.channels : conv.zeros;
      }
    }
    for (int64_t c = 0; c < conv.channels; c += kFloats) {
      Floats rows[4][4];
#pragma GCC unroll 4
      for (int x = 0; x < 4; ++x) {
        const Floats a = load(pixels[0][x] + c), b = load(pixels[1][x] + c);
        const Floats d = load(pixels[2][x] + c), e = load(pixels[3][x] + c);
        rows[0][x] = a - d;
        rows[1][x] = b + d;
        rows[2][x] = d - b;
        rows[3][x] = b - e;
      }
      T* out = tiles + c;
#pragma GCC unroll 4
      for (int y = 0; y < 4; ++y, out += 4 * to_next) {
        store(rows[y][0] - rows[y][2], out);
        store(rows[y][1] + rows[y][2], out + to_next);
        store(rows[y][2] - rows[y][1], out + 2 * to_next);
        store(rows[y][1] - rows[y][3], out + 3 * to_next);
      }
    }
  }
}

// A^T m A of sums[16][tiles_of_block][filters]: 2 x 2 pixels of a tile.
template <typename T>
void transform_sums(const Conv<T>& conv, int64_t first, int64_t count, int64_t first_filter, int64_t filters,
                    const float* __restrict__ sums) {
  const int64_t to_next = conv.tiles_of_block * filters;
  ConvWindow tile = conv.window(first);
  for (int64_t i = 0; i < count; ++i, sums += filters, tile = conv.next(tile)) {
    for (int64_t f = 0; f < filters; f += kFloats) {
      const float* from = sums + f;
      Floats rows[2][4];
#pragma GCC unroll 4
      for (int x = 0; x < 4; ++x) {
        const Floats a = load(from + x * to_next), b = load(from + (4 + x) * to_next);
        const Floats c = load(from + (8 + x) * to_next), d = load(from + (12 + x) * to_next);
        rows[0][x] = a + b + c;
        rows[1][x] = b - c - d;
      }
      const Floats pixels[2][2] = {
          {rows[0][0] + rows[0][1] + rows[0][2], rows[0][1] - rows[0][2] - rows[0][3]},
          {rows[1][0] + rows[1][1] + rows[1][2], rows[1][1] - rows[1][2] - rows[1][3]},
      };
      finish_window(conv, tile, first_filter + f, pixels);
    }
  }
}

}  // namespace PYDET_LEVEL
}  // namespace pydet
