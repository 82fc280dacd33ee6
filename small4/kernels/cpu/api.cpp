// What Python calls, in plain C: pointers into tensors that the caller keeps alive. 0 is success, 1 out of memory,
// 2 a number in the arguments that points outside.
#include <cstring>
#include <new>
#include <stdexcept>

#include "attention.h"
#include "block.h"
#include "call.h"
#include "isa.h"
#include "matmul.h"

namespace {

const Isa* supported(const char* name) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vnni");
    if (has_avx512 && (!name || !strcmp(name, AVX512_ISA.name))) return &AVX512_ISA;
    bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (has_avx2 && (!name || !strcmp(name, AVX2_ISA.name))) return &AVX2_ISA;
#endif
    return !name || !strcmp(name, PLAIN_ISA.name) ? &PLAIN_ISA : nullptr;
}

template <typename F>
int guarded(F body) {
    try {
        body();
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    } catch (const std::out_of_range&) {
        return 2;
    }
}

void convert(Call& call, const void* in, int type, int64_t rows, int64_t columns, float* out) {
    const int64_t bytes = columns * (type == FLOAT32 ? 4 : 2);
    call.each(rows, rows * columns > 65536, [&](int64_t row) {
        call.cpu.to_float(static_cast<const char*>(in) + row * bytes, type, columns, out + row * columns);
    });
}

void convert_back(Call& call, const float* in, int64_t rows, int64_t columns, int type, void* out) {
    const int64_t bytes = columns * (type == FLOAT32 ? 4 : 2);
    call.each(rows, rows * columns > 65536, [&](int64_t row) {
        call.cpu.from_float(in + row * columns, columns, type, static_cast<char*>(out) + row * bytes);
    });
}

}  // namespace

extern "C" {

// An instruction set by name, or the best one by null; null where this processor has it not.
const Isa* small4_isa(const char* name) { return supported(name); }

const char* small4_isa_name(const Isa* cpu) { return cpu->name; }

int small4_pack(const Isa* cpu, int threads, const Weight* shape, int64_t matrices, const void* plain, int type,
                void* strips) {
    return guarded([&] {
        Call call(cpu, threads);
        pack_weights(call, *shape, matrices, plain, type, static_cast<uint8_t*>(strips));
    });
}

int small4_linear(const Isa* cpu, int threads, const Weight* w, const void* x, int type, int64_t num, void* out) {
    return guarded([&] {
        Call call(cpu, threads);
        Rows rows = call.rows(int(w->kind), num, w->columns);
        float* products = type == FLOAT32 ? static_cast<float*>(out) : call.take<float>(num * w->rows);
        convert(call, x, type, num, w->columns, rows.values);
        round_rows(call, int(w->kind), rows, num);
        multiply(call, *w, rows, num, products);
        if (type != FLOAT32) convert_back(call, products, num, w->rows, type, out);
    });
}

int small4_experts(const Isa* cpu, int threads, const ExpertWeights* routed, int64_t num_experts,
                   const ExpertWeights* shared, const void* x, int type, int64_t num, const int64_t* ids,
                   const float* weights, int64_t k, void* out) {
    return guarded([&] {
        Call call(cpu, threads);
        const int64_t columns = routed->w13.columns, width = routed->w2.rows;
        Rows rows = call.rows(int(routed->w13.kind), num, columns);
        float* sums = type == FLOAT32 ? static_cast<float*>(out) : call.take<float>(num * width);
        convert(call, x, type, num, columns, rows.values);
        round_rows(call, int(routed->w13.kind), rows, num);
        run_experts(call, *routed, num_experts, shared, rows, num, ids, weights, k, sums);
        if (type != FLOAT32) convert_back(call, sums, num, width, type, out);
    });
}

// `pages->query` is [queries, heads, width] in `type` and not yet scaled; so is `out`, [queries, heads, latent].
int small4_attention(const Isa* cpu, int threads, const PagedAttention* pages, int type, float scale, void* out) {
    return guarded([&] {
        Call call(cpu, threads);
        const int64_t queries = int64_t(pages->starts[pages->sequences]) * pages->heads;
        PagedAttention ready = *pages;
        float* query = call.take<float>((queries + 4) * pages->width);
        call.cpu.to_float(pages->query, type, queries * pages->width, query);
        memset(query + queries * pages->width, 0, size_t(4 * pages->width) * 4);
        for (int64_t i = 0; i < queries * pages->width; i++) query[i] *= scale;
        ready.query = query;
        float* mixed = type == FLOAT32 ? static_cast<float*>(out) : call.take<float>(queries * pages->latent);
        attend_pages(call, ready, mixed);
        if (type != FLOAT32) convert_back(call, mixed, queries, pages->latent, type, out);
    });
}

// The pass's tokens as Python has them, all in one type.
struct RawTokens {
    int64_t num;
    const void *cos, *sin, *growth;  // growth may be null
};

int small4_block_front(const Isa* cpu, int threads, const Block* block, const RawTokens* raw, const void* x, int type,
                       int is_absorbed, void* query, void* rows) {
    return guarded([&] {
        Call call(cpu, threads);
        const int64_t num = raw->num, half = block->rope / 2, row_width = block->latent + block->rope;
        const int64_t query_width = block->heads * (is_absorbed ? row_width : block->nope + block->rope);
        float *cos = call.take<float>(num * half), *sin = call.take<float>(num * half), *growth = call.take<float>(num);
        call.cpu.to_float(raw->cos, type, num * half, cos);
        call.cpu.to_float(raw->sin, type, num * half, sin);
        if (raw->growth) call.cpu.to_float(raw->growth, type, num, growth);
        Tokens tokens = {num, cos, sin, raw->growth ? growth : nullptr};
        float* wide = call.take<float>(num * block->width);
        float* wide_query = call.take<float>(num * query_width);
        float* wide_rows = call.take<float>(num * row_width);
        convert(call, x, type, num, block->width, wide);
        block_front(call, *block, tokens, wide, is_absorbed != 0, wide_query, wide_rows);
        convert_back(call, wide_query, num, query_width, type, query);
        convert_back(call, wide_rows, num, row_width, type, rows);
    });
}

int small4_block_back(const Isa* cpu, int threads, const Block* block, int64_t num, const void* x, const void* attended,
                      int type, int is_absorbed, void* out) {
    return guarded([&] {
        Call call(cpu, threads);
        const int64_t width = block->heads * (is_absorbed ? block->latent : block->value);
        float* wide = call.take<float>(num * block->width);
        float* wide_attended = call.take<float>(num * width);
        convert(call, x, type, num, block->width, wide);
        convert(call, attended, type, num, width, wide_attended);
        block_back(call, *block, num, wide_attended, is_absorbed != 0, wide);
        convert_back(call, wide, num, block->width, type, out);
    });
}
}
