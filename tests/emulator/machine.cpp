// Runs the blocks of a launch: fibers, barriers, operations of a warp, faults.
#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>

#include "internal.h"

#ifndef __x86_64__
#error "the fibers of the emulator are written for x86-64"
#endif

using emulated::Thread;
using emulated::WarpOp;

thread_local Thread *emulated_current __attribute__((tls_model("initial-exec")));

// Saves the caller's registers on its stack and the stack pointer in *save, and goes on where `load` was saved.
extern "C" void emulated_switch(void **save, void *load);
__asm__(R"(
    .text
    .hidden emulated_switch
    .globl emulated_switch
    .type emulated_switch, @function
emulated_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulated_switch, .-emulated_switch
)");

namespace emulated {

// Asked for at each change of threads.
static const Settings::Order order = settings().order;
static const bool races_are_sought = settings().races;

constexpr unsigned threads_max = 1024, warps_max = threads_max / 32;
constexpr size_t page = 4096, dynamic_bytes_max = 256 << 10;

// What a lane waits for.
struct Waiting {
    WarpOp op;
    unsigned mask;
    uint64_t value, result;
    int argument, width;
};

struct Warp {
    unsigned exists, ended, runnable, at_barrier, arrived; // bits of lanes
    Waiting lanes[32];
};

struct Stack {
    char *low;
};

// What runs blocks, one at a time: the fibers of one thread of the operating system.
struct Worker {
    Block block{};
    Thread threads[threads_max]{};
    Warp warps[warps_max]{};
    unsigned warp_count = 0, thread_count = 0, live = 0, waiting = 0;
    unsigned runnable_warps = 0;
    int barrier_sum = 0, barrier_result = 0;
    uint64_t random = 1;
    std::vector<char *> free_stacks;
    void *main = nullptr; // stack pointer of run_block while fibers run
    bool failed = false;
    char *dynamic_end = nullptr;
    SharedMemory shared{};
    const Source *shared_of = nullptr;

