# Everything below the binding. A file of an instruction set has its own flags and a macro that says it is there.
add_library(dllama_kernels STATIC
  native/attention_op.cpp native/cpu.cpp native/ops.cpp native/packed_matrix.cpp native/scalar.cpp
  native/thread_pool.cpp)

# Products and sums are fused only where a kernel says so: an element's value must not depend on how the compiler
# unrolled the loop around it.
target_compile_options(dllama_kernels PRIVATE -O3 -Wall -Wextra -Wno-psabi -ffp-contract=off -fno-math-errno
                                              -fvisibility=hidden)
target_link_libraries(dllama_kernels PUBLIC Threads::Threads)

function(dllama_isa macro file)
  target_sources(dllama_kernels PRIVATE native/${file})
  set_source_files_properties(native/${file} PROPERTIES COMPILE_OPTIONS "${ARGN}")
  target_compile_definitions(dllama_kernels PUBLIC ${macro})
endfunction()

if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64" AND NOT CMAKE_OSX_ARCHITECTURES MATCHES "arm64")
  dllama_isa(DLLAMA_AVX2 avx2.cpp -mavx2 -mfma -mf16c)
endif()

option(DLLAMA_BENCH "Build native/bench.cpp" OFF)
if(DLLAMA_BENCH)
  add_executable(dllama_bench native/bench.cpp)
  target_compile_options(dllama_bench PRIVATE -O3)
  target_link_libraries(dllama_bench PRIVATE dllama_kernels)
endif()
