// The packer for any processor.
#include "pack_kernels.h"

DEFINE_PACK(pack_plain)
