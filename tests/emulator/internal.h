// What the parts of the emulated driver share; kernels do not see it.
#pragma once

#include <cstdarg>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "machine.h"

namespace emulated {

// The choices of the environment, read once.
struct Settings {
    enum class Order { forward, reverse, random };

    Order order = Order::forward; // EMULATED_CUDA_ORDER=forward|reverse|random:SEED
    uint64_t seed = 0;
    unsigned threads;             // EMULATED_CUDA_THREADS
    bool deferred = false;        // EMULATED_CUDA_DEFERRED=1
    bool leaks = false;           // EMULATED_CUDA_LEAKS=1
    bool trace = false;           // EMULATED_CUDA_TRACE=1
    bool profile = false;         // EMULATED_CUDA_PROFILE=1
    bool races = false;           // EMULATED_CUDA_RACES=1
    bool fault_is_error = false;  // EMULATED_CUDA_FAULT=error
    std::string kernels;          // EMULATED_CUDA_KERNELS=FOLDER
    int devices = 1;              // EMULATED_CUDA_DEVICES
    int init_error = 0;           // EMULATED_CUDA_INIT_ERROR
    int driver_version = 13000;   // EMULATED_CUDA_DRIVER_VERSION
    int capability_major = 9, capability_minor = 0; // EMULATED_CUDA_CAPABILITY=9.0
    int processors = 132;         // EMULATED_CUDA_PROCESSORS
    size_t memory;                // EMULATED_CUDA_MEMORY, bytes
    uint64_t failing_launch = 0;  // EMULATED_CUDA_FAIL_LAUNCH, counted from 1
};
const Settings &settings();

// Prints one line to standard error.
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

// A launch, with its arguments.
struct Launch {
    const Kernel *kernel;
    const Source *source;
    std::shared_ptr<const Invocation> invocation;
    dim3 grid, block;
    size_t dynamic_shared;
    uint64_t number; // counted from 1
};

// Of each CUDA thread.
constexpr size_t stack_bytes = 128 << 10;

// Runs all blocks, and returns when they have ended: 0, or a CUresult. One launch at a time.
int run(const Launch &launch);

// All compiled sources; loads them from the folder of kernels when called first.
const std::vector<const Source *> &sources();

// Memory that behaves: it ends at an unmapped page, so that an access behind it faults, is filled with NaN when fresh,
// and is unmapped when freed.
namespace memory {
enum class Kind { device, pinned, managed };
constexpr unsigned device = 1, pinned = 2, managed = 4, any = 7; // sets of kinds

// Null when there is no more memory on the device.
void *allocate(Kind kind, size_t bytes);
// False when no such block begins there.
bool release(void *data, unsigned kinds);
// Whether the range lies within one block of these kinds.
bool holds(const void *data, size_t bytes, unsigned kinds);
// Whether the address lies within a block, or at its end.
bool known(const void *address);
size_t used();
size_t used_most();
// The block that an address lies in or beside, in words.
std::string describe(const void *address);
// The block's begin and size for an address within a device block.
bool find(const void *address, void **base, size_t *bytes);
} // namespace memory

// Checks of kernels compiled for it (EMULATED_CUDA_RACES=1): which accesses no barrier orders.
namespace races {
void begin_launch(const Launch &launch);
void begin_block(Worker &worker);
void block_barrier();
void warp_barrier(unsigned warp, unsigned mask, bool whole);
} // namespace races

// Where in the source an address of code is, as addr2line says.
std::string place(void *pc);

// The shared memory of the block that a worker runs.
struct SharedMemory {
    char *fixed;
    size_t fixed_bytes;
    char *dynamic;
    size_t dynamic_bytes;
};
const SharedMemory &shared_memory(const Worker &worker);

} // namespace emulated

extern "C" {
// For the emulated cuBLAS: runs `operation` in stream order, or records it while the stream captures. Returns a CUresult.
__attribute__((visibility("default"))) int emulated_submit(void *stream, const char *name, std::function<void()> operation);
// Ends the process unless the range lies within one block of device memory.
__attribute__((visibility("default"))) void emulated_check_range(const char *name, const char *operand, const void *data, size_t bytes);
// Calls body(i) for i in 0..count on the emulator's threads.
__attribute__((visibility("default"))) void emulated_parallel(size_t count, const std::function<void(size_t)> &body);
}
