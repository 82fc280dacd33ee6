#include "block.h"

#include <cmath>
#include <cstring>

namespace {

// Rows ready for products of any kind: a group that does not fill 32 columns has no codes.
Rows take_rows(Call& call, int64_t num, int64_t columns) {
    return call.rows(columns % GROUP == 0 ? INT4 : PLAIN, num, columns);
}

void round_if_asked(Call& call, const Rows& rows, int64_t num, bool is_asked) {
    if (is_asked) round_rows(call, INT4, rows, num);
}

// x / sqrt(mean(x^2) + eps) * weight
void norm_row(const Isa& cpu, const float* x, const float* weight, int64_t columns, float eps, float* out) {
    float factor = 1.0f / std::sqrt(cpu.dot(x, x, columns) / float(columns) + eps);
    for (int64_t i = 0; i < columns; i++) out[i] = x[i] * factor * weight[i];
}

// Pairs side by side turn and are written first members first (reference.rotate_interleaved).
void rotate(const float* in, const float* cos, const float* sin, int64_t rope, float growth, float* out) {
    for (int64_t i = 0; i < rope / 2; i++) {
        float first = in[2 * i], second = in[2 * i + 1];
        out[i] = (first * cos[i] - second * sin[i]) * growth;
        out[rope / 2 + i] = (second * cos[i] + first * sin[i]) * growth;
    }
}

// As if the values had been stored in the model's type.
void round_values(const Isa& cpu, int type, int64_t count, float* values) {
    float room[64];
    for (int64_t i = 0; type != FLOAT32 && i < count; i += 64) {
        int64_t some = count - i < 64 ? count - i : 64;
        cpu.from_float(values + i, some, type, room);
        cpu.to_float(room, type, some, values + i);
    }
}

const uint8_t* head_rows(const Block& b, int64_t head, int64_t row) {
    return b.wkv_b.data + (head * (b.nope + b.value) + row) * strip_bytes(int(b.wkv_b.kind), b.latent) / STRIP;
}

// Softmax over all experts, the best k, weights that sum to 1 (reference.route).
void choose(const Block& b, const Isa& cpu, const float* logits, int64_t* ids, float* weights) {
    float largest = logits[0], total = 0, kept = 0;
    for (int64_t e = 1; e < b.num_experts; e++) largest = logits[e] > largest ? logits[e] : largest;
    for (int64_t e = 0; e < b.num_experts; e++) total += cpu.exponential(logits[e] - largest);
    for (int64_t k = 0; k < b.experts_per_token; k++) {
        int64_t best = -1;
        for (int64_t e = 0; e < b.num_experts; e++) {
            bool is_taken = false;
            for (int64_t i = 0; i < k; i++) is_taken |= ids[i] == e;
            if (!is_taken && (best < 0 || logits[e] > logits[best])) best = e;
        }
        ids[k] = best;
        weights[k] = cpu.exponential(logits[best] - largest) / total;
        kept += weights[k];
    }
    for (int64_t k = 0; k < b.experts_per_token; k++) weights[k] = weights[k] / (kept + 1e-20f) * b.routed_scale;
}

// Queries [num, heads, latent + rope] if absorbed, else [num, heads, nope + rope], times `scale` and their growth; new
// cache rows [num, latent + rope].
void project(Call& call, const Block& b, const Tokens& tokens, const float* x, bool is_absorbed, float scale,
             float* query, float* rows) {
    const int64_t num = tokens.num, head = b.nope + b.rope, row_width = b.latent + b.rope;
    const int64_t out_width = is_absorbed ? row_width : head;
    const Isa& cpu = call.cpu;
    Rows normed = take_rows(call, num, b.width), low = take_rows(call, num, b.query_rank);
    float* low_raw = call.take<float>(num * b.query_rank);
    float* latent_raw = call.take<float>(num * row_width);
    float* heads_raw = call.take<float>(num * b.heads * head);
    call.each(num, num > 16, [&](int64_t t) {
        norm_row(cpu, x + t * b.width, b.attention_norm, b.width, b.eps, normed.values + t * b.width);
    });
    round_if_asked(call, normed, num, has_codes(b.wq_a.kind) || has_codes(b.wkv_a.kind));
    multiply(call, b.wq_a, normed, num, low_raw);
    multiply(call, b.wkv_a, normed, num, latent_raw);
    call.each(num, num > 16, [&](int64_t t) {
        const float *cos = tokens.cos + t * (b.rope / 2), *sin = tokens.sin + t * (b.rope / 2);
        norm_row(cpu, low_raw + t * b.query_rank, b.query_norm, b.query_rank, b.eps, low.values + t * b.query_rank);
        const float* raw = latent_raw + t * row_width;
        norm_row(cpu, raw, b.latent_norm, b.latent, b.eps, rows + t * row_width);
        rotate(raw + b.latent, cos, sin, b.rope, 1.0f, rows + t * row_width + b.latent);
    });
    round_if_asked(call, low, num, has_codes(b.wq_b.kind));
    multiply(call, b.wq_b, low, num, heads_raw);
    call.each(b.heads, true, [&](int64_t n) {
        for (int64_t t = 0; t < num; t++) {
            float factor = tokens.growth ? tokens.growth[t] * scale : scale;
            float* raw = heads_raw + (t * b.heads + n) * head;
            float* to = query + (t * b.heads + n) * out_width;
            for (int64_t p = 0; p < b.nope; p++) raw[p] *= factor;
            if (is_absorbed) {
                memset(to, 0, size_t(b.latent) * 4);
                cpu.add_rows(int(b.wkv_b.kind), head_rows(b, n, 0), raw, b.nope, b.latent, to);
            } else {
                memcpy(to, raw, size_t(b.nope) * 4);
            }
            const float *cos = tokens.cos + t * (b.rope / 2), *sin = tokens.sin + t * (b.rope / 2);
            rotate(raw + b.nope, cos, sin, b.rope, factor, to + (is_absorbed ? b.latent : b.nope));
        }
    });
}

// Per-head mixes of latents [num, heads, latent] -> values [num, heads, value].
void lift(Call& call, const Block& b, int64_t num, const float* mixed, float* values) {
    float* of_heads = call.take<float>(b.heads * num * b.latent);
    float* products = call.take<float>(b.heads * num * b.value);
    call.each(b.heads, true, [&](int64_t n) {
        Rows rows = {};
        rows.columns = b.latent;
        rows.values = of_heads + n * num * b.latent;
        for (int64_t t = 0; t < num; t++)
            memcpy(rows.values + t * b.latent, mixed + (t * b.heads + n) * b.latent, size_t(b.latent) * 4);
        Weight up = {b.wkv_b.kind, b.value, b.latent, head_rows(b, n, b.nope)};
        Call alone(&call.cpu, 1);  // takes no memory: multiply needs none
        multiply(alone, up, rows, num, products + n * num * b.value);
        for (int64_t t = 0; t < num; t++)
            memcpy(values + (t * b.heads + n) * b.value, products + (n * num + t) * b.value, size_t(b.value) * 4);
    });
}

// x += wo values, then x += experts(norm(x)).
void finish(Call& call, const Block& b, int64_t num, const Rows& values, float* x) {
    const Isa& cpu = call.cpu;
    Rows normed = take_rows(call, num, b.width);
    float* projected = call.take<float>(num * b.width);
    round_if_asked(call, values, num, has_codes(b.wo.kind));
    multiply(call, b.wo, values, num, projected);
    call.each(num, num > 16, [&](int64_t t) {
        cpu.add_scaled(1.0f, projected + t * b.width, b.width, x + t * b.width);
        norm_row(cpu, x + t * b.width, b.ffn_norm, b.width, b.eps, normed.values + t * b.width);
    });
    round_if_asked(call, normed, num, has_codes(b.routed.w13.kind));
    float* logits = call.take<float>(num * b.gate.rows);
    int64_t* ids = call.take<int64_t>(num * b.experts_per_token);
    float* weights = call.take<float>(num * b.experts_per_token);
    multiply(call, b.gate, normed, num, logits);
    call.each(num, num > 8, [&](int64_t t) {
        choose(b, cpu, logits + t * b.gate.rows, ids + t * b.experts_per_token, weights + t * b.experts_per_token);
    });
    run_experts(call, b.routed, b.num_experts, b.has_shared ? &b.shared : nullptr, normed, num, ids, weights,
                b.experts_per_token, projected);
    call.each(num, num > 16, [&](int64_t t) {
        cpu.add_scaled(1.0f, projected + t * b.width, b.width, x + t * b.width);
    });
}

void block_whole(Call& call, const Block& b, const Tokens& tokens, const Pages& pages, float scale, int type, float* x) {
    const int64_t num = tokens.num, width = b.latent + b.rope;
    Rows values = take_rows(call, num, b.heads * b.value);
    float* query = call.take<float>((num * b.heads + 4) * width);  // attention looks at four queries at a time
    float* rows = call.take<float>(num * width);
    float* mixed = call.take<float>(num * b.heads * b.latent);
    memset(query + num * b.heads * width, 0, size_t(4 * width) * 4);
    project(call, b, tokens, x, true, scale, query, rows);
    round_values(call.cpu, type, num * width, rows);
    store_rows(call, pages, rows);
    attend_pages(call, pages, query, type, b.heads, b.latent, mixed);
    lift(call, b, num, mixed, values.values);
    finish(call, b, num, values, x);
}

}  // namespace

void run_chain(Call& call, const Chain& chain, const Tokens& tokens, Pages pages, float scale, int type, float* x) {
    for (int64_t i = 0; i < chain.num; i++) {
        Call::Scope freed_again(call);
        pages.rows = chain.rows[i];
        pages.scales = chain.scales[i];
        block_whole(call, *chain.blocks[i], tokens, pages, scale, type, x);
        round_values(call.cpu, type, tokens.num * chain.blocks[i]->width, x);
    }
    if (!chain.norm) return;
    const int64_t width = chain.blocks[0]->width;
    for (int64_t t = 0; t < tokens.num; t++)
        norm_row(call.cpu, x + t * width, chain.norm, width, chain.eps, x + t * width);
}

void block_front(Call& call, const Block& b, const Tokens& tokens, const float* x, float* query, float* rows) {
    project(call, b, tokens, x, false, 1.0f, query, rows);
}

void block_back(Call& call, const Block& b, int64_t num, const float* values, float* x) {
    Rows kept = take_rows(call, num, b.heads * b.value);
    memcpy(kept.values, values, size_t(num * b.heads * b.value) * 4);
    finish(call, b, num, kept, x);
}
