// Device memory and pinned memory of the emulated driver.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <sys/mman.h>

#include "internal.h"

namespace emulated::memory {

namespace {
constexpr size_t page = 4096;
// Fresh memory: NaN as float and as bfloat16, -1 as integer.
constexpr int fresh = 0xff;
// The few bytes between a block and the ends of its pages, looked at when it is freed.
constexpr unsigned char margin = 0xa5;

struct Held {
    Kind kind;
    size_t bytes;
    char *mapping;
    size_t mapped;
    uint64_t number;
};
std::mutex lock;
std::map<uintptr_t, Held> blocks;
uint64_t count;
size_t device_bytes, device_bytes_most;

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

unsigned bit(Kind kind) { return kind == Kind::device ? device : kind == Kind::pinned ? pinned : managed; }

const char *name(Kind kind) {
    return kind == Kind::device ? "device" : kind == Kind::pinned ? "pinned" : "managed";
}

// The block that begins at or before the address.
std::map<uintptr_t, Held>::iterator before(const void *address) {
    auto at = blocks.upper_bound(reinterpret_cast<uintptr_t>(address));
    return at == blocks.begin() ? blocks.end() : std::prev(at);
}

struct AtExit {
    ~AtExit() {
        if (!settings().leaks) return;
        size_t n = 0, bytes = 0;
        for (auto &[begin, held] : blocks) {
            n++;
            bytes += held.bytes;
        }
        say("%zu blocks of %zu bytes in all were not freed", n, bytes);
    }
} at_exit;
} // namespace

void *allocate(Kind kind, size_t bytes) {
    size_t data = round_up(bytes, 16);
    size_t inner = round_up(data, page);
    size_t mapped = inner + 2 * page;
    std::lock_guard guard(lock);
    if (kind != Kind::pinned && device_bytes + bytes > settings().memory) return nullptr;
    void *mapping = mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) return nullptr;
    char *first = static_cast<char *>(mapping) + page;
    if (mprotect(first, inner, PROT_READ | PROT_WRITE) != 0) {
        munmap(mapping, mapped);
        return nullptr;
    }
    char *begin = first + inner - data;
    memset(first, margin, static_cast<size_t>(begin - first));
    memset(begin, fresh, bytes);
    memset(begin + bytes, margin, data - bytes);
    if (kind != Kind::pinned) device_bytes_most = std::max(device_bytes_most, device_bytes += bytes);
    blocks[reinterpret_cast<uintptr_t>(begin)] = Held{kind, bytes, static_cast<char *>(mapping), mapped, ++count};
    return begin;
}

bool release(void *data, unsigned kinds) {
    std::lock_guard guard(lock);
    auto at = blocks.find(reinterpret_cast<uintptr_t>(data));
    if (at == blocks.end() || !(bit(at->second.kind) & kinds)) return false;
    const Held held = at->second;
    const char *begin = static_cast<char *>(data), *end = begin + held.bytes;
    for (const char *p = held.mapping + page; p < held.mapping + held.mapped - page; p++) {
        if (p == begin) p = end;
        if (p == held.mapping + held.mapped - page) break;
        if (static_cast<unsigned char>(*p) != margin) {
            say("block %llu of %zu bytes of %s memory: a byte %zd bytes %s was overwritten",
                static_cast<unsigned long long>(held.number), held.bytes, name(held.kind),
                p < begin ? begin - p : p - end + 1, p < begin ? "before it" : "behind it");
            abort();
        }
    }
    munmap(held.mapping, held.mapped);
    if (held.kind != Kind::pinned) device_bytes -= held.bytes;
    blocks.erase(at);
    return true;
}

bool holds(const void *data, size_t bytes, unsigned kinds) {
    std::lock_guard guard(lock);
    auto at = before(data);
    if (at == blocks.end() || !(bit(at->second.kind) & kinds)) return false;
    size_t offset = reinterpret_cast<uintptr_t>(data) - at->first;
    return offset <= at->second.bytes && bytes <= at->second.bytes - offset;
}

bool known(const void *address) { return holds(address, 0, any); }

size_t used() {
    std::lock_guard guard(lock);
    return device_bytes;
}

size_t used_most() {
    std::lock_guard guard(lock);
    return device_bytes_most;
}

bool find(const void *address, void **base, size_t *bytes) {
    std::lock_guard guard(lock);
    auto at = before(address);
    if (at == blocks.end() || reinterpret_cast<uintptr_t>(address) - at->first >= at->second.bytes) return false;
    if (base) *base = reinterpret_cast<void *>(at->first);
    if (bytes) *bytes = at->second.bytes;
    return true;
}

std::string describe(const void *address) {
    char text[200];
    std::unique_lock guard(lock, std::try_to_lock); // after a fault as well
    uintptr_t a = reinterpret_cast<uintptr_t>(address);
    auto at = before(address);
    if (at != blocks.end()) {
        const Held &held = at->second;
        size_t offset = a - at->first;
        unsigned long long number = held.number;
        if (offset < held.bytes) {
            snprintf(text, sizeof text, "%p, %zu bytes into block %llu, which has %zu bytes", address, offset, number, held.bytes);
            return text;
        }
        if (offset - held.bytes < (1 << 20)) {
            snprintf(text, sizeof text, "%p, %zu bytes behind the end of block %llu, which has %zu bytes", address,
                     offset - held.bytes, number, held.bytes);
            return text;
        }
    }
    auto after = blocks.upper_bound(a);
    if (after != blocks.end() && after->first - a < (1 << 20)) {
        snprintf(text, sizeof text, "%p, %zu bytes before block %llu, which has %zu bytes", address,
                 static_cast<size_t>(after->first - a), static_cast<unsigned long long>(after->second.number), after->second.bytes);
        return text;
    }
    snprintf(text, sizeof text, "%p, in no block of memory (freed, or never allocated)", address);
    return text;
}

} // namespace emulated::memory
