# Everything below the binding. A file of an instruction set has its own flags and a macro that says it is there.
include(CheckCXXCompilerFlag)

add_library(dllama_kernels STATIC
  native/attention_op.cpp native/candidates_op.cpp native/cpu.cpp native/delta_op.cpp native/experts_op.cpp native/latent_op.cpp
  native/merge_candidates.cpp native/ops.cpp native/packed_matrix.cpp native/router_op.cpp native/scalar.cpp native/thread_pool.cpp)

# Products and sums are fused only where a kernel says so: an element's value must not depend on how the compiler
# unrolled the loop around it.
target_compile_options(dllama_kernels PRIVATE -O3 -Wall -Wextra -Wno-psabi -ffp-contract=off -fno-math-errno
                                              -fvisibility=hidden)
target_link_libraries(dllama_kernels PUBLIC Threads::Threads)

# GCC reorders integer sums and delays loads across unrolled loops, and then spills what the kernels counted
# registers for; measured: 128 to 162 Gop/s for Q40 products of four rows.
set(dllama_isa_options $<$<CXX_COMPILER_ID:GNU>:-fno-tree-reassoc> $<$<CXX_COMPILER_ID:GNU>:-fno-tree-ter>)
# It takes short loops that copy for memcpy, and that for `rep movs`, which takes longer to begin than they to end.
list(APPEND dllama_isa_options $<$<CXX_COMPILER_ID:GNU>:-fno-tree-loop-distribute-patterns>)

# ARGN: the flags; a compiler that does not know them builds without this instruction set.
function(dllama_isa macro file)
  string(REPLACE ";" " " flags "${ARGN}")
  check_cxx_compiler_flag("${flags}" ${macro}_FLAGS)
  if(NOT ${macro}_FLAGS)
    return()
  endif()
  target_sources(dllama_kernels PRIVATE native/${file})
  set_source_files_properties(native/${file} PROPERTIES COMPILE_OPTIONS "${ARGN};${dllama_isa_options}")
  target_compile_definitions(dllama_kernels PUBLIC ${macro})
endfunction()

# GCC before 13 takes the intrinsics' own undefined registers for a mistake of ours (its bug 105593).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  set(avx512_quiet -Wno-uninitialized -Wno-maybe-uninitialized)
endif()

if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64" AND NOT CMAKE_OSX_ARCHITECTURES MATCHES "arm64")
  dllama_isa(DLLAMA_AVX2 avx2.cpp -mavx2 -mfma -mf16c)
  dllama_isa(DLLAMA_AVXVNNI avxvnni.cpp -mavx2 -mfma -mf16c -mavxvnni)
  dllama_isa(DLLAMA_AVX512 avx512.cpp -mavx512f -mavx512bw -mavx512vl -mavx512vnni ${avx512_quiet})
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64|ARM64" OR CMAKE_OSX_ARCHITECTURES MATCHES "arm64")
  # GCC's first scheduling pass moves loads so far up that sums no longer fit into the registers.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    set(neon_order -fno-schedule-insns)
  endif()
  dllama_isa(DLLAMA_NEON neon.cpp -march=armv8-a ${neon_order})
  dllama_isa(DLLAMA_NEON_DOTPROD neon_dotprod.cpp -march=armv8.2-a+dotprod ${neon_order})
  dllama_isa(DLLAMA_NEON_I8MM neon_i8mm.cpp -march=armv8.2-a+dotprod+i8mm ${neon_order})
endif()

option(DLLAMA_BENCH "Build native/bench.cpp" OFF)
if(DLLAMA_BENCH)
  add_executable(dllama_bench native/bench.cpp)
  target_compile_options(dllama_bench PRIVATE -O3)
  target_link_libraries(dllama_bench PRIVATE dllama_kernels)
endif()
