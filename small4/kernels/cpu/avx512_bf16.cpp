// AVX-512 with VNNI and BF16: one instruction multiplies 32 pairs of bfloat16 and sums them in twos, in float32.
#if defined(__x86_64__)
#include "vnni.h"

#include "kernels.h"

namespace {

inline __m512bh halves_at(const uint16_t* from) { return (__m512bh)_mm512_loadu_si512(from); }

// Scores of 4 queries against 16 rows, lane s for row s; `width` is a multiple of 16.
inline void score_halves(const uint16_t* const* rows, const uint16_t* query, int64_t width, Floats* out) {
    float scores[4][LANES];
    for (int s = 0; s < LANES; s += 4) {
        Floats sums[16] = {};
        for (int64_t c = 0; c < width; c += 32) {
            const __mmask32 there = width - c < 32 ? 0xffff : 0xffffffff;
            __m512bh row[4];
            UNROLL
            for (int i = 0; i < 4; i++) row[i] = (__m512bh)_mm512_maskz_loadu_epi16(there, rows[s + i] + c);
            UNROLL
            for (int q = 0; q < 4; q++) {
                __m512bh wanted = (__m512bh)_mm512_maskz_loadu_epi16(there, query + q * width + c);
                UNROLL
                for (int i = 0; i < 4; i++)
                    sums[q * 4 + i] = (Floats)_mm512_dpbf16_ps((__m512)sums[q * 4 + i], wanted, row[i]);
            }
        }
        Floats totals = sums_of(sums);
        UNROLL
        for (int q = 0; q < 4; q++) memcpy(scores[q] + s, reinterpret_cast<float*>(&totals) + q * 4, 16);
    }
    UNROLL
    for (int q = 0; q < 4; q++) out[q] = load(scores[q]);
}

// mixed = mixed * kept + weights . rows for 4 queries and 32 columns of the latent, or its last 16; rows go in twos.
template <int V>
inline void mix_halves(const uint16_t* const* rows, const uint16_t (*weights)[LANES], const float* kept, int64_t at,
                       int64_t latent, float* mixed) {
    alignas(64) static const uint16_t ORDER[2][32] = {
        {0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
        {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
         24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63}};
    const __mmask32 there = V == 2 ? 0xffffffff : 0xffff;
    Floats sums[4][V];
    UNROLL
    for (int q = 0; q < 4; q++)
        UNROLL
        for (int v = 0; v < V; v++) sums[q][v] = load(mixed + q * latent + at + v * LANES) * all(kept[q]);
    for (int s = 0; s < LANES; s += 2) {
        __m512i even = _mm512_maskz_loadu_epi16(there, rows[s] + at), odd = _mm512_maskz_loadu_epi16(there, rows[s + 1] + at);
        __m512bh pairs[V];
        UNROLL
        for (int v = 0; v < V; v++)
            pairs[v] = (__m512bh)_mm512_permutex2var_epi16(even, _mm512_load_si512(ORDER[v]), odd);
        UNROLL
        for (int q = 0; q < 4; q++) {
            int32_t both;
            memcpy(&both, weights[q] + s, sizeof both);
            __m512bh weight = (__m512bh)_mm512_set1_epi32(both);
            UNROLL
            for (int v = 0; v < V; v++) sums[q][v] = (Floats)_mm512_dpbf16_ps((__m512)sums[q][v], weight, pairs[v]);
        }
    }
    UNROLL
    for (int q = 0; q < 4; q++)
        UNROLL
        for (int v = 0; v < V; v++) store(mixed + q * latent + at + v * LANES, sums[q][v]);
}

// As `attend`, over rows in bfloat16 that their scales have yet to multiply; queries and weights are rounded.
void attend_halves(const uint16_t* const* rows, const float* scales, const uint32_t* seen, const uint16_t* query,
                   int64_t num_queries, int64_t width, int64_t latent, float* largest, float* total, float* mixed) {
    const Floats scale = load(scales);
    for (int64_t first = 0; first < num_queries; first += 4) {
        Floats scores[4];
        float weights[LANES], kept[4];
        uint16_t halves[4][LANES];
        score_halves(rows, query + first * width, width, scores);
        for (int q = 0; q < 4; q++) {
            Floats p = soften(scores[q] * scale, seen[first + q], largest[first + q], total[first + q], kept[q]);
            store(weights, p * scale);
            from_float(weights, LANES, BFLOAT16, halves[q]);
        }
        float* to = mixed + first * latent;
        int64_t at = 0;
        for (; at + 32 <= latent; at += 32) mix_halves<2>(rows, halves, kept, at, latent, to);
        if (at < latent) mix_halves<1>(rows, halves, kept, at, latent, to);
    }
}

// Exact, since a bfloat16 has all bits of a FLOAT8: the exponent moves to its place and counts from another zero; below
// the smallest normal number stand 8 multiples of 2^-9.
void halves_of_float8(const uint8_t* in, int64_t count, uint16_t* out) {
    alignas(64) static const uint16_t SMALL[32] = {0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60};
    for (int64_t i = 0; i < count; i += 32) {
        const __mmask32 there = count - i < 32 ? 0xffff : 0xffffffff;
        __m512i wide = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(there, in + i));
        __m512i size = _mm512_and_si512(wide, _mm512_set1_epi16(127));
        __m512i sign = _mm512_slli_epi16(_mm512_and_si512(wide, _mm512_set1_epi16(128)), 8);
        __m512i bits = _mm512_add_epi16(_mm512_slli_epi16(size, 4), _mm512_set1_epi16(120 << 7));
        __mmask32 is_small = _mm512_cmplt_epu16_mask(size, _mm512_set1_epi16(8));
        bits = _mm512_mask_permutexvar_epi16(bits, is_small, size, _mm512_load_si512(SMALL));
        _mm512_mask_storeu_epi16(out + i, there, _mm512_or_si512(bits, sign));
    }
}

const HalfDots HALF_DOTS = {attend_halves, halves_of_float8};

}  // namespace

DEFINE_ISA(AVX512_BF16_ISA, "avx512-bf16", &HALF_DOTS, pack_avx512);
#endif
