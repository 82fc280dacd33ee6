// Any processor: nothing but what the compiler makes of plain loops.
#include "isa.h"

namespace {

inline float bfloat16_at(const uint8_t* bytes, int index) {
    uint32_t bits = uint32_t(bytes[2 * index] | bytes[2 * index + 1] << 8) << 16;
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

// Columns k of one group: vector k / 4, byte k % 4 of each row's four.
void strip_int8(const uint8_t* strip, const Rows& rows, int64_t first, int64_t num, float* out) {
    int64_t groups = rows.columns / GROUP;
    for (int64_t m = 0; m < num; m++) {
        const int8_t* x = rows.codes + (first + m) * rows.columns;
        float sums[STRIP] = {};
        for (int64_t g = 0; g < groups; g++) {
            const uint8_t* tile = strip + g * INT8_TILE;
            int32_t dots[STRIP] = {};
            for (int i = 0; i < 8; i++)
                for (int r = 0; r < STRIP; r++)
                    for (int j = 0; j < 4; j++)
                        dots[r] += (int(tile[i * 64 + r * 4 + j]) - 128) * x[g * GROUP + i * 4 + j];
            float scale = rows.scales[(first + m) * groups + g];
            for (int r = 0; r < STRIP; r++)
                sums[r] += float(dots[r]) * (bfloat16_at(tile + STRIP * GROUP, r) * scale);
        }
        for (int r = 0; r < STRIP; r++) out[m * STRIP + r] = sums[r];
    }
}

void strip_int4(const uint8_t* strip, const Rows& rows, int64_t first, int64_t num, float* out) {
    int64_t groups = rows.columns / GROUP;
    float head[2 * STRIP];
    __builtin_memcpy(head, strip, sizeof head);
    for (int64_t m = 0; m < num; m++) {
        const int8_t* x = rows.codes + (first + m) * rows.columns;
        float sums[STRIP] = {}, lows[STRIP] = {};
        for (int64_t g = 0; g < groups; g++) {
            const uint8_t* tile = strip + INT4_HEAD + g * INT4_TILE;
            int32_t dots[STRIP] = {};
            for (int i = 0; i < 4; i++)
                for (int r = 0; r < STRIP; r++)
                    for (int j = 0; j < 4; j++) {
                        int pair = tile[i * 64 + r * 4 + j];
                        dots[r] += (pair & 15) * x[g * GROUP + i * 8 + j] + (pair >> 4) * x[g * GROUP + i * 8 + 4 + j];
                    }
            float scale = rows.scales[(first + m) * groups + g], sum = rows.sums[(first + m) * groups + g];
            for (int r = 0; r < STRIP; r++) {
                sums[r] += float(dots[r]) * (float(tile[256 + r]) * scale);
                lows[r] += float(tile[272 + r]) * sum;
            }
        }
        for (int r = 0; r < STRIP; r++) out[m * STRIP + r] = head[r] * sums[r] - head[STRIP + r] * lows[r];
    }
}

}  // namespace

#include "kernels.h"

DEFINE_ISA(PLAIN_ISA, "plain", nullptr, pack_plain);
