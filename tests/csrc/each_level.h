// The level in use is chosen once a process: a test of the decoder gives each level one of its own.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "check.h"
#include "kernels/kernels.h"

namespace ptmo::test {

// Runs the cases once for every level of this CPU, or only for the one PTMO_KERNEL_LEVEL names.
inline int run_on_each_level(int argc, char** argv) {
  if (std::getenv("PTMO_KERNEL_LEVEL") != nullptr)
    return run_all(argc, argv);
  int failed = 0;
  for (const kernels::Table* level : kernels::levels()) {
    std::printf("-- %s\n", level->name);
    std::fflush(stdout);
    setenv("PTMO_KERNEL_LEVEL", level->name, 1);
    const pid_t child = fork();
    if (child == 0)
      return run_all(argc, argv);
    int status = -1;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
      ++failed;
  }
  return failed == 0 ? 0 : 1;
}

} // namespace ptmo::test
