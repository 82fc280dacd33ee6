// The inner loops in vectors of 16 floats. The including file has defined strip_int8 and strip_int4. Everything here is
// local to it.
#pragma once
#include <cmath>
#include <cstring>

#include "isa.h"
#include "vectors.h"

namespace {

// e^x to about 2^-22, 0 below -87: x = n ln 2 + r, a polynomial for e^r, n into the exponent.
inline Floats exponential(Floats x) {
    Floats bounded = larger(x, all(-87.0f));
    bounded = bounded < all(88.0f) ? bounded : all(88.0f);
    Floats shifted = bounded * all(1.44269504088896341f) + all(12582912.0f);
    Floats n = shifted - all(12582912.0f);
    Floats r = bounded - n * all(0.693359375f) - n * all(-2.12194440e-4f);
    Floats p = all(1.9875691500e-4f);
    p = p * r + all(1.3981999507e-3f);
    p = p * r + all(8.3334519073e-3f);
    p = p * r + all(4.1665795894e-2f);
    p = p * r + all(1.6666665459e-1f);
    p = p * r + all(5.0000001201e-1f);
    p = p * r * r + r + all(1.0f);
    Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
    Floats result = p * (Floats)power;
    return x < all(-87.0f) ? Floats{} : result;
}

float one_exponential(float x) { return exponential(all(x))[0]; }

void to_float(const void* in, int type, int64_t count, float* out) {
    if (type == FLOAT32) {
        memcpy(out, in, size_t(count) * 4);
        return;
    }
    const uint16_t* halves = static_cast<const uint16_t*>(in);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) store(out + i, load_bfloat16(halves + i));
    for (; i < count; i++) out[i] = one_bfloat16(halves[i]);
}

void from_float(const float* in, int64_t count, int type, void* out) {
    if (type == FLOAT32) {
        memcpy(out, in, size_t(count) * 4);
        return;
    }
    uint16_t* halves = static_cast<uint16_t*>(out);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        Floats value = load(in + i);
        Words bits = (Words)value;
        Words rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        Words kept = value == value ? rounded : (bits >> 16 | 64);
        Halves narrow = __builtin_convertvector(kept, Halves);
        memcpy(halves + i, &narrow, sizeof narrow);
    }
    for (; i < count; i++) halves[i] = round_bfloat16(in[i]);
}

typedef uint8_t Bytes __attribute__((vector_size(16)));

// The exponent moves to its place in a float, where it counts from another zero: 2^120 makes up for that, also below the
// smallest normal number.
void from_float8(const uint8_t* in, float scale, int64_t count, float* out) {
    const float factor = scale * 1.329227995784916e36f;
    for (int64_t i = 0; i < count; i += LANES) {
        Bytes bytes;
        memcpy(&bytes, in + i, sizeof bytes);
        Words wide = __builtin_convertvector(bytes, Words);
        store(out + i, (Floats)((wide & 127) << 20 | (wide & 128) << 24) * all(factor));
    }
}

uint16_t to_float8(const float* in, int64_t count, uint8_t* out) {
    Floats largest = {};
    for (int64_t i = 0; i < count; i += LANES) largest = larger(largest, larger(load(in + i), -load(in + i)));
    float exact = largest_of(largest) / 448.0f;
    uint16_t narrow = round_bfloat16(exact > 1e-12f ? exact : 1e-12f);
    for (int64_t i = 0; i < count; i++)
        if (in[i] != in[i]) narrow = 0x7fc0;  // one NaN makes the row NaN
    const Floats scale = all(one_bfloat16(narrow));
    for (int64_t i = 0; i < count; i += LANES) {
        Floats value = load(in + i) / scale;
        Words sign = (Words)value >> 24 & 128;
        Floats size = (Floats)((Words)value & 0x7fffffff);
        size = size < all(448.0f) ? size : all(448.0f);
        Words bits = (Words)size;
        Words normal = ((bits + 0x7ffff + (bits >> 20 & 1)) >> 20) - (120 << 3);
        Floats steps = size * all(512.0f) + all(12582912.0f) - all(12582912.0f);  // below 2^-6 in steps of 2^-9
        Words small = (Words)__builtin_convertvector(steps, Ints);
        Words code = (size < all(0.015625f) ? small : normal) | sign;
        Bytes bytes = __builtin_convertvector(code, Bytes);
        memcpy(out + i, &bytes, sizeof bytes);
    }
    return narrow;
}

