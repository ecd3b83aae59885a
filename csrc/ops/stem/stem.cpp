#include "ops/stem/stem.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "ops/conv2d/conv2d.hpp"
#include "ops/patches/patches.hpp"
#include "ops/taps/taps.hpp"
#include "plan/emit.hpp"

namespace fastmaml {
namespace {

constexpr size_t kNormWeight = 2, kNormBias = 3;
constexpr int kStemTaps = 0, kSums = 1, kProducts = 2;  // saved buffers: taps, D, G

// Numbers of the convolution's output that are in cache at once: of some images, or of a strip of
// one, whose height is a multiple of the pool's. On a device so many for each pixel of a run: that
// is several runs, for its many cores, and of a few tasks still fits into its second-level cache.
constexpr int64_t kChunkNumbers = 64 * 1024, kDeviceNumbersPerRunPixel = 2048;

// The part of each image that a chunk has.
struct Strip {
  std::shared_ptr<const Stencil> stencil;  // from the whole image to the strip
  PoolSize pool;                           // of the strip
  int64_t first_window = 0;                // in the image
};

Stencil cut_strip(const Stencil& image, int64_t begin, int64_t end) {
  Stencil strip = image;
  strip.to_pixels = end - begin;
  for (PixelClass& pixels : strip.classes) {
    std::vector<PixelPair> kept;
    for (const PixelPair& pair : pixels.pixels)
      if (pair.to >= begin && pair.to < end)
        kept.push_back({pair.to - static_cast<int32_t>(begin), pair.from});
    kept.shrink_to_fit();
    pixels.pixels = std::move(kept);
  }
  auto empty = [](const PixelClass& pixels) { return pixels.pixels.empty(); };
  strip.classes.erase(std::remove_if(strip.classes.begin(), strip.classes.end(), empty),
                      strip.classes.end());
  return strip;
}

std::vector<Strip> cut_strips(const Window& window, const PoolSize& pool, int64_t features,
                              int64_t numbers) {
  const Stencil image = gather(window);
  const int64_t band = pool.kernel_h * pool.in_w;  // pixels under a row of windows
  const int64_t most = std::max<int64_t>(1, numbers / (band * features));
  const int64_t count = (pool.out_h + most - 1) / most;
  std::vector<Strip> strips;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t begin = pool.out_h * i / count, end = pool.out_h * (i + 1) / count;
    const bool last = i + 1 == count;  // with the rows that no window has
    Strip strip;
    strip.pool = pool, strip.first_window = begin * pool.out_w;
    strip.pool.out_h = end - begin;
    strip.pool.in_h = (last ? pool.in_h : end * pool.kernel_h) - begin * pool.kernel_h;
    const int64_t from = begin * band;
    strip.stencil =
        std::make_shared<const Stencil>(cut_strip(image, from, from + strip.pool.in_h * pool.in_w));
    strips.push_back(std::move(strip));
  }
  return strips;
}

// The images of a pass chunk by chunk, and what the passes do with them.
class Chunks {
 public:
  Chunks(Emit& emit, const Node& node) : emit_(emit), node_(node), window_(patch_window(node)) {
    features_ = node.shape[0];
    const PoolSize pool{window_.y.out,
                        window_.x.out,
                        node.shape[1],
                        node.shape[2],
                        static_cast<int64_t>(node.attr("pool_h", 1)),
                        static_cast<int64_t>(node.attr("pool_w", 1))};
    const Settings& settings = emit.settings();
    const int64_t numbers =
        settings.device ? kDeviceNumbersPerRunPixel * settings.run_pixels : kChunkNumbers;
    strips_ = emit.once(node, 0, [&] { return cut_strips(window_, pool, features_, numbers); });
    for (const Strip& strip : *strips_) tallest_ = std::max(tallest_, strip.stencil->to_pixels);
    if (strips_->size() == 1)
      images_ = std::min(emit.rows(), std::max<int64_t>(1, numbers / (tallest_ * features_)));
    taps_ = emit.saved(node, kStemTaps, tap_numel(emit.rows() * numel(node.shape)));
    dense_ = emit.scratch(images_ * tallest_ * features_);
  }
  int64_t patch() const { return window_.taps() * node_.in_shapes[0][0]; }

  // to = the taps chosen, or followed, in the convolution of x with the folded weight.
  void convolve(const Operand& weight, const Operand& bias, TapKind kind, const Operand& to) {
    each([&](int64_t r, const Strip& strip) {
      ConvArgs conv = conv_at(r, strip);
      conv.c = dense_, conv.cin = bias, conv.cin_row = true;
      conv.terms = {{x(r), weight}};
      emit_.add(std::move(conv));
      TapArgs taps = taps_at(r, strip, kind);
      taps.x = dense_, taps.out = to.at(taps.first_tap);
      emit_.add(taps);
    });
  }

  // D and G of the cotangents in `bars`.
  void correlate(const Operand& bars, const Operand& sums, const Operand& products) {
    bool first = true;
    each([&](int64_t r, const Strip& strip) {
      TapArgs taps = taps_at(r, strip, TapKind::spread);
      taps.x = bars.at(taps.first_tap), taps.out = dense_;
      taps.sums = sums;
      ConvArgs conv = conv_at(r, strip);
      conv.weights = true;
      conv.c = products;
      conv.terms = {{x(r), dense_}};
      if (!first) taps.sums_cin = sums, conv.cin = products;
      first = false;
      emit_.add(taps);
      add_weights(emit_, std::move(conv));
    });
  }

