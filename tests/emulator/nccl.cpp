// An emulated NCCL: sums over the processes of one machine, through shared memory, in the order of ranks.
//
// libnccl.so.2 with the functions that the product calls (names and numbers of nccl.h, version 2). What a process adds is copied to its place
// in a file under /dev/shm, when its stream comes to it; then each sums all places, the first process's first, so that all have the
// same bits. Processes wait for one another with a limit, after which this ends the process.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <memory>
#include <string>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>

#include "driver.h"

extern "C" CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void *data);

namespace {
constexpr size_t place_bytes = 1 << 20;
constexpr int success = 0, system_error = 2, invalid_argument = 4, float32 = 7, float64 = 8;
constexpr int sum = 0, processes_max = 16;
constexpr auto patience = std::chrono::seconds(120);

struct Shared {
    std::atomic<int> arrived, round, joined;
    alignas(4096) unsigned char places[];
};

struct Comm {
    Shared *shared;
    std::string name;
    size_t bytes;
    int ranks, rank;
};

[[noreturn]] void give_up(const char *why) {
    fprintf(stderr, "emulated NCCL: %s\n", why);
    abort();
}

template <class Condition> void wait_until(Condition condition) {
    auto begun = std::chrono::steady_clock::now();
    while (!condition()) {
        if (std::chrono::steady_clock::now() - begun > patience) give_up("the other processes did not come");
        std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
}

void barrier(Comm &comm) {
    int round = comm.shared->round.load();
    if (comm.shared->arrived.fetch_add(1) + 1 == comm.ranks) {
        comm.shared->arrived = 0;
        comm.shared->round = round + 1;
    } else {
        wait_until([&] { return comm.shared->round.load() != round; });
    }
}

template <class T> void add(Comm &comm, const T *from, T *to, size_t count) {
    constexpr size_t each = place_bytes / sizeof(T);
    for (size_t first = 0; first < count; first += each) {
        size_t n = std::min(each, count - first);
        auto place = [&](int rank) { return reinterpret_cast<T *>(comm.shared->places + static_cast<size_t>(rank) * place_bytes); };
        memcpy(place(comm.rank), from + first, n * sizeof(T));
        barrier(comm);
        for (size_t i = 0; i < n; i++) {
            T total = place(0)[i];
            for (int rank = 1; rank < comm.ranks; rank++) total += place(rank)[i];
            to[first + i] = total;
        }
        barrier(comm); // nobody writes before all have read
    }
}

struct Work {
    Comm *comm;
    const void *from;
    void *to;
    size_t count;
    int kind;
};

void run(void *data) {
    std::unique_ptr<Work> work(static_cast<Work *>(data));
    if (work->kind == float32) add(*work->comm, static_cast<const float *>(work->from), static_cast<float *>(work->to), work->count);
    else add(*work->comm, static_cast<const double *>(work->from), static_cast<double *>(work->to), work->count);
}
} // namespace

struct ncclUniqueId {
    char internal[128];
};

EMULATED_API int ncclGetUniqueId(ncclUniqueId *id) {
    static std::atomic<int> count;
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "/emulated-nccl-%d-%d", static_cast<int>(getpid()), count++);
    return success;
}

EMULATED_API int ncclCommInitRank(Comm **ret, int ranks, ncclUniqueId id, int rank) {
    if (ranks < 1 || ranks > processes_max || rank < 0 || rank >= ranks) return invalid_argument;
    auto comm = std::make_unique<Comm>();
    comm->name = std::string(id.internal, strnlen(id.internal, sizeof id.internal));
    comm->bytes = sizeof(Shared) + place_bytes * static_cast<size_t>(ranks);
    comm->ranks = ranks;
    comm->rank = rank;
    int file = shm_open(comm->name.c_str(), O_RDWR | O_CREAT, 0600);
    // A new file is all zeros, which is how everything in it begins.
    if (file < 0 || ftruncate(file, static_cast<off_t>(comm->bytes)) != 0) return system_error;
    void *mapping = mmap(nullptr, comm->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapping == MAP_FAILED) return system_error;
    comm->shared = static_cast<Shared *>(mapping);
    comm->shared->joined++;
    wait_until([&] { return comm->shared->joined.load() >= ranks; });
    barrier(*comm);
    if (rank == 0) shm_unlink(comm->name.c_str());
    *ret = comm.release();
    return success;
}

EMULATED_API int ncclAllReduce(const void *from, void *to, size_t count, int kind, int operation, Comm *comm, CUstream stream) {
    if (!comm || operation != sum || (kind != float32 && kind != float64)) return invalid_argument;
    return cuLaunchHostFunc(stream, run, new Work{comm, from, to, count, kind}) == 0 ? success : invalid_argument;
}

static int end(Comm *comm) {
    if (!comm) return invalid_argument;
    munmap(comm->shared, comm->bytes);
    delete comm;
    return success;
}
EMULATED_API int ncclCommDestroy(Comm *comm) { return end(comm); }
EMULATED_API int ncclCommAbort(Comm *comm) { return end(comm); }

EMULATED_API const char *ncclGetErrorString(int code) {
    switch (code) {
        case success: return "no error";
        case system_error: return "unhandled system error";
        case invalid_argument: return "invalid argument";
        default: return "unknown result code";
    }
}
