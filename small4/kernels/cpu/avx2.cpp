// AVX2: bytes are multiplied and summed in pairs to 16 bits, 8 rows at a time.
#if defined(__x86_64__)
#include <immintrin.h>

#include "isa.h"

namespace {

inline __m256i four_codes(const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof four);
    return _mm256_set1_epi32(four);
}

inline __m256 bytes_to_floats(const uint8_t* bytes) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)bytes)));
}

// Eight products of 0..15 by -127..127 in pairs stay below 8 * 2 * 15 * 127 = 30480: 16 bits hold a whole group.
template <int M>
inline void int4_half(const uint8_t* strip, int half, const Rows& rows, int64_t first, float* out) {
    const int64_t groups = rows.columns / GROUP, columns = rows.columns;
    const __m256i low_half = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    const int8_t* x = rows.codes + first * columns;
    const float *scales = rows.scales + first * groups, *x_sums = rows.sums + first * groups;
    const uint8_t* tile = strip + INT4_HEAD;
    __m256 sums[M], lows[M];
    UNROLL
    for (int m = 0; m < M; m++) sums[m] = lows[m] = _mm256_setzero_ps();
    for (int64_t g = 0; g < groups; g++, tile += INT4_TILE, x += GROUP) {
        __m256i totals[M];
        UNROLL
        for (int m = 0; m < M; m++) totals[m] = _mm256_setzero_si256();
        UNROLL
        for (int i = 0; i < 4; i++) {
            __m256i pairs = _mm256_loadu_si256((const __m256i*)(tile + 64 * i + 32 * half));
            __m256i low = _mm256_and_si256(pairs, low_half);
            __m256i high = _mm256_and_si256(_mm256_srli_epi16(pairs, 4), low_half);
            UNROLL
            for (int m = 0; m < M; m++) {
                __m256i a = _mm256_maddubs_epi16(low, four_codes(x + m * columns + 8 * i));
                __m256i b = _mm256_maddubs_epi16(high, four_codes(x + m * columns + 8 * i + 4));
                totals[m] = _mm256_add_epi16(totals[m], _mm256_add_epi16(a, b));
            }
        }
        __m256 s = bytes_to_floats(tile + 256 + 8 * half), l = bytes_to_floats(tile + 272 + 8 * half);
        UNROLL
        for (int m = 0; m < M; m++) {
            __m256 dots = _mm256_cvtepi32_ps(_mm256_madd_epi16(totals[m], ones));
            sums[m] = _mm256_fmadd_ps(dots, _mm256_mul_ps(s, _mm256_set1_ps(scales[m * groups + g])), sums[m]);
            lows[m] = _mm256_fmadd_ps(l, _mm256_set1_ps(x_sums[m * groups + g]), lows[m]);
        }
    }
    __m256 row_scale = _mm256_loadu_ps((const float*)strip + 8 * half);
    __m256 row_low = _mm256_loadu_ps((const float*)strip + STRIP + 8 * half);
    UNROLL
    for (int m = 0; m < M; m++)
        _mm256_storeu_ps(out + m * STRIP + 8 * half,
                         _mm256_fmsub_ps(row_scale, sums[m], _mm256_mul_ps(row_low, lows[m])));
}

// The unsigned factor is |weight|, the activation takes the weight's sign: 2 * 127 * 127 fits 16 bits, a sum of two not.
template <int M>
inline void int8_half(const uint8_t* strip, int half, const Rows& rows, int64_t first, float* out) {
    const int64_t groups = rows.columns / GROUP, columns = rows.columns;
    const __m256i ones = _mm256_set1_epi16(1), flip = _mm256_set1_epi8(-128);
    const int8_t* x = rows.codes + first * columns;
    const float* scales = rows.scales + first * groups;
    const uint8_t* tile = strip;
    __m256 sums[M];
    UNROLL
    for (int m = 0; m < M; m++) sums[m] = _mm256_setzero_ps();
    for (int64_t g = 0; g < groups; g++, tile += INT8_TILE, x += GROUP) {
        __m256i totals[M];
        UNROLL
        for (int m = 0; m < M; m++) totals[m] = _mm256_setzero_si256();
        UNROLL
        for (int i = 0; i < 8; i++) {
            __m256i w = _mm256_loadu_si256((const __m256i*)(tile + 64 * i + 32 * half));
            w = _mm256_xor_si256(w, flip);
            __m256i size = _mm256_abs_epi8(w);
            UNROLL
            for (int m = 0; m < M; m++) {
                __m256i pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(four_codes(x + m * columns + 4 * i), w));
                totals[m] = _mm256_add_epi32(totals[m], _mm256_madd_epi16(pairs, ones));
            }
        }
        __m256i halves = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(tile + 512 + 16 * half)));
        __m256 s = _mm256_castsi256_ps(_mm256_slli_epi32(halves, 16));
        UNROLL
        for (int m = 0; m < M; m++) {
            __m256 scaled = _mm256_mul_ps(s, _mm256_set1_ps(scales[m * groups + g]));
            sums[m] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(totals[m]), scaled, sums[m]);
        }
    }
    UNROLL
    for (int m = 0; m < M; m++) _mm256_storeu_ps(out + m * STRIP + 8 * half, sums[m]);
}

#define BY_ROWS(KERNEL)                                                          \
    for (int64_t m = 0; m < num; m += 4)                                         \
        for (int half = 0; half < 2; half++) {                                   \
            float* to = out + m * STRIP;                                         \
            switch (num - m) {                                                   \
                case 1: KERNEL<1>(strip, half, rows, first + m, to); break;      \
                case 2: KERNEL<2>(strip, half, rows, first + m, to); break;      \
                case 3: KERNEL<3>(strip, half, rows, first + m, to); break;      \
                default: KERNEL<4>(strip, half, rows, first + m, to);            \
            }                                                                    \
        }

void strip_int4(const uint8_t* strip, const Rows& rows, int64_t first, int64_t num, float* out) {
    BY_ROWS(int4_half)
}

void strip_int8(const uint8_t* strip, const Rows& rows, int64_t first, int64_t num, float* out) {
    BY_ROWS(int8_half)
}

}  // namespace

#include "kernels.h"

DEFINE_ISA(AVX2_ISA, "avx2", nullptr, pack_avx2);
#endif
