// With EMULATED_CUDA_RACES=1: which accesses of memory no barrier orders.
//
// The kernels are compiled once more with -fsanitize=thread, so that each of their accesses is announced here. For each byte
// the last write and a few reads are kept, with the block, the thread, and how many barriers lay before them. Two accesses, one of
// them a write, are a race unless the same thread made them, a __syncthreads() lies between, or, within a warp, a __syncwarp() of
// both lanes; shuffles and votes order no memory. Between blocks of a launch nothing does. Atomics do not race
// with atomics. Shared memory that is read before its block has written it is reported as well.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <unordered_map>

#include "internal.h"

namespace emulated::races {

namespace {

struct Access {
    uint32_t run; // which block it was, counted over all launches; 0 for none
    uint32_t barriers, warp_barriers;
    uint32_t place; // in the code of the kernel
    uint16_t thread;
    bool atomic;
};
struct Byte {
    Access write, reads[2], read_elsewhere; // the last of a block of this launch that is not the one of `reads`
};
struct Word {
    bool split; // whether its bytes were accessed one by one; else the first stands for all
    Byte bytes[4];
};
constexpr size_t page = 4096;
struct Page {
    Word words[page / 4];
};

std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
// What was found for a page lately; null: no memory of the device.
struct Known {
    uintptr_t number;
    Page *found;
};
Known lately[1024];

std::vector<Word> fixed, dynamic;
uint32_t run, first_run; // this block; the first of this launch
uint32_t barriers, warp_barriers[32], whole_warp[32], pairs[32][32][32];
char *code; // where the kernel's library lies

Page *page_of(uintptr_t address) {
    uintptr_t number = address / page;
    Known &known = lately[number % 1024];
    if (known.number == number) return known.found;
    known.number = number;
    auto at = pages.find(number);
    if (at != pages.end()) return known.found = at->second.get();
    void *p = reinterpret_cast<void *>(address);
    if (!memory::known(p)) return known.found = nullptr;
    auto fresh = std::make_unique<Page>();
    memset(static_cast<void *>(fresh.get()), 0, sizeof(Page));
    return known.found = (pages[number] = std::move(fresh)).get();
}

bool ordered(const Access &before, const Access &now, bool shared) {
    if (before.run != now.run) return shared || before.run < first_run;
    if (before.thread == now.thread || before.barriers != now.barriers) return true;
    unsigned warp = now.thread / 32;
    if (before.thread / 32 != warp) return false;
    return whole_warp[warp] > before.warp_barriers || pairs[warp][before.thread % 32][now.thread % 32] > before.warp_barriers;
}

[[noreturn]] void report(const Access &before, bool before_writes, bool writes, bool shared, const void *address, const Access &now, void *pc) {
    const Block &block = *emulated_current->block;
    char whose[120], where[300];
    if (before.run == now.run) {
        unsigned x = before.thread % block.block_dim.x, yz = before.thread / block.block_dim.x;
        snprintf(whose, sizeof whose, "thread (%u,%u,%u)", x, yz % block.block_dim.y, yz / block.block_dim.y);
    } else {
        snprintf(whose, sizeof whose, "another block of this launch");
    }
    if (shared) {
        const SharedMemory &memory = shared_memory(*block.worker);
        const char *p = static_cast<const char *>(address);
        bool in_fixed = p >= memory.fixed && p < memory.fixed + memory.fixed_bytes;
        snprintf(where, sizeof where, "byte %zd of %s shared memory", in_fixed ? p - memory.fixed : p - memory.dynamic, in_fixed ? "static" : "dynamic");
    } else {
        snprintf(where, sizeof where, "%s", memory::describe(address).c_str());
    }
    char text[700];
    snprintf(text, sizeof text, "a race: %s, at %s, what %s %s, at %s, with no barrier between: %s", writes ? "writes" : "reads", place(pc).c_str(), whose,
             before_writes ? "wrote" : "read", place(code + before.place).c_str(), where);
    emulated_fail(text);
}

void look(Byte &byte, const Access &now, bool writes, bool shared, const void *address, void *pc) {
    auto check = [&](const Access &before, bool before_writes) {
        if (before.run && !(before.atomic && now.atomic) && !ordered(before, now, shared)) report(before, before_writes, writes, shared, address, now, pc);
    };
    check(byte.write, true);
    if (writes) {
        check(byte.reads[0], false);
        check(byte.reads[1], false);
        check(byte.read_elsewhere, false);
        byte.write = now;
        return;
    }
    if (shared && byte.write.run != now.run) {
        char text[200];
        snprintf(text, sizeof text, "reads shared memory that its block has not written, at %s", place(pc).c_str());
        emulated_fail(text);
    }
    Access &first = byte.reads[0], &second = byte.reads[1];
    if (first.run != now.run) {
        if (!shared && first.run >= first_run) byte.read_elsewhere = first;
        first = now;
        second = Access{};
    } else if (first.thread == now.thread || ordered(first, now, shared)) {
        first = now;
    } else if (!second.run || second.thread / 32 == first.thread / 32 || now.thread / 32 != first.thread / 32) {
        second = now; // of another warp, where there is one
    }
}

void announce(const void *address, size_t bytes, bool writes, bool atomic, void *pc) {
    Thread *thread = emulated_current;
    if (!thread) return;
    pc = static_cast<char *>(pc) - 1; // the call, not what comes after it
    const char *p = static_cast<const char *>(address);
    if (static_cast<size_t>(p - static_cast<char *>(thread->stack)) < stack_bytes) return; // its own
    const SharedMemory &memory = shared_memory(*thread->block->worker);
    Access now{run, barriers, warp_barriers[thread->number / 32], static_cast<uint32_t>(static_cast<char *>(pc) - code), static_cast<uint16_t>(thread->number), atomic};
    while (bytes > 0) {
        size_t offset = reinterpret_cast<uintptr_t>(p) % 4, part = bytes < 4 - offset ? bytes : 4 - offset;
        Word *word;
        bool shared = true;
        // A word that lies partly before an array begins at its first byte: arrays are aligned.
        if (static_cast<size_t>(p - memory.fixed) < memory.fixed_bytes) {
            word = &fixed[static_cast<size_t>(p - memory.fixed) / 4];
        } else if (static_cast<size_t>(p - memory.dynamic) < memory.dynamic_bytes) {
            word = &dynamic[static_cast<size_t>(p - memory.dynamic) / 4];
        } else {
            Page *found = page_of(reinterpret_cast<uintptr_t>(p));
            if (!found) return;
            word = &found->words[reinterpret_cast<uintptr_t>(p) % page / 4];
            shared = false;
        }
        if (part == 4 && !word->split) {
            look(word->bytes[0], now, writes, shared, p, pc);
        } else {
            if (!word->split) {
                word->split = true;
                for (int i = 1; i < 4; i++) word->bytes[i] = word->bytes[0];
            }
            for (size_t i = 0; i < part; i++) look(word->bytes[offset + i], now, writes, shared, p + i, pc);
        }
        p += part;
        bytes -= part;
    }
}

} // namespace

void begin_launch(const Launch &launch) {
    Dl_info info;
    code = dladdr(launch.source, &info) ? static_cast<char *>(info.dli_fbase) : nullptr;
    first_run = run + 1;
    for (Known &known : lately) known = Known{};
}
void begin_block(Worker &worker) {
    const SharedMemory &memory = shared_memory(worker);
    if (fixed.size() * 4 < memory.fixed_bytes) fixed.resize(memory.fixed_bytes / 4 + 1);
    if (dynamic.size() * 4 < memory.dynamic_bytes) dynamic.resize(memory.dynamic_bytes / 4 + 1);
    run++;
    barriers = 0;
    for (unsigned w = 0; w < 32; w++) {
        if (!warp_barriers[w]) continue;
        warp_barriers[w] = whole_warp[w] = 0;
        memset(pairs[w], 0, sizeof pairs[w]);
    }
}
void block_barrier() { barriers++; }
void warp_barrier(unsigned warp, unsigned mask, bool whole) {
    uint32_t now = ++warp_barriers[warp];
    if (whole) {
        whole_warp[warp] = now;
        return;
    }
    for (unsigned a = 0; a < 32; a++) {
        for (unsigned b = 0; b < 32; b++) {
            if (mask >> a & 1 && mask >> b & 1) pairs[warp][a][b] = now;
        }
    }
}

} // namespace emulated::races

