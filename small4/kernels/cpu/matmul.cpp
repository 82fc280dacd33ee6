#include "matmul.h"

#include <cstring>
#include <stdexcept>
#include <vector>


namespace {

const int64_t PIECE_BYTES = 24 * 1024;  // of weights: enough to be worth a claim, few enough to share out evenly
const int64_t BLOCK = 64;               // rows of activations between two looks at a strip

int64_t strips_per_piece(const Weight& w, int threads) {
    int64_t by_bytes = PIECE_BYTES / strip_bytes(int(w.kind), w.columns);
    int64_t by_threads = num_strips(w) / (2 * threads);
    int64_t strips = by_bytes < by_threads ? by_bytes : by_threads;
    return strips > 1 ? strips : 1;
}

// One expert of this pass with the rows that chose it.
struct Active {
    const ExpertWeights* weights;
    int64_t matrix, first, num;  // pairs first .. first + num
};

struct Pairs {
    std::vector<Active> active;
    int64_t* token;  // of each pair
    float* weight;
    int64_t num;
};

// Pairs of row and expert in ascending order of expert, the shared one last.
Pairs pair_up(const ExpertWeights& routed, int64_t num_experts, const ExpertWeights* shared, int64_t num,
              const int64_t* ids, const float* weights, int64_t k, Call& call) {
    Pairs pairs;
    pairs.num = num * k + (shared ? num : 0);
    pairs.token = call.take<int64_t>(pairs.num);
    pairs.weight = call.take<float>(pairs.num);
    std::vector<int64_t> next(size_t(num_experts) + 1, 0);
    for (int64_t i = 0; i < num * k; i++) {
        if (ids[i] < 0 || ids[i] >= num_experts) throw std::out_of_range("expert id");
        next[size_t(ids[i]) + 1]++;
    }
    for (int64_t e = 0; e < num_experts; e++) {
        if (next[size_t(e) + 1]) pairs.active.push_back({&routed, e, next[size_t(e)], next[size_t(e) + 1]});
        next[size_t(e) + 1] += next[size_t(e)];
    }
    for (int64_t i = 0; i < num * k; i++) {
        int64_t place = next[size_t(ids[i])]++;
        pairs.token[place] = i / k;
        pairs.weight[place] = weights[i];
    }
    if (shared) {
        pairs.active.push_back({shared, 0, num * k, num});
        for (int64_t row = 0; row < num; row++) {
            pairs.token[num * k + row] = row;
            pairs.weight[num * k + row] = 1.0f;
        }
    }
    return pairs;
}

// Copy the rows that the pairs of one expert want, codes and all, so that a kernel finds them one after another.
void gather(const Active& a, const Pairs& pairs, const Rows& from, const Rows& to) {
    const int64_t columns = from.columns, groups = columns / GROUP;
    for (int64_t p = a.first; p < a.first + a.num; p++) {
        int64_t row = pairs.token[p];
        if (!has_codes(a.weights->w13.kind)) {
            memcpy(to.values + p * columns, from.values + row * columns, size_t(columns) * 4);
            continue;
        }
        memcpy(to.codes + p * columns, from.codes + row * columns, size_t(columns));
        memcpy(to.scales + p * groups, from.scales + row * groups, size_t(groups) * 4);
        memcpy(to.sums + p * groups, from.sums + row * groups, size_t(groups) * 4);
        memcpy(to.offsets + p * groups, from.offsets + row * groups, size_t(groups) * 4);
    }
}

// 32 hidden columns of one expert for all of its pairs: two strips of w1 and the two of w3 beside them.
void hidden_group(const Isa& cpu, const Active& a, int64_t group, const Rows& x, const Rows& hidden) {
    const Weight& w = a.weights->w13;
    const int64_t strips = w.rows / STRIP / 2;
    float gate[BLOCK * STRIP], up[BLOCK * STRIP];
    for (int64_t block = 0; block < a.num; block += BLOCK) {
        int64_t first = a.first + block, num = a.num - block < BLOCK ? a.num - block : BLOCK;
        for (int64_t strip = 2 * group; strip < 2 * group + 2; strip++) {
            cpu.strip(int(w.kind), strip_data(w, a.matrix, strip), x, first, num, gate);
            cpu.strip(int(w.kind), strip_data(w, a.matrix, strips + strip), x, first, num, up);
            for (int64_t m = 0; m < num; m++)
                cpu.swiglu(gate + m * STRIP, up + m * STRIP, STRIP,
                           hidden.values + (first + m) * hidden.columns + strip * STRIP);
        }
        if (has_codes(a.weights->w2.kind))
            for (int64_t m = 0; m < num; m++) cpu.round_row(hidden, first + m, group, 1);
    }
}

// 16 columns of the output, every expert in turn.
void output_strip(const Isa& cpu, const Pairs& pairs, int64_t strip, const Rows& hidden, const Rows* shared_hidden, int64_t num,
                  float* out) {
    const Weight& shape = pairs.active[0].weights->w2;
    const int64_t width = shape.rows, row = strip_row(shape, strip);
    const int64_t columns = width - row < STRIP ? width - row : STRIP;
    float part[BLOCK * STRIP];
    for (int64_t m = 0; m < num; m++) memset(out + m * width + row, 0, size_t(columns) * 4);
    for (const Active& a : pairs.active) {
        const Weight& w = a.weights->w2;
        const Rows& from = shared_hidden && w.columns != hidden.columns ? *shared_hidden : hidden;
        for (int64_t block = 0; block < a.num; block += BLOCK) {
            int64_t first = a.first + block, rows = a.num - block < BLOCK ? a.num - block : BLOCK;
            cpu.strip(int(w.kind), strip_data(w, a.matrix, strip), from, first, rows, part);
            for (int64_t m = 0; m < rows; m++)
                cpu.add_scaled(pairs.weight[first + m], part + m * STRIP, columns,
                               out + pairs.token[first + m] * width + row);
        }
    }
}

}  // namespace

