// The packer for AVX2.
#if defined(__x86_64__)
#include "pack_kernels.h"

DEFINE_PACK(pack_avx2)
#endif
