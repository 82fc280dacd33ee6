// What one call from Python carries through all functions: the instruction set, the threads, and memory for its length,
// which the calling thread keeps for the next call, so that no page is fetched twice.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#include "isa.h"
#include "pool.h"

class Call {
  public:
    const Isa& cpu;
    const int threads;

    Call(const Isa* cpu, int threads) : cpu(*cpu), threads(threads), arena_(kept()) {}
    Call(const Call&) = delete;
    ~Call() {
        for (void* block : more_) free(block);
        if (most_ > arena_.size) {
            free(arena_.base);
            arena_.base = static_cast<char*>(aligned_alloc(64, most_));
            arena_.size = arena_.base ? most_ : 0;
        }
    }

    // body(0 .. count - 1), on all threads of the call if there is work enough.
    template <typename F>
    void each(int64_t count, bool is_worth_it, F body) const {
        parallel(count, is_worth_it ? threads : 1, body);
    }

    template <typename T>
    T* take(int64_t count) {
        size_t bytes = (size_t(count) * sizeof(T) + 63) / 64 * 64;
        size_t at = used_;
        used_ += bytes;
        if (used_ > most_) most_ = used_;
        if (used_ <= arena_.size) return reinterpret_cast<T*>(arena_.base + at);
        void* block = aligned_alloc(64, bytes ? bytes : 64);
        if (!block) throw std::bad_alloc();
        more_.push_back(block);
        return static_cast<T*>(block);
    }

    // What was taken while one of these lived is free again when it dies.
    class Scope {
      public:
        explicit Scope(Call& call) : call_(call), used_(call.used_), blocks_(call.more_.size()) {}
        Scope(const Scope&) = delete;
        ~Scope() {
            call_.used_ = used_;
            for (; call_.more_.size() > blocks_; call_.more_.pop_back()) free(call_.more_.back());
        }

      private:
        Call& call_;
        const size_t used_, blocks_;
    };

    Rows rows(int kind, int64_t num, int64_t columns) {
        Rows rows = {};
        rows.columns = columns;
        rows.values = take<float>(num * columns);
        if (!has_codes(kind)) return rows;
        rows.codes = take<int8_t>(num * columns);
        rows.scales = take<float>(num * (columns / GROUP));
        rows.sums = take<float>(num * (columns / GROUP));
        rows.offsets = take<int32_t>(num * (columns / GROUP));
        return rows;
    }

  private:
    struct Arena {
        char* base = nullptr;
        size_t size = 0;
        ~Arena() { free(base); }
    };
    static Arena& kept() {
        static thread_local Arena arena;
        return arena;
    }
    Arena& arena_;
    size_t used_ = 0, most_ = 0;
    std::vector<void*> more_;
};
