// Latent attention over pages, as `reference.paged_latent_attention` defines it, and the rows that a pass adds to them.
#pragma once
#include <cstdint>

#include "call.h"

// One layer's cache as one pass sees it (pages.py).
struct Pages {
    void* rows;        // [num_blocks, block_size, width] in `type`
    uint16_t* scales;  // bfloat16 [num_blocks, block_size], of FLOAT8 rows
    int64_t type, width, block_size, num_blocks;
    const int32_t *tables, *starts, *lengths;  // [sequences, max_blocks], [sequences + 1], [sequences]
    const int64_t* slots;                      // of the pass's tokens, [num_slots]
    int64_t sequences, max_blocks, num_slots;
};

inline int64_t num_tokens(const Pages& pages) { return pages.starts[pages.sequences]; }

// Throws std::out_of_range for a block or slot that is not there and for a sequence with more queries than rows.
void check_pages(const Pages& pages);

// Keep one row [width] per token of the pass.
void store_rows(Call& call, const Pages& pages, const float* rows);

// `query` [tokens, heads, width] is scaled, and four more queries can be read behind the last; out is [tokens, heads,
// latent]. Width and latent are multiples of 16, width at most MAX_WIDTH. `type` is that of the model: in bfloat16 queries
// and the weights of rows may be rounded to it, as the definition does.
void attend_pages(Call& call, const Pages& pages, const float* query, int type, int64_t heads, int64_t latent, float* out);

const int64_t MAX_WIDTH = 1024;
