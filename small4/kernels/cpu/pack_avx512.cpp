// The packer for AVX-512.
#if defined(__x86_64__)
#include "pack_kernels.h"

DEFINE_PACK(pack_avx512)
#endif
