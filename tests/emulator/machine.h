// The emulated GPU as its kernels see it: threads, blocks, barriers and operations of a warp.
//
// The library `libcuda.so.1` of this folder defines what is declared here; compiled kernels (build.sh) call it. A block
// runs on one thread of the operating system, its CUDA threads are fibers that change at barriers and operations of a
// warp only. The order in which they take turns can be chosen (EMULATED_CUDA_ORDER), since a result that depends on
// it shows a missing barrier.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <tuple>

#include "include/vectors.h"

namespace emulated {

enum class WarpOp : uint8_t {
    none, sync, ballot, shuffle, shuffle_up, shuffle_down, shuffle_xor,
    add, max_unsigned, max_signed, min_unsigned, min_signed, bit_or, bit_and,
};

struct Worker;
struct Launch;

// A block while it runs.
struct Block {
    uint3 index;
    dim3 block_dim, grid_dim;
    Worker *worker;
    const Launch *launch;
};

// A CUDA thread while its block runs.
struct Thread {
    uint3 index;
    Block *block;
    unsigned number;      // within the block
    void *stack_pointer;  // while it waits; null before its first turn and after its last
    void *stack;          // the lowest address of its stack
};

// A kernel with its arguments, copied at the launch.
struct Invocation {
    virtual ~Invocation() = default;
    // Runs the kernel for the current thread.
    virtual void call() const = 0;
    // Writes the pointers among the arguments, with their places, to `pointers`; returns how many.
    virtual size_t pointers(const void **pointers, unsigned *places, size_t room) const = 0;
};

template <class... Args> struct InvocationOf final : Invocation {
    void (*kernel)(Args...);
    std::tuple<Args...> arguments;

    template <size_t... I>
    InvocationOf(void (*kernel)(Args...), void **parameters, std::index_sequence<I...>)
        : kernel(kernel), arguments(*static_cast<std::decay_t<Args> *>(parameters[I])...) {}
    void call() const override { std::apply(kernel, arguments); }
    size_t pointers(const void **pointers, unsigned *places, size_t room) const override {
        size_t found = 0;
        unsigned place = 0;
        auto look = [&](const auto &argument) {
            if constexpr (std::is_pointer_v<std::decay_t<decltype(argument)>>) {
                if (found < room) {
                    pointers[found] = const_cast<const void *>(static_cast<const volatile void *>(argument));
                    places[found++] = place;
                }
            }
            place++;
        };
        std::apply([&](const auto &...argument) { (look(argument), ...); }, arguments);
        return found;
    }
};

template <class... Args> Invocation *invocation(void (*kernel)(Args...), void **parameters) {
    return new InvocationOf<Args...>(kernel, parameters, std::index_sequence_for<Args...>());
}

// A kernel as its compiled source lists it (build.sh writes the list).
struct Kernel {
    const char *name;
    Invocation *(*prepare)(void **parameters);
    unsigned parameters;
    unsigned threads_max; // __launch_bounds__, or 0
};
template <class... Args> constexpr unsigned parameters_of(void (*)(Args...)) { return sizeof...(Args); }

#define EMULATED_KERNEL(name, threads_max)                                                                             \
    emulated::Kernel {                                                                                                 \
        #name, [](void **parameters) { return emulated::invocation(&name, parameters); },                              \
            emulated::parameters_of(&name), emulated::first_of threads_max                                             \
    }
constexpr unsigned first_of(unsigned first = 0, unsigned = 0, unsigned = 0) { return first; }

// A compiled source: its kernels, and an address within its static shared memory.
struct Source {
    const char *file;
    const Kernel *kernels;
    size_t count;
    void *(*shared)();
};

} // namespace emulated

extern "C" {
#pragma GCC visibility push(default)
// The CUDA thread that runs on this thread of the operating system, or null.
extern thread_local emulated::Thread *emulated_current __attribute__((tls_model("initial-exec")));
// Waits for all threads of the block; returns for how many `predicate` is not 0.
int emulated_block_barrier(int predicate);
// Exchanges values with the lanes of `mask`, waiting for them.
uint64_t emulated_warp(emulated::WarpOp op, unsigned mask, uint64_t value, int argument, int width);
// The launch's dynamic shared memory, aligned to 16 bytes, ending at unmapped memory.
void *emulated_dynamic_shared();
// Reports a fault of the current thread and ends the process.
[[noreturn]] void emulated_fail(const char *text);
#pragma GCC visibility pop
}
