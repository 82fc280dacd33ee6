// A sequence's context is cut into parts of SPLIT rows, whatever else is in the batch, so that its result is always the
// same. A task walks through one part for some of the queries, 16 rows at a time, and keeps for each query the largest
// score so far m, the sum of e^(score - m) and the latents weighted by it; the parts are then weighted by e^(m - max m).
#include "attention.h"

#include <cstring>
#include <stdexcept>
#include <vector>

#include "isa.h"

namespace {

const int64_t SPLIT = 256, ROWS = 16;
const float LOWEST = -1e30f;

struct Task {
    int64_t sequence, first_row, end_row, first_query, num_queries;  // queries count heads of tokens within the sequence
    float *largest, *total, *mixed;
};

struct Queries {
    const float* values;
    const uint16_t* halves;  // the same in bfloat16, where the products are to be in it; else null
    int64_t heads, latent;
};

int64_t slot_of(const Pages& pages, const int32_t* table, int64_t row) {
    return int64_t(table[row / pages.block_size]) * pages.block_size + row % pages.block_size;
}

float one_bfloat16(uint16_t half) {
    uint32_t bits = uint32_t(half) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

const char* stored_row(const Pages& pages, int64_t slot) {
    return static_cast<const char*>(pages.rows) + slot * pages.width * type_bytes(int(pages.type));
}

// 16 rows as the kernels take them: where they lie, or converted.
struct Tile {
    alignas(64) float room[ROWS * MAX_WIDTH];
    const float* rows[ROWS];
    const uint16_t* halves[ROWS];
    float scales[ROWS];  // of halves

    void put(const Isa& cpu, const Pages& pages, int64_t slot, int64_t i) {
        const char* from = stored_row(pages, slot);
        const uint8_t* bytes = reinterpret_cast<const uint8_t*>(from);
        rows[i] = room + i * pages.width;
        if (pages.type == FLOAT32)
            rows[i] = reinterpret_cast<const float*>(from);
        else if (pages.type == FLOAT8)
            cpu.from_float8(bytes, one_bfloat16(pages.scales[slot]), pages.width, room + i * pages.width);
        else
            cpu.to_float(from, BFLOAT16, pages.width, room + i * pages.width);
    }

    void put_halves(const Isa& cpu, const Pages& pages, int64_t slot, int64_t i) {
        const char* from = stored_row(pages, slot);
        uint16_t* converted = reinterpret_cast<uint16_t*>(room + i * pages.width);
        halves[i] = pages.type == FLOAT8 ? converted : reinterpret_cast<const uint16_t*>(from);
        scales[i] = pages.type == FLOAT8 ? one_bfloat16(pages.scales[slot]) : 1.0f;
        if (pages.type == FLOAT8) cpu.halves->from_float8(reinterpret_cast<const uint8_t*>(from), pages.width, converted);
    }
};

void walk(const Isa& cpu, const Pages& pages, const Queries& queries, const Task& task) {
    const int64_t length = pages.lengths[task.sequence], heads = queries.heads, latent = queries.latent;
    const int64_t tokens = pages.starts[task.sequence + 1] - pages.starts[task.sequence];
    const int32_t* table = pages.tables + task.sequence * pages.max_blocks;
    const int64_t padded = (task.num_queries + 3) / 4 * 4;
    const int64_t first = (pages.starts[task.sequence] * heads + task.first_query) * pages.width;
    Tile tile;
    uint32_t seen[256];
    for (int64_t q = 0; q < padded; q++) {
        task.largest[q] = LOWEST;
        task.total[q] = 0;
    }
    memset(task.mixed, 0, size_t(padded * latent) * 4);
    for (int64_t row = task.first_row; row < task.end_row; row += ROWS) {
        int64_t num = task.end_row - row < ROWS ? task.end_row - row : ROWS;
        for (int64_t i = 0; i < ROWS; i++) {  // past the end the first row again, which nobody sees there
            int64_t slot = slot_of(pages, table, row + (i < num ? i : 0));
            queries.halves ? tile.put_halves(cpu, pages, slot, i) : tile.put(cpu, pages, slot, i);
        }
        for (int64_t q = 0; q < padded; q += 256) {
            int64_t some = padded - q < 256 ? padded - q : 256, at = first + q * pages.width;
            for (int64_t i = 0; i < some; i++) {
                int64_t token = (task.first_query + q + i) / heads;
                int64_t visible = length - tokens + token + 1 - row;
                if (visible > num) visible = num;
                seen[i] = uint32_t(visible > 0 ? visible : 0);
            }
            float *largest = task.largest + q, *total = task.total + q, *mixed = task.mixed + q * latent;
            if (queries.halves)
                cpu.halves->attend(tile.halves, tile.scales, seen, queries.halves + at, some, pages.width, latent,
                                   largest, total, mixed);
            else
                cpu.attend(tile.rows, seen, queries.values + at, some, pages.width, latent, largest, total, mixed);
        }
    }
}

}  // namespace

void check_pages(const Pages& pages) {
    for (int64_t b = 0; b < pages.sequences; b++) {
        int64_t queries = pages.starts[b + 1] - pages.starts[b];
        int64_t blocks = (pages.lengths[b] + pages.block_size - 1) / pages.block_size;
        if (queries < 0 || queries > pages.lengths[b] || blocks > pages.max_blocks) throw std::out_of_range("length");
        for (int64_t i = 0; i < blocks; i++) {
            int32_t block = pages.tables[b * pages.max_blocks + i];
            if (block < 0 || block >= pages.num_blocks) throw std::out_of_range("block");
        }
    }
    if (pages.starts[0] != 0 || num_tokens(pages) > pages.num_slots) throw std::out_of_range("queries");
    for (int64_t t = 0; t < num_tokens(pages); t++)
        if (pages.slots[t] < 0 || pages.slots[t] >= pages.num_blocks * pages.block_size) throw std::out_of_range("slot");
}

void store_rows(Call& call, const Pages& pages, const float* rows) {
    const int64_t bytes = pages.width * type_bytes(int(pages.type));
    call.each(num_tokens(pages), num_tokens(pages) > 16, [&](int64_t t) {
        char* to = static_cast<char*>(pages.rows) + pages.slots[t] * bytes;
        const float* from = rows + t * pages.width;
        if (pages.type == FLOAT8)
            pages.scales[pages.slots[t]] = call.cpu.to_float8(from, pages.width, reinterpret_cast<uint8_t*>(to));
        else
            call.cpu.from_float(from, pages.width, int(pages.type), to);
    });
}

void attend_pages(Call& call, const Pages& pages, const float* query, int type, int64_t heads, int64_t latent,
                  float* out) {
    Queries all = {query, nullptr, heads, latent};
    if (call.cpu.halves && type == BFLOAT16 && pages.type != FLOAT32) {
        const int64_t count = (num_tokens(pages) * heads + 4) * pages.width;
        uint16_t* halves = call.take<uint16_t>(count);
        call.cpu.from_float(query, count, BFLOAT16, halves);
        all.halves = halves;
    }
    std::vector<Task> tasks;
    std::vector<int64_t> first_task;  // of each sequence
    int64_t num_parts = 0;
    for (int64_t b = 0; b < pages.sequences; b++) num_parts += (pages.lengths[b] + SPLIT - 1) / SPLIT;
    int64_t groups = num_parts ? (2 * call.threads + num_parts - 1) / num_parts : 1;  // of queries: something for every thread
    if (call.threads == 1) groups = 1;
    std::vector<int64_t> step;
    for (int64_t b = 0; b < pages.sequences; b++) {
        int64_t queries = int64_t(pages.starts[b + 1] - pages.starts[b]) * heads;
        step.push_back(((queries + groups - 1) / groups + 3) / 4 * 4);
        first_task.push_back(int64_t(tasks.size()));
        for (int64_t q = 0; q < queries; q += step.back())
            for (int64_t row = 0; row < pages.lengths[b]; row += SPLIT) {
                int64_t end = row + SPLIT < pages.lengths[b] ? row + SPLIT : pages.lengths[b];
                int64_t num = queries - q < step.back() ? queries - q : step.back();
                tasks.push_back({b, row, end, q, num, call.take<float>(step.back()),
                                 call.take<float>(step.back()), call.take<float>(step.back() * latent)});
            }
    }
    call.each(int64_t(tasks.size()), true, [&](int64_t i) { walk(call.cpu, pages, all, tasks[size_t(i)]); });
    const int64_t total_queries = pages.starts[pages.sequences] * heads;
    std::vector<int32_t> owner(static_cast<size_t>(pages.starts[pages.sequences]));
    for (int64_t b = 0; b < pages.sequences; b++)
        for (int64_t t = pages.starts[b]; t < pages.starts[b + 1]; t++) owner[size_t(t)] = int32_t(b);
    const Isa& cpu = call.cpu;
    call.each((total_queries + 7) / 8, total_queries * num_parts > 64, [&](int64_t piece) {
        int64_t end = (piece + 1) * 8 < total_queries ? (piece + 1) * 8 : total_queries;
        for (int64_t q = piece * 8; q < end; q++) {
            int64_t b = owner[size_t(q / heads)], parts = (pages.lengths[b] + SPLIT - 1) / SPLIT;
            int64_t within = q - pages.starts[b] * heads, lane = within % step[size_t(b)];
            const Task* task = &tasks[size_t(first_task[size_t(b)] + within / step[size_t(b)] * parts)];
            float largest = LOWEST, total = 0;
            for (int64_t i = 0; i < parts; i++)
                if (task[i].largest[lane] > largest) largest = task[i].largest[lane];
            float* to = out + q * latent;
            memset(to, 0, size_t(latent) * 4);
            for (int64_t i = 0; i < parts; i++)
                total += task[i].total[lane] * cpu.exponential(task[i].largest[lane] - largest);
            for (int64_t i = 0; i < parts; i++)
                cpu.add_scaled(cpu.exponential(task[i].largest[lane] - largest) / total,
                               task[i].mixed + lane * latent, latent, to);
        }
    });
}
