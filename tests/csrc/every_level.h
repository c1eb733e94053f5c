// The level in use is chosen once a process: runs the cases once for every kernel level of this
// CPU, each in a process of its own.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "check.h"
#include "kernels/kernels.h"

namespace ptmo::test {

inline int run_on_every_level(int argc, char** argv) {
  if (std::getenv("PTMO_KERNEL_LEVEL") != nullptr)
    return run_all(argc, argv);
  int failed = 0;
  for (const kernels::Table* level : kernels::levels()) {
    std::printf("-- %s\n", level->name);
    std::fflush(stdout);
    setenv("PTMO_KERNEL_LEVEL", level->name, 1);
    const pid_t child = fork();
    if (child == 0)
      std::exit(run_all(argc, argv));
    int status = -1;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
      ++failed;
  }
  return failed == 0 ? 0 : 1;
}

} // namespace ptmo::test
