# What the CUDA engine is compiled by, and for.

set(PTMO_OLDEST_CUDA 11.8) # has cudaLaunchKernelEx

# Sets `out` to CMake's names of these compute capabilities (87;90a). Of each the machine code alone:
# PTX beside it would be compiled by the driver of a newer device, whose registers and spills
# build_gate.py has not seen. 90 is 90a, which it has: no other device runs either of them.
function(ptmo_machine_code archs out)
  set(code)
  foreach(arch IN LISTS archs)
    if(NOT arch MATCHES "^[0-9]+[af]?$")
      message(FATAL_ERROR "PTMO_CUDA_ARCHS: '${arch}' is no compute capability such as 87 or 90a")
    endif()
    if(arch STREQUAL "90" AND CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12)
      set(arch 90a)
    endif()
    list(APPEND code ${arch}-real)
  endforeach()
  list(REMOVE_DUPLICATES code)
  set(${out} ${code} PARENT_SCOPE)
endfunction()

# Sets `out` to the compute capabilities of the devices that are there. They are asked each time: the
# folder of a build may outlive them.
function(ptmo_native_archs out)
  unset(ptmo_native_ran CACHE)
  unset(ptmo_native_built CACHE)
  try_run(ptmo_native_ran ptmo_native_built ${CMAKE_BINARY_DIR}/native_archs
    ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/native_archs.cu RUN_OUTPUT_VARIABLE found)
  if(NOT ptmo_native_built OR NOT ptmo_native_ran EQUAL 0)
    message(FATAL_ERROR "PTMO_CUDA_ARCHS=native: no CUDA device is usable here; name compute "
                        "capabilities, such as 87 or 90a")
  endif()
  set(${out} ${found} PARENT_SCOPE)
endfunction()

# Sets `out` to why this compiler cannot be used, nothing where it can.
function(ptmo_old_cuda version out)
  set(why)
  if(version VERSION_LESS PTMO_OLDEST_CUDA)
    set(why "the CUDA engine needs CUDA ${PTMO_OLDEST_CUDA} or newer, the compiler is of ${version}")
  endif()
  set(${out} "${why}" PARENT_SCOPE)
endfunction()
