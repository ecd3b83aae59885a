// The groups of csrc/ops/moments/moments.hpp: every row in one, in order.
#include "ops/moments/moments.hpp"

#include <algorithm>

#include "check.hpp"
#include "core/error.hpp"

namespace fastmaml::test {
namespace {

TEST(groups_of_moments_share_the_rows_in_order) {
  for (const int64_t rows : {1, 15, 16, 17, 1000})
    for (const int64_t each : {1, 16, 128}) {
      const MomentGroups groups{rows, each};
      int64_t before = 0;
      for (int64_t g = 0; g < groups.count(); ++g) {
        CHECK(groups.before(g) == before, "group ", g, " of ", each, " of ", rows, " rows");
        CHECK(groups.rows_of(g) == std::min(each, rows - before), "group ", g, " of ", each, " of ",
              rows, " rows");
        before += groups.rows_of(g);
      }
      CHECK(before == rows, rows, " rows in groups of ", each);
    }
}

TEST(no_groups_are_wanted_by_default) { CHECK(!MomentGroups{}); }

}  // namespace
}  // namespace fastmaml::test
