// AVX-512 with VNNI.
#if defined(__x86_64__)
#include "vnni.h"

#include "kernels.h"

DEFINE_ISA(AVX512_ISA, "avx512-vnni", nullptr, pack_avx512);
#endif
