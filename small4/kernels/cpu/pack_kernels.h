// 16 rows of plain weights become a strip of codes and scales, bit for bit as `quantized.pack` defines it. A vector holds
// one column of the 16 rows, so every sum over a group runs down 32 vectors. The including file is compiled without
// fused multiply-adds, since they would round otherwise than the definition.
#pragma once
#include <cmath>

#include "isa.h"
#include "vectors.h"

namespace {

const int REFITS = 4;

inline Floats positive(Floats x) { return x > all(0.0f) ? x : all(1.0f); }

// Adding the number rounds to a whole number, halves to the even one.
inline Floats rounded(Floats x) { return x + all(12582912.0f) - all(12582912.0f); }

inline Floats between(Floats x, float low, float high) {
    x = larger(x, all(low));
    return x < all(high) ? x : all(high);
}

// In halves, the order of the definition; `x` is used up.
inline Floats sum_down(Floats* x) {
    for (int half = GROUP / 2; half; half /= 2)
        for (int i = 0; i < half; i++) x[i] += x[i + half];
    return x[0];
}

// Columns first .. first + 32 of the rows, one vector each; rows from `num` on are missing and count as zero.
inline void load_group(const void* rows, int type, int64_t num, int64_t columns, int64_t first, Floats* group) {
    float lanes[GROUP][LANES];
    if (num < STRIP) memset(lanes, 0, sizeof lanes);
    for (int64_t r = 0; r < num; r++) {
        float row[GROUP];
        int64_t at = r * columns + first;
        for (int c = 0; c < GROUP; c += LANES)
            store(row + c, type == FLOAT32 ? load(static_cast<const float*>(rows) + at + c)
                                           : load_bfloat16(static_cast<const uint16_t*>(rows) + at + c));
        for (int c = 0; c < GROUP; c++) lanes[c][r] = row[c];
    }
    for (int c = 0; c < GROUP; c++) group[c] = load(lanes[c]);
}

// Four columns of each row side by side in its lane, as a tile has them.
inline Ints side_by_side(const Floats* codes, int offset) {
    Ints four = {};
    for (int i = 0; i < 4; i++) four |= (__builtin_convertvector(codes[i], Ints) + offset) << (8 * i);
    return four;
}

inline void store_bytes(uint8_t* to, Floats values) {
    typedef uint8_t Bytes __attribute__((vector_size(16)));
    Bytes bytes = __builtin_convertvector(__builtin_convertvector(values, Ints), Bytes);
    memcpy(to, &bytes, sizeof bytes);
}

void pack_int8(const void* rows, int type, int64_t num, int64_t columns, uint8_t* strip) {
    for (int64_t first = 0; first < columns; first += GROUP, strip += INT8_TILE) {
        Floats group[GROUP], largest = {};
        load_group(rows, type, num, columns, first, group);
        for (int c = 0; c < GROUP; c++) largest = larger(largest, (Floats)((Words)group[c] & 0x7fffffff));
        float scales[LANES];
        store(scales, largest / all(127.0f));
        uint16_t narrow[LANES];
        for (int r = 0; r < LANES; r++) narrow[r] = round_bfloat16(scales[r]);
        Floats step = positive(load_bfloat16(narrow));
        for (int c = 0; c < GROUP; c++) group[c] = rounded(between(group[c] / step, -127.0f, 127.0f));
        for (int i = 0; i < 8; i++) {
            Ints four = side_by_side(group + 4 * i, 128);
            memcpy(strip + 64 * i, &four, sizeof four);
        }
        memcpy(strip + STRIP * GROUP, narrow, sizeof narrow);
    }
}

// quantized.fit_int4 for one group of every row.
inline void fit(const Floats* group, Floats& scale, Floats& low) {
    Floats smallest = group[0], largest = group[0], codes[GROUP], terms[GROUP];
    for (int c = 1; c < GROUP; c++) {
        smallest = smallest < group[c] ? smallest : group[c];
        largest = larger(largest, group[c]);
    }
    low = larger(-smallest, Floats{});
    scale = positive((largest + low) / all(15.0f));
    memcpy(terms, group, sizeof terms);
    Floats mean = sum_down(terms) / all(float(GROUP));
    for (int turn = 0; turn < REFITS; turn++) {
        for (int c = 0; c < GROUP; c++) codes[c] = rounded(between((group[c] + low) / scale, 0.0f, 15.0f));
        memcpy(terms, codes, sizeof terms);
        Floats middle = sum_down(terms) / all(float(GROUP));
        for (int c = 0; c < GROUP; c++) {
            codes[c] -= middle;
            terms[c] = codes[c] * group[c];
        }
        Floats together = sum_down(terms);
        for (int c = 0; c < GROUP; c++) terms[c] = codes[c] * codes[c];
        Floats spread = sum_down(terms);
        Ints has_spread = spread > Floats{};
        scale = has_spread ? positive(together / positive(spread)) : scale;
        low = larger(has_spread ? scale * middle - mean : low, Floats{});
    }
}

// Twice over the strip, since a row's unit is known only when all of its groups are fitted; meanwhile a tile's own memory
// keeps its scale and low as floats.
void pack_int4(const void* rows, int type, int64_t num, int64_t columns, uint8_t* strip) {
    Floats group[GROUP], row_scale = {}, row_low = {};
    uint8_t* tile = strip + INT4_HEAD;
    for (int64_t first = 0; first < columns; first += GROUP, tile += INT4_TILE) {
        Floats scale, low;
        load_group(rows, type, num, columns, first, group);
        fit(group, scale, low);
        row_scale = larger(row_scale, scale);
        row_low = larger(row_low, low);
        memcpy(tile, &scale, sizeof scale);
        memcpy(tile + sizeof scale, &low, sizeof low);
    }
    row_scale = positive(row_scale / all(255.0f));
    row_low = positive(row_low / all(255.0f));
    memcpy(strip, &row_scale, sizeof row_scale);
    memcpy(strip + sizeof row_scale, &row_low, sizeof row_low);
    tile = strip + INT4_HEAD;
    for (int64_t first = 0; first < columns; first += GROUP, tile += INT4_TILE) {
        Floats scale, low;
        memcpy(&scale, tile, sizeof scale);
        memcpy(&low, tile + sizeof scale, sizeof low);
        scale = rounded(scale / row_scale);
        low = rounded(low / row_low);
        Floats step = positive(scale * row_scale), lift = low * row_low;
        load_group(rows, type, num, columns, first, group);
        for (int c = 0; c < GROUP; c++) group[c] = rounded(between((group[c] + lift) / step, 0.0f, 15.0f));
        for (int i = 0; i < 4; i++) {
            Ints pairs = side_by_side(group + 8 * i, 0) | side_by_side(group + 8 * i + 4, 0) << 4;
            memcpy(tile + 64 * i, &pairs, sizeof pairs);
        }
        store_bytes(tile + 256, scale);
        store_bytes(tile + 272, low);
    }
}

}  // namespace

#define DEFINE_PACK(NAME)                                                                               \
    void NAME(int kind, const void* rows, int type, int64_t num, int64_t columns, uint8_t* strip) {     \
        (kind == INT4 ? pack_int4 : pack_int8)(rows, type, num, columns, strip);                        \
    }
