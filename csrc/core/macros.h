// Compiler portability. Everything in core/ is compiled for the host (once per instruction set)
// and for CUDA devices, so functions are forced inline: a shared out-of-line copy would let the
// linker pick one instruction set's code for all of them.
#pragma once

#if defined(__CUDACC__)
#define MS_FN __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define MS_FN inline __attribute__((always_inline))
#else
#define MS_FN inline
#endif
