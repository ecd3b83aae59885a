// Where in an arena buffers lie that live for some instructions each: first fit.
//
// A buffer is placed at the least offset at which nothing lies while it lives. The memory that is
// taken is kept by stretches of instructions, halved down to single ones: `whole` is taken all the
// while, `some` at some time. A buffer's life is O(log n) stretches, and so few are looked up for
// each buffer; first fit packs so densely that what is taken of each is a few runs of memory.
#pragma once

#include <cstdint>
#include <vector>

namespace fastmaml {

// Taken memory: runs in order that neither overlap nor touch.
class TakenRuns {
 public:
  void take(int64_t begin, int64_t end);
  // The end of the run that leaves no room at `offset` for `size`, or `offset` where there is room.
  int64_t after(int64_t offset, int64_t size) const;
  bool empty() const { return runs_.empty(); }

 private:
  struct Run {
    int64_t begin, end;
  };
  std::vector<Run> runs_;
};

class FirstFit {
 public:
  explicit FirstFit(int instructions);
  // Takes `size` numbers from instruction `first` to `last`, and says where.
  int64_t place(int first, int last, int64_t size);
  int64_t top() const { return top_; }          // the end of all that was taken
  int64_t lookups() const { return lookups_; }  // of runs so far: the work that it was

 private:
  struct Stretch {
    TakenRuns whole, some;
  };
  void find_obstacles(int node, int begin, int end);
  void take(int node, int begin, int end);

  int instructions_;
  std::vector<Stretch> stretches_;  // node i's halves are 2 i and 2 i + 1; the root is 1
  int64_t top_ = 0, lookups_ = 0;
  // Of the buffer being placed.
  int first_ = 0, last_ = 0;
  int64_t offset_ = 0, size_ = 0;
  std::vector<const TakenRuns*> obstacles_;
};

}  // namespace fastmaml