void round_row(const Rows& rows, int64_t row, int64_t first_group, int64_t num_groups) {
    int64_t groups = rows.columns / GROUP;
    for (int64_t g = first_group; g < first_group + num_groups; g++) {
        const float* x = rows.values + row * rows.columns + g * GROUP;
        Floats low = load(x), high = load(x + LANES);
        float largest = largest_of(larger(larger(low, -low), larger(high, -high)));
        float inverse = largest > 0 ? 127.0f / largest : 0.0f;
        Floats magic = all(12582912.0f);  // adding it rounds to the nearest whole number, halves to the even one
        Ints a = __builtin_convertvector(low * all(inverse) + magic - magic, Ints);
        Ints b = __builtin_convertvector(high * all(inverse) + magic - magic, Ints);
        Bytes narrow_a = __builtin_convertvector(a, Bytes), narrow_b = __builtin_convertvector(b, Bytes);
        int8_t* codes = rows.codes + row * rows.columns + g * GROUP;
        memcpy(codes, &narrow_a, sizeof narrow_a);
        memcpy(codes + LANES, &narrow_b, sizeof narrow_b);
        int32_t lanes[LANES], sum = 0;
        Ints both = a + b;
        memcpy(lanes, &both, sizeof lanes);
        for (int i = 0; i < LANES; i++) sum += lanes[i];
        float scale = largest / 127.0f;
        rows.scales[row * groups + g] = scale;
        rows.sums[row * groups + g] = scale * float(sum);
        rows.offsets[row * groups + g] = -128 * sum;
    }
}

const int64_t AHEAD = 512;  // elements of a row that are asked for before they are needed

// 4 rows of the matrix against M rows of activations, lanes along the columns.
template <int M, typename W>
inline void four_rows(const W* weights, const float* x, int64_t columns, float* out) {
    Floats sums[16] = {};
    int64_t k = 0;
    for (; k + LANES <= columns; k += LANES) {
        int64_t ahead = k + AHEAD < columns ? k + AHEAD : k + AHEAD + 3 * columns;  // behind a row's end: four rows below
        UNROLL
        for (int r = 0; r < 4; r++) {
            __builtin_prefetch(weights + r * columns + ahead);
            Floats w = load_any(weights + r * columns + k);
            UNROLL
            for (int m = 0; m < M; m++) sums[m * 4 + r] += w * load(x + m * columns + k);
        }
    }
    float totals[LANES];
    store(totals, sums_of(sums));
    for (int m = 0; m < M; m++)
        for (int r = 0; r < 4; r++) {
            float total = totals[m * 4 + r];
            for (int64_t rest = k; rest < columns; rest++)
                total += one(weights + r * columns + rest) * x[m * columns + rest];
            out[m * STRIP + r] = total;
        }
}

// One or two rows of activations: the matrix is read as it lies, from end to end, which memory likes best. Each sum runs
// in the order of `four_rows`, so that a row's result does not depend on its company.
template <int M, typename W>
inline void in_order(const W* weights, const float* x, int64_t columns, float* out) {
    Floats sums[M][STRIP] = {};
    int64_t k = 0;
    for (int r = 0; r < STRIP; r++) {
        const W* row = weights + r * columns;
        Floats sum[M] = {};
        for (k = 0; k + LANES <= columns; k += LANES) {
            __builtin_prefetch(row + k + 4 * AHEAD);
            Floats w = load_any(row + k);
            UNROLL
            for (int m = 0; m < M; m++) sum[m] += w * load(x + m * columns + k);
        }
        for (int m = 0; m < M; m++) sums[m][r] = sum[m];
    }
    for (int m = 0; m < M; m++) {
        store(out + m * STRIP, sums_of(sums[m]));
        for (int r = 0; r < STRIP; r++)
            for (int64_t rest = k; rest < columns; rest++)
                out[m * STRIP + r] += one(weights + r * columns + rest) * x[m * columns + rest];
    }
}

template <typename W>
void strip_plain(const W* weights, const Rows& rows, int64_t first, int64_t num, float* out) {
    for (int64_t m = 0; m < num; m += 4) {
        const float* x = rows.values + (first + m) * rows.columns;
        float* to = out + m * STRIP;
        if (num - m == 1) return in_order<1>(weights, x, rows.columns, to);
        if (num - m == 2) return in_order<2>(weights, x, rows.columns, to);
        for (int r = 0; r < STRIP; r += 4) {
            const W* w = weights + r * rows.columns;
            if (num - m == 3)
                four_rows<3>(w, x, rows.columns, to + r);
            else
                four_rows<4>(w, x, rows.columns, to + r);
        }
    }
}

void strip(int kind, const void* data, const Rows& rows, int64_t first, int64_t num, float* out) {
    if (kind == PLAIN)
        strip_plain(static_cast<const uint16_t*>(data), rows, first, num, out);
    else if (kind == WIDE)
        strip_plain(static_cast<const float*>(data), rows, first, num, out);
    else if (kind == INT8)
        strip_int8(static_cast<const uint8_t*>(data), rows, first, num, out);
    else
        strip_int4(static_cast<const uint8_t*>(data), rows, first, num, out);
}

void swiglu(const float* gate, const float* up, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += LANES) {
        Floats g = load(gate + i);
        store(out + i, g / (all(1.0f) + exponential(-g)) * load(up + i));
    }
}

