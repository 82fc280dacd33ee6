// What one instruction set has to offer: the inner loops, compiled once for each from kernels.h.
#pragma once
#include <cstdint>

// Before a loop over accumulators: they stay in registers only if it is unrolled, which compilers do not do by themselves.
#define UNROLL _Pragma("GCC unroll 16")

enum Type { FLOAT32 = 0, BFLOAT16 = 1, FLOAT8 = 2 };  // FLOAT8 (e4m3): cached rows only, with a scale each
enum Kind { PLAIN = 0, INT8 = 1, INT4 = 2, WIDE = 3 };  // PLAIN and WIDE: bfloat16 and float32, row after row

const int GROUP = 32, STRIP = 16;
const int INT8_TILE = STRIP * GROUP + 32, INT4_TILE = STRIP * GROUP / 2 + 32, INT4_HEAD = 128;

static inline int64_t type_bytes(int type) { return type == FLOAT32 ? 4 : type == BFLOAT16 ? 2 : 1; }

static inline bool has_codes(int64_t kind) { return kind == INT8 || kind == INT4; }

// Activations of one product, row after row: values for PLAIN and WIDE, the rest for INT8 and INT4 (quantized.py).
struct Rows {
    int64_t columns;
    float* values;     // [rows, columns]
    int8_t* codes;     // [rows, columns]
    float* scales;     // [rows, columns / 32]
    float* sums;       // scale times the sum of the codes of the group
    int32_t* offsets;  // -128 times the sum of the codes of the group
};

// What only processors have that multiply bfloat16 themselves.
struct HalfDots {
    // As `Isa::attend`, over rows in bfloat16 with a scale each; queries in bfloat16.
    void (*attend)(const uint16_t* const* rows, const float* scales, const uint32_t* seen, const uint16_t* query,
                   int64_t num_queries, int64_t width, int64_t latent, float* largest, float* total, float* mixed);
    void (*from_float8)(const uint8_t* in, int64_t count, uint16_t* out);  // without its scale
};

struct Isa {
    const char* name;
    const HalfDots* halves;  // or null
    void (*to_float)(const void* in, int type, int64_t count, float* out);
    void (*from_float)(const float* in, int64_t count, int type, void* out);
    // A cached row in FLOAT8 times its scale; the other way gives the row's scale in bfloat16 (pages.py).
    void (*from_float8)(const uint8_t* in, float scale, int64_t count, float* out);
    uint16_t (*to_float8)(const float* in, int64_t count, uint8_t* out);
    void (*round_row)(const Rows& rows, int64_t row, int64_t first_group, int64_t num_groups);  // values -> codes ...
    // out[m][16] = 16 rows of a matrix times rows first .. first + num of the activations.
    void (*strip)(int kind, const void* strip, const Rows& rows, int64_t first, int64_t num, float* out);
    void (*swiglu)(const float* gate, const float* up, int64_t count, float* out);
    // 16 cached rows against padded queries: see attention.cpp.
    void (*attend)(const float* const* rows, const uint32_t* seen, const float* query, int64_t num_queries,
                   int64_t width, int64_t latent, float* largest, float* total, float* mixed);
    float (*dot)(const float* a, const float* b, int64_t count);
    void (*add_scaled)(float factor, const float* in, int64_t count, float* out);
    float (*exponential)(float x);
    // The first num of 16 rows of plain weights, the others missing, become a strip: see pack_kernels.h.
    void (*pack)(int kind, const void* rows, int type, int64_t num, int64_t columns, uint8_t* strip);
    // out[l] += sum over the rows p of factors[p] * rows[p][l], rows in PLAIN or WIDE.
    void (*add_rows)(int kind, const void* rows, const float* factors, int64_t num, int64_t columns, float* out);
};

extern const Isa PLAIN_ISA;
void pack_plain(int kind, const void* rows, int type, int64_t num, int64_t columns, uint8_t* strip);
#if defined(__x86_64__)
extern const Isa AVX2_ISA;
extern const Isa AVX512_ISA;
extern const Isa AVX512_BF16_ISA;
void pack_avx2(int kind, const void* rows, int type, int64_t num, int64_t columns, uint8_t* strip);
void pack_avx512(int kind, const void* rows, int type, int64_t num, int64_t columns, uint8_t* strip);
#endif

static inline int64_t strip_bytes(int kind, int64_t columns) {
    if (kind == INT4) return INT4_HEAD + columns / GROUP * INT4_TILE;
    return kind == INT8 ? columns / GROUP * INT8_TILE : columns * (kind == WIDE ? 4 : 2) * STRIP;
}
