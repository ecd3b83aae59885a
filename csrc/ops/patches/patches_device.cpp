#include "ops/patches/patches_device.hpp"

#include "ops/window/stencil_device.hpp"

namespace fastmaml {

int64_t PatchArgs::lower(Tables& tables) const {
  const DevicePatchArgs to{x,
                           out,
                           images,
                           channels,
                           stencil->taps,
                           stencil->to_pixels,
                           stencil->from_pixels,
                           stencil_table(tables, *stencil)};
  return tables.add(&to, 1);
}

}  // namespace fastmaml
