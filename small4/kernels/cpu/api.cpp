// What Python calls, in plain C: pointers into tensors that the caller keeps alive. 0 is success, 1 out of memory,
// 2 a number in the arguments that points outside.
#include <sys/mman.h>

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
    bool has_halves = has_avx512 && __builtin_cpu_supports("avx512bf16");
    if (has_halves && (!name || !strcmp(name, AVX512_BF16_ISA.name))) return &AVX512_BF16_ISA;
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

// Weights are read from end to end once a token; on pages of 2 MB that costs the processor far fewer translations of
// addresses, in a virtual machine half of the time. Pages that are filled already are collected into such ones. A hint:
// nothing depends on it.
void ask_for_huge_pages(const void* from, size_t bytes) {
#if defined(__linux__)
    const int COLLAPSE = 25;  // MADV_COLLAPSE, which older headers do not name
    const uintptr_t page = 2 << 20, begin = (reinterpret_cast<uintptr_t>(from) + page - 1) / page * page;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(from) + bytes) / page * page;
    if (begin >= end) return;
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
    madvise(reinterpret_cast<void*>(begin), end - begin, COLLAPSE);
#else
    (void)from, (void)bytes;
#endif
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
        ask_for_huge_pages(strips, size_t(matrices * matrix_bytes(*shape)));
    });
}

void small4_huge_pages(const void* from, int64_t bytes) { ask_for_huge_pages(from, size_t(bytes)); }

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

int small4_store_rows(const Isa* cpu, int threads, const Pages* pages, const void* rows, int type) {
    return guarded([&] {
        check_pages(*pages);
        Call call(cpu, threads);
        float* wide = call.take<float>(num_tokens(*pages) * pages->width);
        convert(call, rows, type, num_tokens(*pages), pages->width, wide);
        store_rows(call, *pages, wide);
    });
}

// `query` is [num, heads, width] in `type` and not yet scaled; so is `out`, [num, heads, latent].
int small4_attention(const Isa* cpu, int threads, const Pages* pages, int64_t num, int64_t heads, int64_t latent,
                     const void* query, int type, float scale, void* out) {
    return guarded([&] {
        check_pages(*pages);
        if (num != num_tokens(*pages)) throw std::out_of_range("queries");
        Call call(cpu, threads);
        const int64_t count = num * heads * pages->width;
        float* wide = call.take<float>(count + 4 * pages->width);
        cpu->to_float(query, type, count, wide);
        memset(wide + count, 0, size_t(4 * pages->width) * 4);
        for (int64_t i = 0; i < count; i++) wide[i] *= scale;
        float* mixed = type == FLOAT32 ? static_cast<float*>(out) : call.take<float>(num * heads * latent);
        attend_pages(call, *pages, wide, type, heads, latent, mixed);
        if (type != FLOAT32) convert_back(call, mixed, num * heads, latent, type, out);
    });
}

// The pass's tokens as Python has them, all in one type.
struct RawTokens {
    int64_t num;
    const void *cos, *sin, *growth;  // growth may be null
};

static Tokens read_tokens(Call& call, const RawTokens& raw, int64_t half, int type) {
    float* cos = call.take<float>(raw.num * half);
    float* sin = call.take<float>(raw.num * half);
    float* growth = raw.growth ? call.take<float>(raw.num) : nullptr;
    call.cpu.to_float(raw.cos, type, raw.num * half, cos);
    call.cpu.to_float(raw.sin, type, raw.num * half, sin);
    if (growth) call.cpu.to_float(raw.growth, type, raw.num, growth);
    return {raw.num, cos, sin, growth};
}

// All layers have the widths of the first.
int small4_chain(const Isa* cpu, int threads, const Chain* chain, const RawTokens* raw, const Pages* pages, float scale,
                 const void* x, int type, void* out) {
    return guarded([&] {
        check_pages(*pages);
        if (raw->num != num_tokens(*pages)) throw std::out_of_range("tokens");
        Call call(cpu, threads);
        const int64_t width = chain->blocks[0]->width;
        Tokens tokens = read_tokens(call, *raw, chain->blocks[0]->rope / 2, type);
        float* wide = type == FLOAT32 ? static_cast<float*>(out) : call.take<float>(raw->num * width);
        convert(call, x, type, raw->num, width, wide);
        run_chain(call, *chain, tokens, *pages, scale, type, wide);
        if (type != FLOAT32) convert_back(call, wide, raw->num, width, type, out);
    });
}

int small4_block_front(const Isa* cpu, int threads, const Block* block, const RawTokens* raw, const void* x, int type,
                       void* query, void* rows) {
    return guarded([&] {
        Call call(cpu, threads);
        const int64_t num = raw->num, row_width = block->latent + block->rope;
        const int64_t query_width = block->heads * (block->nope + block->rope);
        Tokens tokens = read_tokens(call, *raw, block->rope / 2, type);
        float* wide = call.take<float>(num * block->width);
        float* wide_query = call.take<float>(num * query_width);
        float* wide_rows = call.take<float>(num * row_width);
        convert(call, x, type, num, block->width, wide);
        block_front(call, *block, tokens, wide, wide_query, wide_rows);
        convert_back(call, wide_query, num, query_width, type, query);
        convert_back(call, wide_rows, num, row_width, type, rows);
    });
}

int small4_block_back(const Isa* cpu, int threads, const Block* block, int64_t num, const void* x, const void* values,
                      int type, void* out) {
    return guarded([&] {
        Call call(cpu, threads);
        const int64_t width = block->heads * block->value;
        float* wide = call.take<float>(num * block->width);
        float* wide_values = call.take<float>(num * width);
        convert(call, x, type, num, block->width, wide);
        convert(call, values, type, num, width, wide_values);
        block_back(call, *block, num, wide_values, wide);
        convert_back(call, wide, num, block->width, type, out);
    });
}
}
