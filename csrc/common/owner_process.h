// The process that made an object: a fork of it has a copy that it must not use.
#pragma once

#include <unistd.h>

#include "check.h"

namespace ptmo {

class OwnerProcess {
public:
  // Throws std::runtime_error in a fork.
  void require_here() const {
    ensure(is_here(), "this engine belongs to process ", pid_,
           ": load one of your own after a fork");
  }

  bool is_here() const { return static_cast<int>(getpid()) == pid_; }

private:
  int pid_ = static_cast<int>(getpid());
};

} // namespace ptmo
