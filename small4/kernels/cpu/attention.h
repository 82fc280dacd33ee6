// Latent attention over pages, as `reference.paged_latent_attention` defines it.
#pragma once
#include <cstdint>

#include "call.h"

struct PagedAttention {
    const float* query;  // [queries + 4, width], scaled; padded by four rows that are never used
    int64_t heads, width, latent;
    const void* rows;  // [blocks, block_size, width]
    int64_t rows_type, block_size;
    const int32_t *tables, *starts, *lengths;  // [sequences, max_blocks], [sequences + 1], [sequences]
    int64_t sequences, max_blocks, num_blocks;
};

// out [queries, heads, latent]; width and latent are multiples of 16, width at most MAX_WIDTH. Throws std::out_of_range
// for a block that is not there and for a sequence with more queries than rows.
void attend_pages(Call& call, const PagedAttention& pages, float* out);

const int64_t MAX_WIDTH = 1024;
