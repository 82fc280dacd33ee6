// One layer of the model in two calls, around the attention: what lies between the calls is the caller's cache.
#pragma once
#include <cstdint>

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

// x [num, width] -> queries and new cache rows [num, latent + rope]. Absorbed queries are [num, heads, latent + rope],
// others [num, heads, nope + rope].
void block_front(Call& call, const Block& block, const Tokens& tokens, const float* x, bool is_absorbed, float* query,
                 float* rows);

// What attention gave, [num, heads, latent] if absorbed, else [num, heads, value]; x becomes the layer's output.
void block_back(Call& call, const Block& block, int64_t num, const float* attended, bool is_absorbed, float* x);