 private:
  template <class Body>
  void each(Body&& body) const {
    for (int64_t r = 0; r < emit_.rows(); r += images_)
      for (const Strip& strip : *strips_) body(r, strip);
  }
  int64_t count(int64_t r) const { return std::min(images_, emit_.rows() - r); }
  Operand x(int64_t r) const { return emit_.x(node_, 0).at(r * numel(node_.in_shapes[0])); }
  ConvArgs conv_at(int64_t r, const Strip& strip) const {
    ConvArgs conv;
    conv.stencil = strip.stencil, conv.images = count(r);
    conv.k = node_.in_shapes[0][0], conv.n = features_;
    return conv;
  }
  TapArgs taps_at(int64_t r, const Strip& strip, TapKind kind) const {
    TapArgs taps;
    taps.kind = kind, taps.relu = node_.attr("relu", 0) != 0;
    taps.pool = strip.pool, taps.images = count(r), taps.features = features_;
    taps.tap = taps_;
    taps.first_tap = r * numel(node_.shape) + strip.first_window * features_;
    return taps;
  }

  Emit& emit_;
  const Node& node_;
  const Window window_;
  std::shared_ptr<const std::vector<Strip>> strips_;
  int64_t features_ = 0, tallest_ = 0, images_ = 1;
  Operand taps_, dense_;
};

StemArgs start(Emit& emit, const Node& node, const Chunks& chunks, PassKind pass) {
  StemArgs args;
  args.pass = pass;
  args.patch = chunks.patch(), args.features = node.shape[0];
  args.eps = node.attr("eps", 1e-5);
  args.moments = emit.x(node, 1);
  args.w = emit.param(node, kWeight);
  if (node.has_param(kNormWeight)) args.g = emit.param(node, kNormWeight);
  if (pass == PassKind::forward && node.has_param(kNormBias)) args.b = emit.param(node, kNormBias);
  if (pass == PassKind::backward || pass == PassKind::backward_jvp) {
    args.D = emit.saved(node, kSums, args.features);
    args.G = emit.saved(node, kProducts, args.patch * args.features);
  }
  if (pass == PassKind::forward || pass == PassKind::backward) return args;
  if (emit.param_moves(node, kWeight)) args.w_dot = emit.param_dot(node, kWeight);
  if (emit.param_moves(node, kNormWeight)) args.g_dot = emit.param_dot(node, kNormWeight);
  if (emit.param_moves(node, kNormBias)) args.b_dot = emit.param_dot(node, kNormBias);
  return args;
}

// Folds the norm into the convolution and runs it.
void run_folded(Emit& emit, Chunks& chunks, StemArgs args, TapKind kind, const Operand& to) {
  args.w_out = emit.scratch(args.patch * args.features);
  args.b_out = emit.scratch(args.features);
  emit.add(args);
  chunks.convolve(args.w_out, args.b_out, kind, to);
}

// Where the cotangents of the parameters, or their tangents, go.
void add_with_sinks(Emit& emit, const Node& node, StemArgs args) {
  if (emit.wants_param_bar(node, kWeight)) {
    const Sink sink = emit.param_bar(node, kWeight);
    args.w_out = sink.out, args.w_cin = sink.cin, args.w_scale = sink.scale;
  }
  if (emit.wants_param_bar(node, kNormWeight)) {
    const Sink sink = emit.param_bar(node, kNormWeight);
    args.g_out = sink.out, args.g_cin = sink.cin, args.g_scale = sink.scale;
  }
  if (emit.wants_param_bar(node, kNormBias)) {
    const Sink sink = emit.param_bar(node, kNormBias);
    args.b_out = sink.out, args.b_cin = sink.cin, args.b_scale = sink.scale;
  }
  if (args.w_out || args.g_out || args.b_out) emit.add(args);
  if (!emit.wants_param_bar(node, kBias)) return;
  const Sink sink = emit.param_bar(node, kBias);
  if (sink.cin == sink.out) return;
  ContractArgs still;
  still.m = 1, still.n = still.c_row = still.cin_row = args.features;
  still.c = sink.out, still.cin = sink.cin;
  emit.add(still);
}

}  // namespace

Packing Stem::packing(const Node& node, const Shape& weight) const {
  return conv_packing(node, weight);
}

void Stem::check(const Node& node, const std::vector<TensorSpec>&) const {
  throw UnsupportedModelError(message("layer `", node.name, "`: a stem is made by the planner"));
}

void Stem::forward(Emit& emit, const Node& node) const {
  Chunks chunks(emit, node);
  run_folded(emit, chunks, start(emit, node, chunks, PassKind::forward), TapKind::choose,
             emit.y(node));
}

void Stem::backward(Emit& emit, const Node& node) const {
  Chunks chunks(emit, node);
  const StemArgs args = start(emit, node, chunks, PassKind::backward);
  chunks.correlate(emit.y_bar(node), args.D, args.G);
  add_with_sinks(emit, node, args);
}

void Stem::forward_jvp(Emit& emit, const Node& node) const {
  Chunks chunks(emit, node);
  run_folded(emit, chunks, start(emit, node, chunks, PassKind::forward_jvp), TapKind::follow,
             emit.y_dot(node));
}

void Stem::backward_jvp(Emit& emit, const Node& node) const {
  Chunks chunks(emit, node);
  StemArgs args = start(emit, node, chunks, PassKind::backward_jvp);
  args.D_dot = emit.scratch(args.features);
  args.G_dot = emit.scratch(args.patch * args.features);
  chunks.correlate(emit.y_bar_dot(node), args.D_dot, args.G_dot);
  add_with_sinks(emit, node, args);
}

}  // namespace fastmaml