// What g++ calls before each access.

#define EMULATED_HOOK extern "C" __attribute__((visibility("default")))
#define EMULATED_ACCESS(size)                                                                                          \
    EMULATED_HOOK void __tsan_read##size(void *p) {                                                                    \
        emulated::races::announce(p, size, false, false, __builtin_return_address(0));                                 \
    }                                                                                                                  \
    EMULATED_HOOK void __tsan_write##size(void *p) {                                                                   \
        emulated::races::announce(p, size, true, false, __builtin_return_address(0));                                  \
    }                                                                                                                  \
    EMULATED_HOOK void __tsan_unaligned_read##size(void *p) {                                                          \
        emulated::races::announce(p, size, false, false, __builtin_return_address(0));                                 \
    }                                                                                                                  \
    EMULATED_HOOK void __tsan_unaligned_write##size(void *p) {                                                         \
        emulated::races::announce(p, size, true, false, __builtin_return_address(0));                                  \
    }
EMULATED_ACCESS(1)
EMULATED_ACCESS(2)
EMULATED_ACCESS(4)
EMULATED_ACCESS(8)
EMULATED_ACCESS(16)
EMULATED_HOOK void __tsan_read_range(void *p, size_t n) { emulated::races::announce(p, n, false, false, __builtin_return_address(0)); }
EMULATED_HOOK void __tsan_write_range(void *p, size_t n) { emulated::races::announce(p, n, true, false, __builtin_return_address(0)); }
EMULATED_HOOK void __tsan_vptr_read(void **) {}
EMULATED_HOOK void __tsan_vptr_update(void **, void *) {}
EMULATED_HOOK void __tsan_func_entry(void *) {}
EMULATED_HOOK void __tsan_func_exit() {}
EMULATED_HOOK void __tsan_init() {}
EMULATED_HOOK void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

