// One layer of the model: as a whole over pages, or in two calls around an attention of the caller's.
#pragma once
#include <cstdint>

#include "attention.h"
#include "call.h"
#include "matmul.h"

struct Block {
    int64_t width, heads, nope, rope, value, query_rank, latent, experts_per_token, num_experts, has_shared;
    float eps, routed_scale;
    const float *attention_norm, *query_norm, *latent_norm, *ffn_norm;
    Weight wq_a, wq_b, wkv_a, wkv_b, wo, gate;  // wkv_b is plain: [heads * (nope + value), latent]; gate may have more rows
    ExpertWeights routed, shared;
};

// One pass's tokens: positions as tables of cos and sin [num, rope / 2], and the query's growth [num] or null.
struct Tokens {
    int64_t num;
    const float *cos, *sin, *growth;
};

// Layers that follow each other, each with its own cache: only `rows` and `scales` of the pages differ.
struct Chain {
    int64_t num;
    const Block* const* blocks;
    void* const* rows;
    uint16_t* const* scales;  // entries are null where rows need none
    const float* norm;        // of the last layer's output, or null
    float eps;
};

// x [num, width] becomes the last layer's output, normed if asked for; queries meet the latents themselves. `type` is that of the model: new
// rows, and what one layer gives the next, are rounded to it.
void run_chain(Call& call, const Chain& chain, const Tokens& tokens, Pages pages, float scale, int type, float* x);

// x [num, width] -> queries [num, heads, nope + rope] and new cache rows [num, latent + rope].
void block_front(Call& call, const Block& block, const Tokens& tokens, const float* x, float* query, float* rows);

// What attention gave, [num, heads, value]; x becomes the layer's output.
void block_back(Call& call, const Block& block, int64_t num, const float* values, float* x);