    void run_block(const Launch &launch, uint3 index);
    Thread *next();
    Thread *next_or_resolve();
    void go(Thread *to, void **save);
    void ended(Thread *thread);
    void resolve();
    char *stack();
};

const SharedMemory &shared_memory(const Worker &worker) { return worker.shared; }

std::string place(void *pc) {
    Dl_info info;
    if (!dladdr(pc, &info) || !info.dli_fname) return "?";
    char command[700], line[400];
    snprintf(command, sizeof command, "addr2line -s -e '%s' %#lx 2>/dev/null", info.dli_fname,
             static_cast<unsigned long>(static_cast<char *>(pc) - static_cast<char *>(info.dli_fbase)));
    std::string found = info.dli_sname ? info.dli_sname : info.dli_fname;
    if (FILE *pipe = popen(command, "r")) {
        if (fgets(line, sizeof line, pipe) && line[0] != '?') {
            line[strcspn(line, "\n ")] = 0;
            found = line;
        }
        pclose(pipe);
    }
    return found;
}

namespace {

const char *name(WarpOp op) {
    switch (op) {
    case WarpOp::sync: return "__syncwarp";
    case WarpOp::ballot: return "a vote";
    case WarpOp::shuffle: return "__shfl_sync";
    case WarpOp::shuffle_up: return "__shfl_up_sync";
    case WarpOp::shuffle_down: return "__shfl_down_sync";
    case WarpOp::shuffle_xor: return "__shfl_xor_sync";
    case WarpOp::none: return "nothing";
    default: return "a reduction";
    }
}

thread_local Worker *worker_here; // the kernel-side pointer above stays the only one that kernels read

[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Leaves the block: all its fibers are forgotten.
[[noreturn]] void abandon() {
    Worker &worker = *emulated_current->block->worker;
    worker.failed = true;
    void *ignored;
    emulated_switch(&ignored, worker.main);
    __builtin_unreachable();
}

void report(const char *text) {
    Thread *thread = emulated_current;
    if (!thread) {
        say("%s", text);
        return;
    }
    const Block &block = *thread->block;
    say("kernel %s, block (%u,%u,%u) of (%u,%u,%u), thread (%u,%u,%u) of (%u,%u,%u): %s", block.launch->kernel->name,
        block.index.x, block.index.y, block.index.z, block.grid_dim.x, block.grid_dim.y, block.grid_dim.z,
        thread->index.x, thread->index.y, thread->index.z, block.block_dim.x, block.block_dim.y, block.block_dim.z, text);
}

void fail(const char *format, ...) {
    char text[700];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    report(text);
    if (settings().fault_is_error && emulated_current) abandon();
    abort();
}

struct sigaction old_actions[65];

void on_signal(int signal, siginfo_t *info, void *context) {
    Thread *thread = emulated_current;
    if (!thread || thread->block->worker != worker_here) {
        // Not ours: as it was before.
        sigaction(signal, &old_actions[signal], nullptr);
        return; // the instruction runs again
    }
    auto *registers = static_cast<ucontext_t *>(context);
    void *pc = reinterpret_cast<void *>(registers->uc_mcontext.gregs[REG_RIP]);
    char text[600];
    if (signal == SIGSEGV || signal == SIGBUS) {
        char *low = static_cast<char *>(thread->stack), *at = static_cast<char *>(info->si_addr);
        bool write = registers->uc_mcontext.gregs[REG_ERR] & 2;
        if (at >= low - page && at < low + 256) {
            snprintf(text, sizeof text, "its stack of %zu bytes is full, at %s", stack_bytes, place(pc).c_str());
        } else if (info->si_code == SI_KERNEL) {
            snprintf(text, sizeof text, "an access to an address that is no multiple of the size, or to no address at all, at %s", place(pc).c_str());
        } else {
            snprintf(text, sizeof text, "%s an address it may not, at %s: %s", write ? "wrote to" : "read from",
                     place(pc).c_str(), memory::describe(at).c_str());
        }
    } else {
        snprintf(text, sizeof text, "%s, at %s", signal == SIGFPE ? "divided an integer by 0" : "an instruction that is none", place(pc).c_str());
    }
    report(text);
    if (!settings().fault_is_error) abort();
    // Goes on in abandon(), on the fiber's stack.
    uintptr_t stack = (reinterpret_cast<uintptr_t>(thread->stack) + stack_bytes / 2) & ~uintptr_t(63);
    registers->uc_mcontext.gregs[REG_RSP] = static_cast<greg_t>(stack - 8);
    registers->uc_mcontext.gregs[REG_RIP] = reinterpret_cast<greg_t>(&abandon);
}

// Faults are handled on a stack of their own: a fiber's may be what is full.
void handle_signals() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action {};
        action.sa_sigaction = on_signal;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigemptyset(&action.sa_mask);
        for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigaction(signal, &action, &old_actions[signal]);
    });
    static thread_local bool has_stack;
    if (!has_stack) {
        has_stack = true;
        stack_t now{};
        sigaltstack(nullptr, &now);
        if (now.ss_flags & SS_DISABLE || now.ss_size < (64 << 10)) {
            stack_t own{};
            own.ss_size = 256 << 10;
            own.ss_sp = mmap(nullptr, own.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (own.ss_sp != MAP_FAILED) sigaltstack(&own, nullptr);
        }
    }
}

uint64_t scramble(uint64_t x) { // splitmix64
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

unsigned lowest(unsigned bits) { return static_cast<unsigned>(__builtin_ctz(bits)); }
unsigned highest(unsigned bits) { return 31 - static_cast<unsigned>(__builtin_clz(bits)); }
// The n-th bit that is set.
unsigned nth(unsigned bits, unsigned n) {
    while (n--) bits &= bits - 1;
    return lowest(bits);
}

// Gives each lane of a shuffle the value of its source.
void exchange(Warp &warp, WarpOp op, unsigned mask) {
    for (unsigned rest = mask; rest; rest &= rest - 1) {
        int lane = static_cast<int>(lowest(rest));
        Waiting &w = warp.lanes[lane];
        int segment = lane & ~(w.width - 1), end = segment + w.width, source = lane;
        switch (op) {
        case WarpOp::shuffle: source = segment + (w.argument & (w.width - 1)); break;
        case WarpOp::shuffle_up: source = lane - w.argument; break;
        case WarpOp::shuffle_down: source = lane + w.argument; break;
        default: source = lane ^ w.argument; // lanes of a lower segment may be read, those of a higher one not
        }
        if (source >= end || source < 0 || (op == WarpOp::shuffle_up && source < segment)) source = lane;
        if (!(mask >> source & 1)) {
            fail("%s with mask %#x: lane %d reads from lane %d, which takes no part", name(op), mask, lane, source);
        }
        w.result = warp.lanes[source].value;
    }
}

// The result of a vote or a reduction.
uint64_t combine(const Warp &warp, WarpOp op, unsigned mask) {
    auto i32 = [](uint64_t v) { return static_cast<int32_t>(v); };
    auto u32 = [](uint64_t v) { return static_cast<uint32_t>(v); };
    uint64_t all = 0;
    bool first = true;
    for (unsigned rest = mask; rest; rest &= rest - 1) {
        uint64_t value = warp.lanes[lowest(rest)].value;
        switch (op) {
        case WarpOp::ballot: all |= value ? uint64_t(1) << lowest(rest) : 0; break;
        case WarpOp::add: all = u32(all + value); break;
        case WarpOp::max_signed: all = first || i32(value) > i32(all) ? value : all; break;
        case WarpOp::min_signed: all = first || i32(value) < i32(all) ? value : all; break;
        case WarpOp::max_unsigned: all = first || u32(value) > u32(all) ? value : all; break;
        case WarpOp::min_unsigned: all = first || u32(value) < u32(all) ? value : all; break;
        case WarpOp::bit_or: all |= value; break;
        default: all = first ? value : all & value; // bit_and
        }
        first = false;
    }
    return all;
}

// The body of every fiber: runs threads that have not begun until there are none, then goes on with one that waits.
void fiber() {
    for (;;) {
        Thread *thread = emulated_current;
        Worker &worker = *thread->block->worker;
        char *stack = static_cast<char *>(thread->stack);
        thread->block->launch->invocation->call();
        worker.ended(thread);
        Thread *next = worker.live ? worker.next_or_resolve() : nullptr;
        if (next && !next->stack_pointer) {
            next->stack = stack;
            emulated_current = next;
            continue;
        }
        worker.free_stacks.push_back(stack);
        void *ignored;
        if (!next) {
            emulated_switch(&ignored, worker.main);
        } else {
            worker.go(next, &ignored);
        }
        __builtin_unreachable();
    }
}

} // namespace

char *Worker::stack() {
    if (free_stacks.empty()) {
        // The tops of stacks are set apart, so that they do not share the same few lines of the cache.
        static std::atomic<unsigned> made;
        size_t apart = (made++ % 61) * 192;
        char *mapping = static_cast<char *>(
            mmap(nullptr, stack_bytes + 2 * page + 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        if (mapping == MAP_FAILED || mprotect(mapping, page, PROT_NONE) != 0) {
            say("no memory for the stack of a thread");
            abort();
        }
        free_stacks.push_back(mapping + page + apart);
    }
    char *low = free_stacks.back();
    free_stacks.pop_back();
    return low;
}

// The thread whose turn it is, or null if all wait.
Thread *Worker::next() {
    if (!runnable_warps) return nullptr;
    unsigned warp, lane;
    switch (order) {
    case Settings::Order::forward:
        warp = lowest(runnable_warps);
        lane = lowest(warps[warp].runnable);
        break;
    case Settings::Order::reverse:
        warp = highest(runnable_warps);
        lane = highest(warps[warp].runnable);
        break;
    default:
        random = random * 6364136223846793005u + 1442695040888963407u;
        warp = nth(runnable_warps, static_cast<unsigned>(random >> 33) % static_cast<unsigned>(__builtin_popcount(runnable_warps)));
        lane = nth(warps[warp].runnable,
                   static_cast<unsigned>(random >> 45) % static_cast<unsigned>(__builtin_popcount(warps[warp].runnable)));
    }
    return &threads[warp * 32 + lane];
}

// All wait: ends the wait at the barrier if everyone is there.
void Worker::resolve() {
    if (waiting == live && waiting > 0) {
        if (live < thread_count) fail("%u of the block's %u threads ended without reaching the __syncthreads() at which the others wait", thread_count - live, thread_count);
        barrier_result = barrier_sum;
        barrier_sum = 0;
        waiting = 0;
        for (unsigned w = 0; w < warp_count; w++) {
            warps[w].runnable = warps[w].at_barrier;
            warps[w].at_barrier = 0;
            if (warps[w].runnable) runnable_warps |= 1u << w;
        }
        if (races_are_sought) races::block_barrier();
        return;
    }
    for (unsigned w = 0; w < warp_count; w++) {
        if (!warps[w].arrived) continue;
        unsigned lane = lowest(warps[w].arrived);
        const Waiting &what = warps[w].lanes[lane];
        emulated_current = &threads[w * 32 + lane];
        fail("waits for ever in %s for the lanes %#x: of them %#x have ended, %#x wait at __syncthreads(), %#x in other operations", name(what.op),
             what.mask, what.mask & warps[w].ended, what.mask & warps[w].at_barrier, what.mask & warps[w].arrived & ~(1u << lane));
    }
    fail("no thread of the block can go on");
}

Thread *Worker::next_or_resolve() {
    Thread *thread = next();
    if (thread) return thread;
    resolve();
    return next();
}

// Goes on with another thread; returns when the caller's turn has come again.
void Worker::go(Thread *to, void **save) {
    emulated_current = to;
    if (!to->stack_pointer) {
        to->stack = stack();
        // As if fiber() had been called: the return address that it never uses lies above.
        auto **top = reinterpret_cast<void **>((reinterpret_cast<uintptr_t>(to->stack) + stack_bytes) & ~uintptr_t(15));
        *--top = nullptr;
        *--top = reinterpret_cast<void *>(&fiber);
        for (int i = 0; i < 6; i++) *--top = nullptr;
        to->stack_pointer = top;
    }
    emulated_switch(save, to->stack_pointer);
}

void Worker::ended(Thread *thread) {
    Warp &warp = warps[thread->number / 32];
    unsigned bit = 1u << (thread->number % 32);
    warp.ended |= bit;
    warp.runnable &= ~bit;
    if (!warp.runnable) runnable_warps &= ~(1u << (thread->number / 32));
    thread->stack_pointer = nullptr;
    live--;
}

// Finds the source's static shared memory of this thread of the operating system.
static void find_shared(Worker &worker, const Source &source) {
    struct Wanted {
        void *within;
        char *begin;
        size_t bytes;
    } wanted{source.shared(), nullptr, 0};
    dl_iterate_phdr(
        [](dl_phdr_info *info, size_t, void *data) {
            auto *wanted = static_cast<Wanted *>(data);
            if (!info->dlpi_tls_data) return 0;
            for (int i = 0; i < info->dlpi_phnum; i++) {
                if (info->dlpi_phdr[i].p_type != PT_TLS) continue;
                char *begin = static_cast<char *>(info->dlpi_tls_data);
                if (wanted->within >= begin && wanted->within < begin + info->dlpi_phdr[i].p_memsz) {
                    wanted->begin = begin;
                    wanted->bytes = info->dlpi_phdr[i].p_memsz;
                    return 1;
                }
            }
            return 0;
        },
        &wanted);
    worker.shared.fixed = wanted.begin;
    worker.shared.fixed_bytes = wanted.bytes;
}

void Worker::run_block(const Launch &launch, uint3 index) {
    unsigned count = launch.block.x * launch.block.y * launch.block.z;
    bool as_before = block.launch && thread_count == count && block.block_dim.x == launch.block.x && block.block_dim.y == launch.block.y;
    block.index = index;
    block.block_dim = launch.block;
    block.grid_dim = launch.grid;
    block.worker = this;
    block.launch = &launch;
    if (!as_before) {
        for (unsigned t = 0; t < count; t++) {
            unsigned x = t % launch.block.x, yz = t / launch.block.x;
            threads[t] = Thread{uint3{x, yz % launch.block.y, yz / launch.block.y}, &block, t, nullptr, nullptr};
        }
    }
    thread_count = live = count;
    waiting = 0;
    barrier_sum = 0;
    warp_count = (count + 31) / 32;
    runnable_warps = warp_count == 32 ? ~0u : (1u << warp_count) - 1;
    for (unsigned w = 0; w < warp_count; w++) {
        unsigned lanes = count - w * 32;
        Warp &warp = warps[w];
        warp.exists = warp.runnable = lanes >= 32 ? ~0u : (1u << lanes) - 1;
        warp.ended = warp.at_barrier = warp.arrived = 0;
    }
    random = scramble(settings().seed ^ scramble(launch.number) ^ scramble((uint64_t(index.z) << 42) ^ (uint64_t(index.y) << 21) ^ index.x));
    // Shared memory holds nothing one could use.
    if (shared.fixed_bytes) memset(shared.fixed, 0xff, shared.fixed_bytes);
    shared.dynamic_bytes = launch.dynamic_shared;
    if (launch.dynamic_shared) {
        if (!dynamic_end) {
            char *mapping = static_cast<char *>(
                mmap(nullptr, dynamic_bytes_max + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
            if (mapping == MAP_FAILED || mprotect(mapping + dynamic_bytes_max, page, PROT_NONE) != 0) abort();
            dynamic_end = mapping + dynamic_bytes_max;
        }
        shared.dynamic = dynamic_end - (launch.dynamic_shared + 15) / 16 * 16;
        memset(shared.dynamic, 0xff, launch.dynamic_shared);
    }
    if (races_are_sought) races::begin_block(*this);
    go(next(), &main);
    emulated_current = nullptr;
    if (failed) {
        // The stacks of the forgotten fibers are not used again.
        for (Thread &thread : threads) thread.stack_pointer = nullptr;
        block.launch = nullptr;
    }
}

namespace {

// Threads of the operating system that run blocks beside the one that launches.
struct Pool {
    std::mutex lock;
    std::condition_variable wake, done;
    std::vector<std::unique_ptr<Worker>> workers;
    const std::function<void(Worker &)> *job = nullptr;
    uint64_t generation = 0;
    unsigned wanted = 0, busy = 0;

    void serve(unsigned number) {
        uint64_t seen = 0;
        for (;;) {
            const std::function<void(Worker &)> *mine;
            {
                std::unique_lock guard(lock);
                wake.wait(guard, [&] { return generation != seen; });
                seen = generation;
                if (number >= wanted) continue;
                mine = job;
            }
            (*mine)(*workers[number]);
            std::lock_guard guard(lock);
            if (--busy == 0) done.notify_one();
        }
    }

    void run(unsigned threads, const std::function<void(Worker &)> &what) {
        if (workers.empty()) {
            for (unsigned i = 0; i < settings().threads; i++) workers.push_back(std::make_unique<Worker>());
            for (unsigned i = 1; i < settings().threads; i++) std::thread([this, i] { serve(i); }).detach();
        }
        if (threads > workers.size()) threads = static_cast<unsigned>(workers.size());
        if (threads > 1) {
            std::lock_guard guard(lock);
            job = &what;
            wanted = threads;
            busy = threads - 1;
            generation++;
            wake.notify_all();
        }
        what(*workers[0]);
        if (threads > 1) {
            std::unique_lock guard(lock);
            done.wait(guard, [&] { return busy == 0; });
        }
    }
};

// Never destroyed: its threads may wait in it when the process ends.
Pool &pool() {
    static Pool &one = *new Pool;
    return one;
}

} // namespace

int run(const Launch &launch) {
    uint64_t blocks = uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z;
    uint64_t threads = blocks * launch.block.x * launch.block.y * launch.block.z;
    if (settings().races) races::begin_launch(launch);
    std::atomic<uint64_t> taken{0};
    std::atomic<bool> failed{false};
    pool().run(blocks < 2 || threads < 2048 ? 1 : settings().threads, [&](Worker &worker) {
        worker_here = &worker;
        handle_signals();
        if (launch.source->shared) find_shared(worker, *launch.source);
        worker.failed = false;
        while (!failed) {
            uint64_t n = taken++;
            if (n >= blocks) break;
            if (settings().order == Settings::Order::reverse) n = blocks - 1 - n;
            if (settings().order == Settings::Order::random) {
                // A permutation: odd steps around the next power of two, over what exceeds the count.
                uint64_t size = 1;
                while (size < blocks) size *= 2;
                do {
                    n = (n * 0x9e3779b97f4a7c15 + scramble(settings().seed ^ launch.number)) & (size - 1);
                } while (n >= blocks);
            }
            unsigned x = static_cast<unsigned>(n % launch.grid.x);
            uint64_t yz = n / launch.grid.x;
            worker.run_block(launch, uint3{x, static_cast<unsigned>(yz % launch.grid.y), static_cast<unsigned>(yz / launch.grid.y)});
            if (worker.failed) failed = true;
        }
        worker_here = nullptr;
        worker.block.launch = nullptr;
    });
    return failed ? 719 : 0;
}

} // namespace emulated

using namespace emulated;

extern "C" {

int emulated_block_barrier(int predicate) {
    Thread *thread = emulated_current;
    Worker &worker = *thread->block->worker;
    Warp &warp = worker.warps[thread->number / 32];
    unsigned bit = 1u << (thread->number % 32);
    warp.runnable &= ~bit;
    warp.at_barrier |= bit;
    if (!warp.runnable) worker.runnable_warps &= ~(1u << (thread->number / 32));
    worker.waiting++;
    worker.barrier_sum += predicate;
    Thread *next = worker.next_or_resolve();
    if (next != thread) worker.go(next, &thread->stack_pointer);
    return worker.barrier_result;
}

uint64_t emulated_warp(WarpOp op, unsigned mask, uint64_t value, int argument, int width) {
    Thread *thread = emulated_current;
    Worker &worker = *thread->block->worker;
    unsigned number = thread->number / 32, lane = thread->number % 32, bit = 1u << lane;
    Warp &warp = worker.warps[number];
    if (!(mask & bit)) fail("%s with mask %#x, which leaves out the lane itself, %u", name(op), mask, lane);
    if (mask & ~warp.exists) fail("%s with mask %#x, but the warp has only the lanes %#x", name(op), mask, warp.exists);
    if (mask & warp.ended) fail("%s with mask %#x, but of these lanes %#x have ended", name(op), mask, mask & warp.ended);
    if (width < 1 || width > 32 || (width & (width - 1))) fail("%s with width %d", name(op), width);
    warp.lanes[lane] = Waiting{op, mask, value, value, argument, width};
    warp.arrived |= bit;
    if ((warp.arrived & mask) != mask) {
        warp.runnable &= ~bit;
        if (!warp.runnable) worker.runnable_warps &= ~(1u << number);
        Thread *next = worker.next_or_resolve();
        if (next != thread) worker.go(next, &thread->stack_pointer);
        return warp.lanes[lane].result;
    }
    // The last to arrive does the work for all.
    for (unsigned rest = mask; rest; rest &= rest - 1) {
        const Waiting &w = warp.lanes[lowest(rest)];
        if (w.op != op || w.mask != mask) {
            fail("%s with mask %#x, but lane %u is in %s with mask %#x", name(op), mask, lowest(rest), name(w.op), w.mask);
        }
    }
    switch (op) {
    case WarpOp::sync: break;
    case WarpOp::shuffle: case WarpOp::shuffle_up: case WarpOp::shuffle_down: case WarpOp::shuffle_xor: exchange(warp, op, mask); break;
    default: {
        uint64_t all = combine(warp, op, mask);
        for (unsigned rest = mask; rest; rest &= rest - 1) warp.lanes[lowest(rest)].result = all;
    }
    }
    warp.arrived &= ~mask;
    warp.runnable |= mask;
    worker.runnable_warps |= 1u << number;
    if (op == WarpOp::sync && races_are_sought) races::warp_barrier(number, mask, mask == warp.exists);
    return warp.lanes[lane].result;
}

void *emulated_dynamic_shared() {
    Worker &worker = *emulated_current->block->worker;
    if (!worker.shared.dynamic_bytes) fail("uses dynamic shared memory, and the launch asked for none");
    return worker.shared.dynamic;
}

void emulated_fail(const char *text) { fail("%s", text); }

// What g++ calls for a fault that -fsanitize=alignment,bounds,... finds: each begins with the place in the source.
struct SourcePlace {
    const char *file;
    uint32_t line, column;
};
static const char *short_name(const char *file) {
    const char *slash = strrchr(file, '/');
    return slash ? slash + 1 : file;
}
#define EMULATED_SANITIZER(name, words)                                                                                \
    __attribute__((visibility("default"))) void __ubsan_handle_##name##_abort(SourcePlace *at, ...) {                                                         \
        fail("%s, at %s:%u", words, short_name(at->file), at->line);                                                   \
    }
EMULATED_SANITIZER(out_of_bounds, "an index outside of its array")
EMULATED_SANITIZER(shift_out_of_bounds, "a shift by more than the width")
EMULATED_SANITIZER(divrem_overflow, "divided an integer by 0")
EMULATED_SANITIZER(float_cast_overflow, "a cast of a float that no integer can hold")
EMULATED_SANITIZER(builtin_unreachable, "reached what cannot be reached")
EMULATED_SANITIZER(missing_return, "a function that ended without a value")
EMULATED_SANITIZER(vla_bound_not_positive, "an array without elements")
__attribute__((visibility("default"))) void __ubsan_handle_type_mismatch_v1_abort(SourcePlace *at, uintptr_t pointer) {
    fail("an access to %#lx, which is null or no multiple of the alignment, at %s:%u", static_cast<unsigned long>(pointer), short_name(at->file), at->line);
}

void emulated_parallel(size_t count, const std::function<void(size_t)> &body) {
    std::atomic<size_t> taken{0};
    pool().run(count < 2 ? 1 : settings().threads, [&](Worker &) {
        for (size_t i; (i = taken++) < count;) body(i);
    });
}
}
