// Pairs of sums over the threads of a block.
#pragma once

#include "cuda/columns.cuh"
#include "cuda/scalar.cuh"
#include "ops/batch_norm/norm_formulas.hpp"

namespace fastmaml::device {

template <class T>
FASTMAML_DEVICE NormPair<T> from_lane_across(const NormPair<T>& pair, int apart) {
  return {from_lane_across(pair.one, apart), from_lane_across(pair.two, apart)};
}

// Room for the sums of Columns, one at a time: of numbers or of pairs.
template <class T>
struct NormMemory {
  NormPair<T>* pairs;
  FASTMAML_DEVICE explicit NormMemory(const Block& block) {
    Carve carve(block);
    pairs = carve.take<NormPair<T>>(kWarps * Columns::kMost);
  }
  FASTMAML_DEVICE T* numbers() const { return reinterpret_cast<T*>(pairs); }
};

}  // namespace fastmaml::device
