# Cross-builds for 64-bit ARM Linux and runs the tests under qemu's user mode.
# Debian: apt-get install g++-aarch64-linux-gnu qemu-user
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
# Static programs need no ARM system root to run.
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)

# Like the Cortex-A78AE, ARMv8.2 with dot products, fp16 and AES but no i8mm and no SVE: an
# instruction of those fails here. The older CPU has no dot products either.
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -cpu cortex-a76)
set(PTMO_EMULATED_LEVELS neon,reference+aes)
set(PTMO_EMULATED_DECODER_LEVEL neon)
set(PTMO_OLDER_EMULATOR qemu-aarch64 -cpu cortex-a53)
set(PTMO_OLDER_LEVELS reference+aes)
