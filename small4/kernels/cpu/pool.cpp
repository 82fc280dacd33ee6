// One job is published at a time. Each thread has its share of the pieces, one run from front to back, so that what it
// reads lies in a row and is fetched ahead; who has done its own helps with the others'. Pieces are claimed by counting
// down the low half of a share's `ticket`; the high half is the job's number, so that a late worker can never claim a
// piece of a job that has ended: a job ends only when each of its pieces has been claimed and finished.
#include "pool.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>

namespace {

const int MAX_THREADS = 256;
const auto SPIN = std::chrono::microseconds(40);  // about what lies between two jobs of one pass

void pause_cpu() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

struct Share {
    alignas(64) std::atomic<uint64_t> ticket{0};
    int64_t end = 0;  // behind the share's last piece

    bool is_empty() const { return uint32_t(ticket.load()) == 0; }
};

struct Pool {
    std::mutex one_caller;  // another caller meanwhile does its job alone
    Share shares[MAX_THREADS];
    uint64_t num_jobs = 0;
    alignas(64) std::atomic<int64_t> finished{0};
    alignas(64) std::atomic<int> sleepers{0};
    std::atomic<int> wanted{0};  // workers that may take part in the present job
    std::mutex sleep;
    std::condition_variable wake;
    Piece piece = nullptr;
    void* context = nullptr;
    int started = 0;

    bool take_one(Share& share) {
        uint64_t seen = share.ticket.load(std::memory_order_acquire);
        while (uint32_t(seen) != 0) {
            if (share.ticket.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel)) {
                piece(context, share.end - int64_t(uint32_t(seen)));
                finished.fetch_add(1, std::memory_order_acq_rel);
                return true;
            }
        }
        return false;
    }

    // The own share first, then those of the others.
    void take_all(int number, int num_shares) {
        for (int i = 0; i < num_shares; i++)
            while (take_one(shares[(number + i) % num_shares])) {
            }
    }

    bool has_work(int number) {
        int num_shares = wanted.load() + 1;
        if (number >= num_shares) return false;
        for (int i = 0; i < num_shares; i++)
            if (!shares[i].is_empty()) return true;
        return false;
    }

    void work(int number) {
        for (;;) {
            auto until = std::chrono::steady_clock::now() + SPIN;
            while (!has_work(number) && std::chrono::steady_clock::now() < until) pause_cpu();
            if (!has_work(number)) {
                std::unique_lock<std::mutex> lock(sleep);
                sleepers.fetch_add(1);
                wake.wait(lock, [&] { return has_work(number); });
                sleepers.fetch_sub(1);
            }
            if (has_work(number)) take_all(number, wanted.load() + 1);
        }
    }

    void start(int workers) {
        for (; started < workers; started++) {
            try {
                std::thread(&Pool::work, this, started + 1).detach();
            } catch (const std::system_error&) {
                return;  // the caller and the workers that there are do everything
            }
        }
    }

    void run(Piece job, void* job_context, int64_t count, int workers) {
        start(workers);
        piece = job;
        context = job_context;
        finished.store(0);
        wanted.store(workers);
        num_jobs++;
        for (int64_t i = 0; i <= workers; i++) {
            int64_t begin = count * i / (workers + 1);
            shares[i].end = count * (i + 1) / (workers + 1);
            shares[i].ticket.store(num_jobs << 32 | uint64_t(shares[i].end - begin));
        }
        if (sleepers.load() > 0) {
            std::lock_guard<std::mutex> lock(sleep);
            wake.notify_all();
        }
        take_all(0, workers + 1);
        // A worker that the system has put aside gets this thread's time, on a machine with more to do than processors.
        auto until = std::chrono::steady_clock::now() + SPIN;
        while (finished.load(std::memory_order_acquire) != count) {
            if (std::chrono::steady_clock::now() < until) {
                pause_cpu();
            } else {
                std::this_thread::yield();
            }
        }
    }
};

std::atomic<Pool*> the_pool{nullptr};  // never deleted: workers may outlive every destructor

Pool* pool() {
    Pool* found = the_pool.load(std::memory_order_acquire);
    if (found) return found;
    static std::once_flag at_fork;
    std::call_once(at_fork, [] { pthread_atfork(nullptr, nullptr, [] { the_pool.store(nullptr); }); });  // no workers there
    Pool* fresh = new Pool;
    if (the_pool.compare_exchange_strong(found, fresh)) return fresh;
    delete fresh;
    return found;
}

}  // namespace

void run_pieces(Piece piece, void* context, int64_t count, int threads) {
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads > 1 && count > 1 && count <= UINT32_MAX) {
        Pool* shared = pool();
        std::unique_lock<std::mutex> alone(shared->one_caller, std::try_to_lock);
        if (alone.owns_lock()) {
            shared->run(piece, context, count, int(threads - 1 < count - 1 ? threads - 1 : count - 1));
            return;
        }
    }
    for (int64_t index = 0; index < count; index++) piece(context, index);
}
