// Products with packed or plain matrices, and the routed experts made of them.
#pragma once
#include <cstdint>

#include "call.h"
#include "isa.h"

// A matrix [rows, columns] or a stack of them. PLAIN and WIDE have at least 16 rows; the others are in strips.
struct Weight {
    int64_t kind, rows, columns;
    const uint8_t* data;
};

inline int64_t num_strips(const Weight& w) { return (w.rows + STRIP - 1) / STRIP; }

inline int64_t matrix_bytes(const Weight& w) {
    int64_t strip = strip_bytes(int(w.kind), w.columns);
    return has_codes(w.kind) ? num_strips(w) * strip : w.rows * (strip / STRIP);
}

// First row of a strip; the last one of a matrix without strips reaches back over its neighbour rather than beyond the end.
inline int64_t strip_row(const Weight& w, int64_t strip) {
    int64_t row = strip * STRIP;
    return !has_codes(w.kind) && row + STRIP > w.rows ? w.rows - STRIP : row;
}

inline const uint8_t* strip_data(const Weight& w, int64_t matrix, int64_t strip) {
    const uint8_t* start = w.data + matrix * matrix_bytes(w);
    int64_t bytes = strip_bytes(int(w.kind), w.columns);
    return has_codes(w.kind) ? start + strip * bytes : start + strip_row(w, strip) * (bytes / STRIP);
}

// Plain weights [matrices, rows, columns] of a type become strips, which lie in `out`.
void pack_weights(Call& call, const Weight& shape, int64_t matrices, const void* plain, int type, uint8_t* out);

// Codes of num rows whose values are in place; nothing to do for plain kinds.
void round_rows(Call& call, int kind, const Rows& rows, int64_t num);

// out [num, w.rows] = rows times the transposed matrix.
void multiply(Call& call, const Weight& w, const Rows& rows, int64_t num, float* out);

struct ExpertWeights {
    Weight w13, w2;  // stacks [2F, D] with w1 above w3, and [D, F]; F is a multiple of 32
};

// out [num, D] = sum over the k choices of each row of weight * expert(row), then over `shared` if there is one.
// An expert id outside 0 .. num_experts - 1 throws std::out_of_range.
void run_experts(Call& call, const ExpertWeights& routed, int64_t num_experts, const ExpertWeights* shared,
                 const Rows& rows, int64_t num, const int64_t* ids, const float* weights, int64_t k, float* out);
