// The state of the emulated driver: contexts, streams, events, graphs. All of it is under one lock.
#pragma once

#include <deque>
#include <memory>
#include <set>

#include "driver.h"
#include "internal.h"

namespace emulated {

using Operation = std::function<void()>;

struct Recorded {
    std::string name;
    Operation operation;
};

// A stream capture in progress.
struct Capture {
    CUstream origin;
    std::vector<Recorded> operations;
    std::set<CUstream> forked; // streams with work that the origin has not waited for
    bool invalid = false;
};

// The moment an event stands for.
struct Moment {
    CUstream stream;
    bool reached = false;
    double seconds = 0;
};

} // namespace emulated

struct CUctx_st {
    CUdevice device;
    int retained;
    unsigned flags;
};
struct CUstream_st {
    bool waits_for_default; // created without the flag that lets it run beside the default stream
    std::deque<emulated::Recorded> queue;
    std::shared_ptr<emulated::Capture> capture;
    CUcontext context;
};
struct CUevent_st {
    std::shared_ptr<emulated::Moment> moment;
    std::shared_ptr<emulated::Capture> capture; // when recorded in one
    CUstream captured_on = nullptr;
    bool timed;
};
struct CUgraph_st {
    std::vector<emulated::Recorded> operations;
};
struct CUgraphExec_st {
    std::vector<emulated::Recorded> operations;
};
struct CUfunc_st {
    const emulated::Source *source;
    const emulated::Kernel *kernel;
    int dynamic_shared_max;
    // for EMULATED_CUDA_PROFILE
    uint64_t launches = 0;
    double seconds = 0;
};
struct CUmod_st {
    int unused;
};

namespace emulated {

struct State {
    std::recursive_mutex lock;
    bool initialised = false;
    CUresult broken = 0; // the error that all calls return since a launch failed
    std::vector<CUctx_st> contexts;
    CUstream_st default_stream{};
    std::set<CUstream> streams;
    std::set<CUevent> events;
    std::set<CUgraph> graphs;
    std::set<CUgraphExec> graph_execs;
    std::set<CUmodule> modules;
    std::vector<std::unique_ptr<CUfunc_st>> functions; // by name, one for all modules
    unsigned captures = 0;
    uint64_t launches = 0;
};
State &state();

// 0 when the calling thread may make a call that needs a context, else the error that it gets. Takes no lock.
CUresult ready();
CUcontext current_context();

// Runs the operation in the order of its stream, or records it.
CUresult submit(CUstream stream, const char *name, Operation operation);
// Runs all that waits in the stream; null stands for the default stream.
CUresult drain(CUstream stream);
CUresult drain_all();
// The error for a call that a capture in progress forbids, or 0; the capture is lost.
CUresult refuse_while_capturing();
bool capturing(CUstream stream);
// Runs a launch now.
void launch_now(CUfunc_st &function, const Launch &launch);
double seconds_now();

} // namespace emulated

// The head of every entry point that works in a context: the lock, and the errors of a missing context or a broken device.
#define EMULATED_CALL                                                                                                  \
    std::lock_guard guard(emulated::state().lock);                                                                     \
    if (CUresult not_ready = emulated::ready()) return not_ready;