// Scores of 4 queries against 16 rows, lane s for row s; `width` is a multiple of 16.
inline void score(const float* const* rows, const float* query, int64_t width, Floats* out) {
    float scores[4][LANES];
    for (int s = 0; s < LANES; s += 4) {
        Floats sums[16] = {};
        for (int64_t c = 0; c < width; c += LANES) {
            Floats row[4];
            UNROLL
            for (int i = 0; i < 4; i++) row[i] = load(rows[s + i] + c);
            UNROLL
            for (int q = 0; q < 4; q++) {
                Floats wanted = load(query + q * width + c);
                UNROLL
                for (int i = 0; i < 4; i++) sums[q * 4 + i] += wanted * row[i];
            }
        }
        Floats totals = sums_of(sums);
        UNROLL
        for (int q = 0; q < 4; q++) memcpy(scores[q] + s, reinterpret_cast<float*>(&totals) + q * 4, 16);
    }
    UNROLL
    for (int q = 0; q < 4; q++) out[q] = load(scores[q]);
}

// mixed = mixed * kept + weights . rows for 4 queries and V vectors of the latent.
template <int V>
inline void mix(const float* const* rows, const float (*weights)[LANES], const float* kept, int64_t at, int64_t latent,
                float* mixed) {
    Floats sums[4][V];
    UNROLL
    for (int q = 0; q < 4; q++)
        UNROLL
        for (int v = 0; v < V; v++) sums[q][v] = load(mixed + q * latent + at + v * LANES) * all(kept[q]);
    for (int s = 0; s < LANES; s++)
        UNROLL
        for (int v = 0; v < V; v++) {
            Floats row = load(rows[s] + at + v * LANES);
            UNROLL
            for (int q = 0; q < 4; q++) sums[q][v] += all(weights[q][s]) * row;
        }
    UNROLL
    for (int q = 0; q < 4; q++)
        UNROLL
        for (int v = 0; v < V; v++) store(mixed + q * latent + at + v * LANES, sums[q][v]);
}

// Weights e^(score - largest) of the rows that one query sees, and how much its sums so far are `kept`.
inline Floats soften(Floats scores, uint32_t seen, float& largest, float& total, float& kept) {
    Ints lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    Ints visible = lane < Ints{} + int32_t(seen);
    scores = visible ? scores : all(-INFINITY);
    float before = largest, now = largest_of(scores);
    if (now < before) now = before;
    Floats p = exponential(scores - all(now));
    kept = one_exponential(before - now);
    total = total * kept + sum_of(p);
    largest = now;
    return p;
}

void attend(const float* const* rows, const uint32_t* seen, const float* query, int64_t num_queries, int64_t width,
            int64_t latent, float* largest, float* total, float* mixed) {
    for (int64_t first = 0; first < num_queries; first += 4) {
        Floats scores[4];
        float weights[4][LANES], kept[4];
        score(rows, query + first * width, width, scores);
        for (int q = 0; q < 4; q++)
            store(weights[q], soften(scores[q], seen[first + q], largest[first + q], total[first + q], kept[q]));
        float* to = mixed + first * latent;
        int64_t at = 0;
        for (; at + 4 * LANES <= latent; at += 4 * LANES) mix<4>(rows, weights, kept, at, latent, to);
        for (; at < latent; at += LANES) mix<1>(rows, weights, kept, at, latent, to);
    }
}

float dot(const float* a, const float* b, int64_t count) {
    Floats sum = {};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) sum += load(a + i) * load(b + i);
    float total = sum_of(sum);
    for (; i < count; i++) total += a[i] * b[i];
    return total;
}

void add_scaled(float factor, const float* in, int64_t count, float* out) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) store(out + i, load(out + i) + all(factor) * load(in + i));
    for (; i < count; i++) out[i] += factor * in[i];
}

template <typename W>
void add_any_rows(const W* rows, const float* factors, int64_t num, int64_t columns, float* out) {
    for (int64_t p = 0; p < num; p++) {
        const W* row = rows + p * columns;
        int64_t i = 0;
        for (; i + LANES <= columns; i += LANES) store(out + i, load(out + i) + all(factors[p]) * load_any(row + i));
        for (; i < columns; i++) out[i] += factors[p] * one(row + i);
    }
}

void add_rows(int kind, const void* rows, const float* factors, int64_t num, int64_t columns, float* out) {
    if (kind == WIDE)
        add_any_rows(static_cast<const float*>(rows), factors, num, columns, out);
    else
        add_any_rows(static_cast<const uint16_t*>(rows), factors, num, columns, out);
}

}  // namespace

#define DEFINE_ISA(VARIABLE, NAME, HALVES, PACK)                                                               \
    extern const Isa VARIABLE = {NAME,   HALVES, to_float, from_float, from_float8,     to_float8, round_row, strip, \
                                 swiglu, attend, dot,      add_scaled, one_exponential, PACK,      add_rows}
