// AVX-512 with VNNI: one instruction multiplies 64 unsigned by 64 signed bytes and sums them in fours, a row per lane.
#pragma once
#include <immintrin.h>

#include "isa.h"

namespace {

const int BYTES_AHEAD = 2304;  // asked for before they are needed

inline __m512i four_codes(const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof four);
    return _mm512_set1_epi32(four);
}

template <int M>
void int4_rows(const uint8_t* strip, const Rows& rows, int64_t first, float* out) {
    const int64_t groups = rows.columns / GROUP, columns = rows.columns;
    const __m512i low_half = _mm512_set1_epi8(15);
    const int8_t* x = rows.codes + first * columns;
    const float *scales = rows.scales + first * groups, *x_sums = rows.sums + first * groups;
    const uint8_t* tile = strip + INT4_HEAD;
    __m512 sums[M], lows[M];
    UNROLL
    for (int m = 0; m < M; m++) sums[m] = lows[m] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++, tile += INT4_TILE, x += GROUP) {
        UNROLL
        for (int line = 0; line < INT4_TILE; line += 64) _mm_prefetch((const char*)tile + BYTES_AHEAD + line, _MM_HINT_T0);
        __m512i codes[8];
        UNROLL
        for (int i = 0; i < 4; i++) {
            __m512i pairs = _mm512_loadu_si512(tile + 64 * i);
            codes[2 * i] = _mm512_and_si512(pairs, low_half);
            codes[2 * i + 1] = _mm512_and_si512(_mm512_srli_epi16(pairs, 4), low_half);
        }
        __m512 s = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)(tile + 256))));
        __m512 l = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)(tile + 272))));
        UNROLL
        for (int m = 0; m < M; m++) {
            __m512i dots = _mm512_setzero_si512();
            if (M > 2) {
                UNROLL
                for (int i = 0; i < 8; i++) dots = _mm512_dpbusd_epi32(dots, codes[i], four_codes(x + m * columns + 4 * i));
            } else {  // few rows: two chains hide the latency
                __m512i others = _mm512_setzero_si512();
                UNROLL
                for (int i = 0; i < 8; i += 2) {
                    dots = _mm512_dpbusd_epi32(dots, codes[i], four_codes(x + m * columns + 4 * i));
                    others = _mm512_dpbusd_epi32(others, codes[i + 1], four_codes(x + m * columns + 4 * i + 4));
                }
                dots = _mm512_add_epi32(dots, others);
            }
            __m512 scaled = _mm512_mul_ps(s, _mm512_set1_ps(scales[m * groups + g]));
            sums[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scaled, sums[m]);
            lows[m] = _mm512_fmadd_ps(l, _mm512_set1_ps(x_sums[m * groups + g]), lows[m]);
        }
    }
    __m512 row_scale = _mm512_loadu_ps(strip), row_low = _mm512_loadu_ps(strip + 64);
    UNROLL
    for (int m = 0; m < M; m++)
        _mm512_storeu_ps(out + m * STRIP, _mm512_fmsub_ps(row_scale, sums[m], _mm512_mul_ps(row_low, lows[m])));
}

template <int M>
void int8_rows(const uint8_t* strip, const Rows& rows, int64_t first, float* out) {
    const int64_t groups = rows.columns / GROUP, columns = rows.columns;
    const int8_t* x = rows.codes + first * columns;
    const float* scales = rows.scales + first * groups;
    const int32_t* offsets = rows.offsets + first * groups;
    const uint8_t* tile = strip;
    __m512 sums[M];
    UNROLL
    for (int m = 0; m < M; m++) sums[m] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++, tile += INT8_TILE, x += GROUP) {
        UNROLL
        for (int line = 0; line < INT8_TILE; line += 64) _mm_prefetch((const char*)tile + 2 * BYTES_AHEAD + line, _MM_HINT_T0);
        __m512i codes[8];
        UNROLL
        for (int i = 0; i < 8; i++) codes[i] = _mm512_loadu_si512(tile + 64 * i);
        __m512i halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(tile + 512)));
        __m512 s = _mm512_castsi512_ps(_mm512_slli_epi32(halves, 16));
        UNROLL
        for (int m = 0; m < M; m++) {
            __m512i dots = _mm512_set1_epi32(offsets[m * groups + g]);
            if (M > 2) {
                UNROLL
                for (int i = 0; i < 8; i++) dots = _mm512_dpbusd_epi32(dots, codes[i], four_codes(x + m * columns + 4 * i));
            } else {
                __m512i others = _mm512_setzero_si512();
                UNROLL
                for (int i = 0; i < 8; i += 2) {
                    dots = _mm512_dpbusd_epi32(dots, codes[i], four_codes(x + m * columns + 4 * i));
                    others = _mm512_dpbusd_epi32(others, codes[i + 1], four_codes(x + m * columns + 4 * i + 4));
                }
                dots = _mm512_add_epi32(dots, others);
            }
            __m512 scaled = _mm512_mul_ps(s, _mm512_set1_ps(scales[m * groups + g]));
            sums[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scaled, sums[m]);
        }
    }
    UNROLL
    for (int m = 0; m < M; m++) _mm512_storeu_ps(out + m * STRIP, sums[m]);
}

#define BY_ROWS(KERNEL)                                                        \
    for (int64_t m = 0; m < num; m += 8) {                                     \
        float* to = out + m * STRIP;                                           \
        switch (num - m) {                                                     \
            case 1: KERNEL<1>(strip, rows, first + m, to); break;              \
            case 2: KERNEL<2>(strip, rows, first + m, to); break;              \
            case 3: KERNEL<3>(strip, rows, first + m, to); break;              \
            case 4: KERNEL<4>(strip, rows, first + m, to); break;              \
            case 5: KERNEL<5>(strip, rows, first + m, to); break;              \
            case 6: KERNEL<6>(strip, rows, first + m, to); break;              \
            case 7: KERNEL<7>(strip, rows, first + m, to); break;              \
            default: KERNEL<8>(strip, rows, first + m, to);                    \
        }                                                                      \
    }

void strip_int4(const uint8_t* strip, const Rows& rows, int64_t first, int64_t num, float* out) {
    BY_ROWS(int4_rows)
}

void strip_int8(const uint8_t* strip, const Rows& rows, int64_t first, int64_t num, float* out) {
    BY_ROWS(int8_rows)
}

}  // namespace

#undef BY_ROWS
