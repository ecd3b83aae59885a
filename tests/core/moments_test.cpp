// The groups of csrc/ops/moments/moments.hpp against the tiles that they stand for, one by one.
#include "ops/moments/moments.hpp"

#include <algorithm>
#include <vector>

#include "check.hpp"
#include "core/error.hpp"

namespace fastmaml::test {
namespace {

// Rows of every tile of `images` images.
std::vector<int64_t> tiles_of(int64_t images, int64_t h, int64_t w, int64_t tile) {
  std::vector<int64_t> rows;
  for (int64_t image = 0; image < images; ++image)
    for (int64_t y = 0; y < h; y += tile)
      for (int64_t x = 0; x < w; x += tile)
        rows.push_back(std::min(tile, h - y) * std::min(tile, w - x));
  return rows;
}

bool right(const MomentGroups& groups, const std::vector<int64_t>& tiles) {
  const auto count = static_cast<int64_t>(tiles.size());
  if (groups.count() != (count + groups.each - 1) / groups.each) return false;
  int64_t before = 0;
  for (int64_t g = 0; g < groups.count(); ++g) {
    int64_t rows = 0;
    for (int64_t t = g * groups.each; t < std::min(count, (g + 1) * groups.each); ++t)
      rows += tiles[static_cast<size_t>(t)];
    if (groups.before(g) != before || groups.rows_of(g) != rows || rows == 0) return false;
    before += rows;
  }
  return before == groups.rows;
}

TEST(groups_of_moments_are_tiles_in_their_order) {
  for (const int64_t images : {1, 3})
    for (const int64_t h : {1, 4, 7})
      for (const int64_t w : {1, 5, 8})
        for (const int64_t tile : {1, 2, 4})
          for (const int64_t each : {1, 3, 16, 1000}) {
            const MomentGroups groups{images * h * w, h, w, tile, each};
            CHECK(right(groups, tiles_of(images, h, w, tile)), images, " images of ", h, " x ", w,
                  ", ", each, " tiles of ", tile);
          }
}

TEST(no_groups_are_wanted_by_default) { CHECK(!MomentGroups{}); }

}  // namespace
}  // namespace fastmaml::test
