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

// A row as floats, in place where it is stored so.
const float* row_at(const Isa& cpu, const Pages& pages, int64_t slot, float* room) {
    const int64_t bytes = pages.width * type_bytes(int(pages.type));
    const char* from = static_cast<const char*>(pages.rows) + slot * bytes;
    if (pages.type == FLOAT32) return reinterpret_cast<const float*>(from);
    if (pages.type == FLOAT8)
        cpu.from_float8(reinterpret_cast<const uint8_t*>(from), one_bfloat16(pages.scales[slot]), pages.width, room);
    else
        cpu.to_float(from, BFLOAT16, pages.width, room);
    return room;
}

void walk(const Isa& cpu, const Pages& pages, const Queries& queries, const Task& task) {
    const int64_t length = pages.lengths[task.sequence], heads = queries.heads, latent = queries.latent;
    const int64_t tokens = pages.starts[task.sequence + 1] - pages.starts[task.sequence];
    const int32_t* table = pages.tables + task.sequence * pages.max_blocks;
    const int64_t padded = (task.num_queries + 3) / 4 * 4;
    const float* query = queries.values + (pages.starts[task.sequence] * heads + task.first_query) * pages.width;
    alignas(64) float floats[ROWS * MAX_WIDTH];
    const float* rows[ROWS];
    uint32_t seen[4 * 64];
    for (int64_t q = 0; q < padded; q++) {
        task.largest[q] = LOWEST;
        task.total[q] = 0;
    }
    memset(task.mixed, 0, size_t(padded * latent) * 4);
    for (int64_t row = task.first_row; row < task.end_row; row += ROWS) {
        int64_t num = task.end_row - row < ROWS ? task.end_row - row : ROWS;
        for (int64_t i = 0; i < num; i++)
            rows[i] = row_at(cpu, pages, slot_of(pages, table, row + i), floats + i * pages.width);
        for (int64_t i = num; i < ROWS; i++) rows[i] = rows[0];
        for (int64_t q = 0; q < padded; q += 256) {
            int64_t some = padded - q < 256 ? padded - q : 256;
            for (int64_t i = 0; i < some; i++) {
                int64_t token = (task.first_query + q + i) / heads;
                int64_t visible = length - tokens + token + 1 - row;
                if (visible > num) visible = num;
                seen[i] = uint32_t(visible > 0 ? visible : 0);
            }
            cpu.attend(rows, seen, query + q * pages.width, some, pages.width, latent, task.largest + q, task.total + q,
                       task.mixed + q * latent);
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

void attend_pages(Call& call, const Pages& pages, const float* query, int64_t heads, int64_t latent, float* out) {
    const Queries all = {query, heads, latent};
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
