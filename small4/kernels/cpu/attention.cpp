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

const char* row_at(const PagedAttention& pages, const int32_t* table, int64_t row, int64_t bytes) {
    return static_cast<const char*>(pages.rows) +
           (int64_t(table[row / pages.block_size]) * pages.block_size + row % pages.block_size) * bytes;
}

void walk(const Isa& cpu, const PagedAttention& pages, const Task& task) {
    const int64_t length = pages.lengths[task.sequence], bytes = pages.width * (pages.rows_type == 0 ? 4 : 2);
    const int64_t tokens = pages.starts[task.sequence + 1] - pages.starts[task.sequence];
    const int32_t* table = pages.tables + task.sequence * pages.max_blocks;
    const int64_t padded = (task.num_queries + 3) / 4 * 4;
    const float* query = pages.query + (pages.starts[task.sequence] * pages.heads + task.first_query) * pages.width;
    alignas(64) float floats[ROWS * MAX_WIDTH];
    const float* rows[ROWS];
    uint32_t seen[4 * 64];
    for (int64_t q = 0; q < padded; q++) {
        task.largest[q] = LOWEST;
        task.total[q] = 0;
    }
    memset(task.mixed, 0, size_t(padded * pages.latent) * 4);
    for (int64_t row = task.first_row; row < task.end_row; row += ROWS) {
        int64_t num = task.end_row - row < ROWS ? task.end_row - row : ROWS;
        for (int64_t i = 0; i < ROWS; i++) {
            rows[i] = i < num ? floats + i * pages.width : floats;
            if (i >= num) continue;
            const char* from = row_at(pages, table, row + i, bytes);
            if (pages.rows_type == FLOAT32)
                rows[i] = reinterpret_cast<const float*>(from);
            else
                cpu.to_float(from, int(pages.rows_type), pages.width, floats + i * pages.width);
        }
        for (int64_t i = num; i < ROWS; i++) rows[i] = rows[0];
        for (int64_t q = 0; q < padded; q += 256) {
            int64_t some = padded - q < 256 ? padded - q : 256;
            for (int64_t i = 0; i < some; i++) {
                int64_t token = (task.first_query + q + i) / pages.heads;
                int64_t visible = length - tokens + token + 1 - row;
                if (visible > num) visible = num;
                seen[i] = uint32_t(visible > 0 ? visible : 0);
            }
            cpu.attend(rows, seen, query + q * pages.width, some, pages.width, pages.latent, task.largest + q,
                       task.total + q, task.mixed + q * pages.latent);
        }
    }
}

void check(const PagedAttention& pages) {
    for (int64_t b = 0; b < pages.sequences; b++) {
        int64_t queries = pages.starts[b + 1] - pages.starts[b], blocks = (pages.lengths[b] + pages.block_size - 1) / pages.block_size;
        if (queries < 0 || queries > pages.lengths[b] || blocks > pages.max_blocks) throw std::out_of_range("length");
        for (int64_t i = 0; i < blocks; i++) {
            int32_t block = pages.tables[b * pages.max_blocks + i];
            if (block < 0 || block >= pages.num_blocks) throw std::out_of_range("block");
        }
    }
}

}  // namespace

void attend_pages(Call& call, const PagedAttention& pages, float* out) {
    check(pages);
    std::vector<Task> tasks;
    std::vector<int64_t> first_task;  // of each sequence
    int64_t num_parts = 0;
    for (int64_t b = 0; b < pages.sequences; b++) num_parts += (pages.lengths[b] + SPLIT - 1) / SPLIT;
    int64_t groups = num_parts ? (2 * call.threads + num_parts - 1) / num_parts : 1;  // of queries: something for every thread
    if (call.threads == 1) groups = 1;
    std::vector<int64_t> step;
    for (int64_t b = 0; b < pages.sequences; b++) {
        int64_t queries = int64_t(pages.starts[b + 1] - pages.starts[b]) * pages.heads;
        step.push_back(((queries + groups - 1) / groups + 3) / 4 * 4);
        first_task.push_back(int64_t(tasks.size()));
        for (int64_t q = 0; q < queries; q += step.back())
            for (int64_t row = 0; row < pages.lengths[b]; row += SPLIT) {
                int64_t end = row + SPLIT < pages.lengths[b] ? row + SPLIT : pages.lengths[b];
                int64_t num = queries - q < step.back() ? queries - q : step.back();
                tasks.push_back({b, row, end, q, num, call.take<float>(step.back()),
                                 call.take<float>(step.back()), call.take<float>(step.back() * pages.latent)});
            }
    }
    call.each(int64_t(tasks.size()), true, [&](int64_t i) { walk(call.cpu, pages, tasks[size_t(i)]); });
    const int64_t total_queries = pages.starts[pages.sequences] * pages.heads;
    std::vector<int32_t> owner(static_cast<size_t>(pages.starts[pages.sequences]));
    for (int64_t b = 0; b < pages.sequences; b++)
        for (int64_t t = pages.starts[b]; t < pages.starts[b + 1]; t++) owner[size_t(t)] = int32_t(b);
    const Isa& cpu = call.cpu;
    call.each((total_queries + 7) / 8, total_queries * num_parts > 64, [&](int64_t piece) {
        int64_t end = (piece + 1) * 8 < total_queries ? (piece + 1) * 8 : total_queries;
        for (int64_t query = piece * 8; query < end; query++) {
            int64_t b = owner[size_t(query / pages.heads)], parts = (pages.lengths[b] + SPLIT - 1) / SPLIT;
            int64_t within = query - pages.starts[b] * pages.heads, lane = within % step[size_t(b)];
            const Task* task = &tasks[size_t(first_task[size_t(b)] + within / step[size_t(b)] * parts)];
            float largest = LOWEST, total = 0;
            for (int64_t i = 0; i < parts; i++)
                if (task[i].largest[lane] > largest) largest = task[i].largest[lane];
            float* to = out + query * pages.latent;
            memset(to, 0, size_t(pages.latent) * 4);
            for (int64_t i = 0; i < parts; i++)
                total += task[i].total[lane] * cpu.exponential(task[i].largest[lane] - largest);
            for (int64_t i = 0; i < parts; i++)
                cpu.add_scaled(cpu.exponential(task[i].largest[lane] - largest) / total,
                               task[i].mixed + lane * pages.latent, pages.latent, to);
        }
    });
}
