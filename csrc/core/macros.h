// Compiler portability. Everything in core/ is compiled for the host (once per instruction set)
// and for CUDA devices, so functions are forced inline: a shared out-of-line copy would let the
// linker pick one instruction set's code for all of them. MS_OUTLINE keeps rare device code apart.
#pragma once

#if defined(__CUDACC__)
#define MS_FN __host__ __device__ __forceinline__
#define MS_OUTLINE __noinline__
#elif defined(__GNUC__)
#define MS_FN inline __attribute__((always_inline))
#define MS_OUTLINE __attribute__((noinline))
#else
#define MS_FN inline
#define MS_OUTLINE
#endif