void pack_weights(Call& call, const Weight& shape, int64_t matrices, const void* plain, int type, uint8_t* out) {
    const int64_t strips = num_strips(shape), bytes = strip_bytes(int(shape.kind), shape.columns);
    const int64_t row_bytes = shape.columns * (type == FLOAT32 ? 4 : 2);
    call.each(matrices * strips, true, [&](int64_t piece) {
        int64_t matrix = piece / strips, row = piece % strips * STRIP;
        int64_t num = shape.rows - row < STRIP ? shape.rows - row : STRIP;
        const char* from = static_cast<const char*>(plain) + (matrix * shape.rows + row) * row_bytes;
        call.cpu.pack(int(shape.kind), from, type, num, shape.columns, out + piece * bytes);
    });
}

void round_rows(Call& call, int kind, const Rows& rows, int64_t num) {
    if (!has_codes(kind)) return;
    call.each(num, num * rows.columns > 16384,
              [&](int64_t row) { call.cpu.round_row(rows, row, 0, rows.columns / GROUP); });
}

void multiply(Call& call, const Weight& w, const Rows& rows, int64_t num, float* out) {
    const int64_t strips = num_strips(w), step = strips_per_piece(w, call.threads);
    call.each((strips + step - 1) / step, true, [&](int64_t piece) {
        float part[BLOCK * STRIP];
        int64_t end = (piece + 1) * step < strips ? (piece + 1) * step : strips;
        for (int64_t strip = piece * step; strip < end; strip++) {
            int64_t row = strip_row(w, strip), columns = w.rows - row < STRIP ? w.rows - row : STRIP;
            for (int64_t block = 0; block < num; block += BLOCK) {
                int64_t count = num - block < BLOCK ? num - block : BLOCK;
                call.cpu.strip(int(w.kind), strip_data(w, 0, strip), rows, block, count, part);
                for (int64_t m = 0; m < count; m++)
                    memcpy(out + (block + m) * w.rows + row, part + m * STRIP, size_t(columns) * 4);
            }
        }
    });
}

void run_experts(Call& call, const ExpertWeights& routed, int64_t num_experts, const ExpertWeights* shared,
                 const Rows& rows, int64_t num, const int64_t* ids, const float* weights, int64_t k, float* out) {
    Pairs pairs = pair_up(routed, num_experts, shared, num, ids, weights, k, call);
    Rows x = call.rows(int(routed.w13.kind), pairs.num, rows.columns);
    Rows hidden = call.rows(int(routed.w2.kind), pairs.num, routed.w2.columns), wide = {};
    if (shared) wide = call.rows(int(shared->w2.kind), pairs.num, shared->w2.columns);
    call.each(int64_t(pairs.active.size()), pairs.num > 16,
              [&](int64_t i) { gather(pairs.active[size_t(i)], pairs, rows, x); });
    std::vector<int64_t> ends;  // pieces of each expert: groups of hidden columns
    for (const Active& a : pairs.active) ends.push_back((ends.empty() ? 0 : ends.back()) + a.weights->w2.columns / GROUP);
    call.each(ends.back(), true, [&](int64_t piece) {
        size_t i = 0;
        while (piece >= ends[i]) i++;
        const Active& a = pairs.active[i];
        const Rows& to = shared && a.weights == shared && wide.columns != hidden.columns ? wide : hidden;
        hidden_group(call.cpu, a, piece - (i ? ends[i - 1] : 0), x, to);
    });
    call.each(num_strips(routed.w2), true, [&](int64_t strip) {
        output_strip(call.cpu, pairs, strip, hidden, shared ? &wide : nullptr, num, out);
    });
}
