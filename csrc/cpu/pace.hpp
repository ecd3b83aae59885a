// How many threads the calls of a plan ask for: what they were measured to take decides.
//
// Calls run in windows of 20 ms or one call, all of a window with the same number of threads. The
// number that did best is kept; after some windows (short calls: at first at once) a neighbour,
// about half of it or twice as many, is tried for one window. A trial that is lost puts the next
// one off, the longer the clearer it was; one that is won must be won again, after a window of the
// best so far, before it is believed. So trials cost some percent at first and soon about one.
// Calls that get slower bring the next trial on at once; that others would be faster now shows when
// it is due.
#pragma once

#include <cstdint>
#include <vector>

namespace fastmaml {

class Pace {
 public:
  // `most` threads can be asked for; `first` is where to begin.
  Pace(int most, int first);
  // For the next call.
  int threads() const { return counts_[trying_ ? trial_ : best_]; }
  // What a call took that asked for so many.
  void took(int threads, double seconds);

 private:
  void keep(double mean);
  void judge(double mean);
  void begin_trial();

  std::vector<int> counts_;  // 1, 2, 4, ..., most
  size_t best_ = 0, trial_ = 0;
  bool warm_ = false, trying_ = false, won_once_ = false, upwards_ = false;
  double mean_ = 0;  // seconds of a call with the best number, of late
  double then_ = 0;  // the same when it was last compared
  int windows_ = 0;  // since then
  int patience_;
  int64_t calls_ = 0;  // of this window
  double seconds_ = 0;
};

}  // namespace fastmaml