#define EMULATED_ATOMIC(bits, T)                                                                                       \
    EMULATED_HOOK T __tsan_atomic##bits##_load(const volatile T *p, int) {                                             \
        emulated::races::announce(const_cast<T *>(p), sizeof(T), false, true, __builtin_return_address(0));            \
        return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                                   \
    }                                                                                                                  \
    EMULATED_HOOK void __tsan_atomic##bits##_store(volatile T *p, T v, int) {                                          \
        emulated::races::announce(const_cast<T *>(p), sizeof(T), true, true, __builtin_return_address(0));             \
        __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                                                                      \
    }                                                                                                                  \
    EMULATED_HOOK int __tsan_atomic##bits##_compare_exchange_strong(volatile T *p, T *expected, T v, int, int) {       \
        emulated::races::announce(const_cast<T *>(p), sizeof(T), true, true, __builtin_return_address(0));             \
        return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                 \
    }                                                                                                                  \
    EMULATED_ATOMIC_CHANGE(bits, T, exchange, __atomic_exchange_n)                                                     \
    EMULATED_ATOMIC_CHANGE(bits, T, fetch_add, __atomic_fetch_add)                                                     \
    EMULATED_ATOMIC_CHANGE(bits, T, fetch_sub, __atomic_fetch_sub)                                                     \
    EMULATED_ATOMIC_CHANGE(bits, T, fetch_and, __atomic_fetch_and)                                                     \
    EMULATED_ATOMIC_CHANGE(bits, T, fetch_or, __atomic_fetch_or)                                                       \
    EMULATED_ATOMIC_CHANGE(bits, T, fetch_xor, __atomic_fetch_xor)
#define EMULATED_ATOMIC_CHANGE(bits, T, name, operation)                                                               \
    EMULATED_HOOK T __tsan_atomic##bits##_##name(volatile T *p, T v, int) {                                            \
        emulated::races::announce(const_cast<T *>(p), sizeof(T), true, true, __builtin_return_address(0));             \
        return operation(p, v, __ATOMIC_SEQ_CST);                                                                      \
    }
EMULATED_ATOMIC(32, uint32_t)
EMULATED_ATOMIC(64, uint64_t)
