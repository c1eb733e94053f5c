// The low-rank part of projections, beside the base products and on the same activations.
//
// A unit is 16 ranks of one A over the rows of one segment: u = s A x, quantised where B is INT8.
// A unit is computed once, by whichever thread claims it first. A thread that needs one computes
// it if nobody has claimed it, and else waits for the thread that is at work on it: so no barrier
// stands between A and B, and nobody waits for a thread that is not running.
#pragma once

#include <array>
#include <atomic>
#include <initializer_list>
#include <vector>

#include "batch.h"
#include "quant/int4.h"

namespace ptmo {

class LowRankPass {
public:
  // Lists the units of a layer's linears, which all read `input`. No thread is at work yet.
  void begin(const std::vector<AdapterRows>& segments, int layer,
             std::initializer_list<Linear> linears, const kernels::Activations& input);

  bool has(Linear linear) const { return of(linear).groups > 0; }
  // A loop over items of `panels` base panels each begins with the units: lead() items, of which
  // this computes those of a share [begin, end).
  int lead(int panels) const;
  void shrink_share(const kernels::Table& kernels, int begin, int end, int panels);
  // Whether every unit of a linear is computed; `wait` sees to it that they are.
  bool ready(const kernels::Table& kernels, Linear linear, bool wait);
  // y [rows of the chunk, y_stride] += B u, for panels [from, to) of a linear that is ready.
  void expand(const kernels::Table& kernels, Linear linear, int from, int to, float* y,
              size_t y_stride) const;
  void wipe();

private:
  struct Group { // the updates of one linear over one segment
    int row, n, first_term, terms;
  };
  struct Range { // what a linear has
    int first_group = 0, groups = 0, first_unit = 0, units = 0;
  };
  struct Term {
    const LowRankPair* pair;
    float* floats;      // u [n, chunks * 16]; what follows where B is INT8
    int8_t* codes;      // [n, chunks * 16]
    float* scales;      // [n, chunks]
    int32_t* code_sums; // [n, chunks]
  };
  struct Unit {
    int term, chunk, row, n;
  };
  enum State : int { kFree, kClaimed, kDone };

  const Range& of(Linear linear) const { return ranges_[static_cast<size_t>(linear)]; }
  void add_group(const AdapterRows& segment, int layer, Linear linear);
  static void place(Term& term, int n, uint8_t* at);
  void lay_out();
  void shrink(const kernels::Table& kernels, int unit);
  void compute(const kernels::Table& kernels, const Unit& unit) const;

  kernels::Activations input_{};
  std::array<Range, kLinears> ranges_;
  std::vector<Group> groups_;
  std::vector<Term> terms_;
  std::vector<kernels::LowRankTerm> views_; // of terms_, for the kernels
  std::vector<Unit> units_;
  std::vector<std::atomic<int>> states_;
  AlignedBuffer scratch_;
  size_t used_ = 0; // bytes of scratch_ that may hold activations
};

} // namespace ptmo
