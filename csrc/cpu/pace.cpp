#include "cpu/pace.hpp"

#include <algorithm>

namespace fastmaml {
namespace {

constexpr double kWindow = 0.02;  // seconds
// More threads must be better by so much to be taken instead; fewer may be as good but for noise.
constexpr double kMoreWin = 0.96, kFewerWin = 1.01;
// Losing by so much is clear; calls that slow down by so much ask for a trial.
constexpr double kClear = 1.3, kSlower = 1.5;
constexpr int kPatience = 16, kMostPatience = 64, kHurry = 4;

}  // namespace

Pace::Pace(int most, int first) : patience_(kPatience) {
  for (int count = 1; count < most; count *= 2) counts_.push_back(count);
  counts_.push_back(std::max(1, most));
  while (best_ + 1 < counts_.size() && counts_[best_] < first) ++best_;
}

void Pace::took(int threads, double seconds) {
  // Calls that began before the number changed, and the first, which finds cold memory.
  if (counts_.size() == 1 || threads != this->threads()) return;
  if (!warm_) return void(warm_ = true);
  ++calls_, seconds_ += seconds;
  if (seconds_ < kWindow) return;
  const double mean = seconds_ / static_cast<double>(calls_);
  // The first trial comes at once where a window is many calls, of which it spoils none much.
  if (then_ == 0 && calls_ > 1) patience_ = 1;
  calls_ = 0, seconds_ = 0;
  trying_ ? judge(mean) : keep(mean);
}

void Pace::keep(double mean) {
  mean_ = mean_ == 0 ? mean : (mean_ + mean) / 2;
  ++windows_;
  if (won_once_) return void(trying_ = true);
  const bool slower = then_ > 0 && mean_ > kSlower * then_ && windows_ >= kHurry;
  if (windows_ >= patience_ || slower) begin_trial();
}

void Pace::begin_trial() {
  // Neighbours in turns; at an end there is one only.
  upwards_ = best_ == 0 || (!upwards_ && best_ + 1 < counts_.size());
  trial_ = upwards_ ? best_ + 1 : best_ - 1;
  trying_ = true;
}

void Pace::judge(double mean) {
  const bool won = mean < (upwards_ ? kMoreWin : kFewerWin) * mean_;
  trying_ = false;
  if (won && !won_once_) return void(won_once_ = true);
  const bool first = then_ == 0;
  if (won) {
    best_ = trial_, mean_ = mean;
    // On in the same direction first.
    upwards_ = !upwards_;
    patience_ = first ? 1 : kPatience;
  } else {
    const int factor = mean > kClear * mean_ ? 4 : 2;
    patience_ = std::clamp(first ? kPatience : patience_ * factor, kPatience, kMostPatience);
  }
  won_once_ = false, windows_ = 0, then_ = mean_;
}

}  // namespace fastmaml
