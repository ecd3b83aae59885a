// The part of DLPack's exchange table that reads a tensor without owning it: plain C structs that
// every version 1 shares (https://dmlc.github.io/dlpack). Built against no torch, the module reads
// tensors of any torch that has the table.
#pragma once

#include <cstdint>

namespace fastmaml::dlpack {

inline constexpr uint32_t kMajor = 1;

struct Version {
  uint32_t major, minor;
};

// Kinds of devices, and codes of dtypes.
inline constexpr int32_t kCpu = 1, kCuda = 2;
inline constexpr uint8_t kInt = 0, kUInt = 1, kFloat = 2, kOther = 255;

struct Device {
  int32_t type, index;
  bool operator==(const Device&) const = default;
};

struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
  bool operator==(const DataType&) const = default;
};

struct Tensor {
  void* data;
  Device device;
  int32_t dims;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements
  uint64_t byte_offset;
};

// Fills `out` from a Python object; its shape and strides are the object's own. Nonzero where that
// cannot be, with Python's error set.
using Read = int (*)(void* object, Tensor* out);

struct Exchange {
  Version version;
  const void* previous;  // the table of an older version
  void (*allocate)();
  void (*own)();
  void (*wrap)();
  Read read;  // may be absent
  void (*stream)();
};

}  // namespace fastmaml::dlpack
