// Threads that share out the pieces of one job at a time; they spin for a moment after a job and then sleep.
#pragma once
#include <cstdint>

typedef void (*Piece)(void* context, int64_t index);

// Run piece(context, 0 .. count - 1) on the caller and up to threads - 1 workers; back when all are done. Pieces are
// taken one by one, so a thread that the system holds up delays no more than its own piece.
void run_pieces(Piece piece, void* context, int64_t count, int threads);

template <typename F>
void parallel(int64_t count, int threads, F body) {
    run_pieces([](void* context, int64_t index) { (*static_cast<F*>(context))(index); }, &body, count, threads);
}
