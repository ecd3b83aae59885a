// How many processors this process may keep busy.
#pragma once

#include <string>

namespace fastmaml {

// Those of the calling thread's affinity, and no more than the quota of its control groups allows
// (rounded up). At least 1.
int usable_processors() noexcept;

// The least quota, in processors, of the control groups that the file `groups` lists, from theirs
// up to the root of those mounted at `mount` (versions 1 and 2); infinite where none is set.
double processor_quota(const std::string& groups, const std::string& mount);

}  // namespace fastmaml
