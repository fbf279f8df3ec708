// Streams, events, captures, graphs and launches of the emulated driver.
//
// An operation runs when it is submitted, or, with EMULATED_CUDA_DEFERRED=1, as late as the rules allow: when
// something waits for it. The second way shows a result that was read, or memory that was reused, too early.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "state.h"

namespace emulated {

double seconds_now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

namespace {

constexpr uintptr_t per_thread_default = 2; // CU_STREAM_PER_THREAD: here the default stream

CUstream real(CUstream stream) {
    return reinterpret_cast<uintptr_t>(stream) <= per_thread_default ? &state().default_stream : stream;
}
bool exists(CUstream stream) { return stream == &state().default_stream || state().streams.count(stream); }

void run_next(CUstream stream) {
    Recorded next = std::move(stream->queue.front());
    stream->queue.pop_front();
    next.operation();
}

void drain_until(CUstream stream, const Moment &moment) {
    while (!moment.reached && !stream->queue.empty()) run_next(stream);
}

CUresult lose(const std::shared_ptr<Capture> &capture, CUresult error) {
    capture->invalid = true;
    return error;
}

void run_all(const std::vector<Recorded> &operations) {
    for (const Recorded &recorded : operations) {
        recorded.operation();
        if (state().broken) return;
    }
}

} // namespace

bool capturing(CUstream stream) { return real(stream)->capture != nullptr; }

CUresult refuse_while_capturing() {
    State &s = state();
    if (!s.captures) return 0;
    for (CUstream stream : s.streams) {
        if (stream->capture) stream->capture->invalid = true;
    }
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult submit(CUstream stream, const char *name, Operation operation) {
    State &s = state();
    stream = real(stream);
    if (!exists(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (stream->capture) {
        if (stream->capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        stream->capture->operations.push_back({name, std::move(operation)});
        if (stream != stream->capture->origin) stream->capture->forked.insert(stream);
        return 0;
    }
    if (!settings().deferred) {
        operation();
        return s.broken;
    }
    // The default stream and the streams that did not ask to run beside it wait for each other.
    if (stream == &s.default_stream) {
        if (s.captures) {
            for (CUstream other : s.streams) {
                if (other->capture && other->waits_for_default) return lose(other->capture, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
            }
        }
        for (CUstream other : s.streams) {
            if (other->waits_for_default) drain(other);
        }
    } else if (stream->waits_for_default) {
        drain(&s.default_stream);
    }
    stream->queue.push_back({name, std::move(operation)});
    return s.broken;
}

CUresult drain(CUstream stream) {
    stream = real(stream);
    if (!exists(stream)) return CUDA_ERROR_INVALID_HANDLE;
    while (!stream->queue.empty()) run_next(stream);
    return state().broken;
}

CUresult drain_all() {
    drain(&state().default_stream);
    for (CUstream stream : state().streams) drain(stream);
    return state().broken;
}

void launch_now(CUfunc_st &function, const Launch &launch) {
    State &s = state();
    if (s.broken) return;
    if (launch.number == settings().failing_launch) {
        s.broken = CUDA_ERROR_LAUNCH_FAILED;
        return;
    }
    double begin = seconds_now();
    s.broken = run(launch);
    double took = seconds_now() - begin;
    function.launches++;
    function.seconds += took;
    if (settings().trace) {
        say("launch %llu: %s, grid (%u,%u,%u), block (%u,%u,%u), %zu bytes: %.3f ms", static_cast<unsigned long long>(launch.number),
            launch.kernel->name, launch.grid.x, launch.grid.y, launch.grid.z, launch.block.x, launch.block.y, launch.block.z,
            launch.dynamic_shared, took * 1e3);
    }
}

} // namespace emulated

using namespace emulated;

// Streams.

EMULATED_API CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
    EMULATED_CALL
    if (!stream || flags > 1) return CUDA_ERROR_INVALID_VALUE;
    *stream = new CUstream_st{flags == 0, {}, nullptr, current_context()};
    state().streams.insert(*stream);
    return 0;
}
EMULATED_API CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }
EMULATED_API CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    EMULATED_CALL
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return 0;
}
EMULATED_API CUresult cuStreamDestroy_v2(CUstream stream) {
    EMULATED_CALL
    if (!state().streams.count(stream)) return CUDA_ERROR_INVALID_HANDLE;
    drain(stream);
    if (stream->capture) state().captures--;
    state().streams.erase(stream);
    delete stream;
    return 0;
}
EMULATED_API CUresult cuStreamSynchronize(CUstream stream) {
    EMULATED_CALL
    stream = real(stream);
    if (!exists(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (stream->capture) return lose(stream->capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    return drain(stream);
}
EMULATED_API CUresult cuStreamQuery(CUstream stream) {
    EMULATED_CALL
    stream = real(stream);
    if (!exists(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (stream->capture) return lose(stream->capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    return stream->queue.empty() ? 0 : CUDA_ERROR_NOT_READY;
}
EMULATED_API CUresult cuStreamGetCtx(CUstream stream, CUcontext *context) {
    EMULATED_CALL
    stream = real(stream);
    if (!exists(stream)) return CUDA_ERROR_INVALID_HANDLE;
    *context = stream->context ? stream->context : current_context();
    return 0;
}
EMULATED_API CUresult cuStreamGetFlags(CUstream stream, unsigned *flags) {
    EMULATED_CALL
    stream = real(stream);
    if (!exists(stream)) return CUDA_ERROR_INVALID_HANDLE;
    *flags = stream != &state().default_stream && !stream->waits_for_default;
    return 0;
}
EMULATED_API CUresult cuStreamGetPriority(CUstream stream, int *priority) {
    EMULATED_CALL
    if (!exists(real(stream))) return CUDA_ERROR_INVALID_HANDLE;
    *priority = 0;
    return 0;
}
EMULATED_API CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void *data) {
    EMULATED_CALL
    return submit(stream, "host function", [=] { function(data); });
}
EMULATED_API CUresult cuCtxSynchronize() {
    EMULATED_CALL
    if (CUresult refused = refuse_while_capturing()) return refused;
    return drain_all();
}

// Events.

EMULATED_API CUresult cuEventCreate(CUevent *event, unsigned flags) {
    EMULATED_CALL
    if (!event) return CUDA_ERROR_INVALID_VALUE;
    *event = new CUevent_st{nullptr, nullptr, nullptr, !(flags & 2)};
    state().events.insert(*event);
    return 0;
}
EMULATED_API CUresult cuEventDestroy_v2(CUevent event) {
    EMULATED_CALL
    if (!state().events.erase(event)) return CUDA_ERROR_INVALID_HANDLE;
    delete event;
    return 0;
}
EMULATED_API CUresult cuEventRecord(CUevent event, CUstream stream) {
    EMULATED_CALL
    stream = real(stream);
    if (!state().events.count(event) || !exists(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (stream->capture) {
        if (stream->capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        event->capture = stream->capture;
        event->captured_on = stream;
        return 0;
    }
    event->capture = nullptr;
    auto moment = std::make_shared<Moment>(Moment{stream});
    event->moment = moment;
    return submit(stream, "event", [moment] {
        moment->reached = true;
        moment->seconds = seconds_now();
    });
}
EMULATED_API CUresult cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned) { return cuEventRecord(event, stream); }
EMULATED_API CUresult cuEventQuery(CUevent event) {
    EMULATED_CALL
    if (!state().events.count(event)) return CUDA_ERROR_INVALID_HANDLE;
    if (event->capture) return lose(event->capture, CUDA_ERROR_CAPTURED_EVENT);
    return !event->moment || event->moment->reached ? 0 : CUDA_ERROR_NOT_READY;
}
EMULATED_API CUresult cuEventSynchronize(CUevent event) {
    EMULATED_CALL
    if (!state().events.count(event)) return CUDA_ERROR_INVALID_HANDLE;
    if (event->capture) return lose(event->capture, CUDA_ERROR_CAPTURED_EVENT);
    if (event->moment && !event->moment->reached) drain_until(event->moment->stream, *event->moment);
    return state().broken;
}
EMULATED_API CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent start, CUevent end) {
    EMULATED_CALL
    if (!state().events.count(start) || !state().events.count(end)) return CUDA_ERROR_INVALID_HANDLE;
    if (!start->timed || !end->timed || !start->moment || !end->moment) return CUDA_ERROR_INVALID_HANDLE;
    if (!start->moment->reached || !end->moment->reached) return CUDA_ERROR_NOT_READY;
    *milliseconds = static_cast<float>((end->moment->seconds - start->moment->seconds) * 1e3);
    return 0;
}
EMULATED_API CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}
EMULATED_API CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
    EMULATED_CALL
    stream = real(stream);
    if (!state().events.count(event) || !exists(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (event->capture) {
        auto capture = event->capture;
        if (stream->capture && stream->capture != capture) return lose(capture, CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
        if (!stream->capture) stream->capture = capture; // it joins
        if (stream == capture->origin) capture->forked.erase(event->captured_on);
        return 0;
    }
    if (stream->capture) {
        // Work from outside a capture is no part of its graph.
        return event->moment ? lose(stream->capture, CUDA_ERROR_STREAM_CAPTURE_ISOLATION) : 0;
    }
    auto moment = event->moment;
    if (!moment || moment->reached) return 0;
    return submit(stream, "wait", [moment] { drain_until(moment->stream, *moment); });
}

// Captures and graphs.

EMULATED_API CUresult cuStreamBeginCapture_v2(CUstream stream, unsigned mode) {
    EMULATED_CALL
    if (mode > 2) return CUDA_ERROR_INVALID_VALUE;
    if (real(stream) == &state().default_stream) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (!exists(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (stream->capture) return CUDA_ERROR_INVALID_VALUE;
    drain(stream);
    stream->capture = std::make_shared<Capture>(Capture{stream, {}, {}});
    state().captures++;
    return 0;
}
EMULATED_API CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
    EMULATED_CALL
    if (graph) *graph = nullptr;
    stream = real(stream);
    if (!exists(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (!stream->capture) return CUDA_ERROR_INVALID_VALUE;
    auto capture = stream->capture;
    if (capture->origin != stream) return lose(capture, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    for (CUstream other : state().streams) {
        if (other->capture == capture) other->capture = nullptr;
    }
    state().captures--;
    if (capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (!capture->forked.empty()) return CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
    *graph = new CUgraph_st{std::move(capture->operations)};
    state().graphs.insert(*graph);
    return 0;
}
EMULATED_API CUresult cuStreamIsCapturing(CUstream stream, int *status) {
    EMULATED_CALL
    stream = real(stream);
    if (!exists(stream)) return CUDA_ERROR_INVALID_HANDLE;
    *status = !stream->capture ? 0 : stream->capture->invalid ? 2 : 1;
    return 0;
}
EMULATED_API CUresult cuThreadExchangeStreamCaptureMode(unsigned *mode) {
    static thread_local unsigned now;
    std::swap(now, *mode);
    return 0;
}
EMULATED_API CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long) {
    EMULATED_CALL
    if (!state().graphs.count(graph)) return CUDA_ERROR_INVALID_HANDLE;
    *exec = new CUgraphExec_st{graph->operations};
    state().graph_execs.insert(*exec);
    return 0;
}
EMULATED_API CUresult cuGraphInstantiate(CUgraphExec *exec, CUgraph graph, unsigned long long flags) {
    return cuGraphInstantiateWithFlags(exec, graph, flags);
}
EMULATED_API CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
    EMULATED_CALL
    if (!state().graph_execs.count(exec)) return CUDA_ERROR_INVALID_HANDLE;
    if (capturing(stream)) return lose(real(stream)->capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    auto operations = exec->operations; // the graph may be destroyed while it waits
    return submit(stream, "graph", [operations = std::move(operations)] { run_all(operations); });
}
EMULATED_API CUresult cuGraphUpload(CUgraphExec exec, CUstream) {
    EMULATED_CALL
    return state().graph_execs.count(exec) ? 0 : CUDA_ERROR_INVALID_HANDLE;
}
EMULATED_API CUresult cuGraphExecDestroy(CUgraphExec exec) {
    EMULATED_CALL
    if (!state().graph_execs.erase(exec)) return CUDA_ERROR_INVALID_HANDLE;
    delete exec;
    return 0;
}
EMULATED_API CUresult cuGraphDestroy(CUgraph graph) {
    EMULATED_CALL
    if (!state().graphs.erase(graph)) return CUDA_ERROR_INVALID_HANDLE;
    delete graph;
    return 0;
}
// Only the number of nodes is told.
EMULATED_API CUresult cuGraphGetNodes(CUgraph graph, void **nodes, size_t *count) {
    EMULATED_CALL
    if (!state().graphs.count(graph)) return CUDA_ERROR_INVALID_HANDLE;
    if (nodes) return CUDA_ERROR_NOT_SUPPORTED;
    *count = graph->operations.size();
    return 0;
}

// Launches.

EMULATED_API CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                                     unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void **parameters,
                                     void **extra) {
    EMULATED_CALL
    State &s = state();
    auto known = std::find_if(s.functions.begin(), s.functions.end(), [&](auto &f) { return f.get() == function; });
    if (known == s.functions.end()) return CUDA_ERROR_INVALID_HANDLE;
    const Kernel &kernel = *function->kernel;
    if (extra) return CUDA_ERROR_NOT_SUPPORTED;
    if (!grid_x || !grid_y || !grid_z || !block_x || !block_y || !block_z || grid_x > 0x7fffffff || grid_y > 65535 || grid_z > 65535 ||
        block_x > 1024 || block_y > 1024 || block_z > 64 || uint64_t(block_x) * block_y * block_z > 1024) {
        say("launch of %s: a grid of (%u,%u,%u) blocks of (%u,%u,%u) threads is impossible", kernel.name, grid_x, grid_y, grid_z, block_x,
            block_y, block_z);
        return CUDA_ERROR_INVALID_VALUE;
    }
    unsigned threads_max = kernel.threads_max ? kernel.threads_max : 1024;
    if (block_x * block_y * block_z > threads_max) {
        say("launch of %s: %u threads a block, more than its __launch_bounds__ of %u", kernel.name, block_x * block_y * block_z, threads_max);
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (shared_bytes > static_cast<unsigned>(function->dynamic_shared_max)) {
        say("launch of %s: %u bytes of dynamic shared memory, allowed are %d (cuFuncSetAttribute)", kernel.name, shared_bytes,
            function->dynamic_shared_max);
        return CUDA_ERROR_INVALID_VALUE;
    }
    Launch launch{&kernel, function->source, nullptr, dim3(grid_x, grid_y, grid_z), dim3(block_x, block_y, block_z), shared_bytes, 0};
    if (kernel.parameters && !parameters) return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < kernel.parameters; i++) {
        if (!parameters[i]) return CUDA_ERROR_INVALID_VALUE;
    }
    launch.invocation.reset(kernel.prepare(parameters));
    // Pointers that lead nowhere are found before the kernel follows them.
    const void *pointers[64];
    unsigned places[64];
    size_t count = launch.invocation->pointers(pointers, places, 64);
    for (size_t i = 0; i < count; i++) {
        if (pointers[i] && !memory::known(pointers[i])) {
            say("launch of %s: argument %u is %s", kernel.name, places[i], memory::describe(pointers[i]).c_str());
            if (settings().fault_is_error) return s.broken = CUDA_ERROR_LAUNCH_FAILED;
            abort();
        }
    }
    return submit(stream, kernel.name, [launch, function]() mutable {
        launch.number = ++state().launches;
        launch_now(*function, launch);
    });
}
EMULATED_API CUresult cuLaunchCooperativeKernel(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream,
                                                void **) {
    return CUDA_ERROR_NOT_SUPPORTED; // blocks do not run at the same time here
}

extern "C" {
int emulated_submit(void *stream, const char *name, std::function<void()> operation) {
    EMULATED_CALL
    return submit(static_cast<CUstream>(stream), name, std::move(operation));
}
void emulated_check_range(const char *name, const char *operand, const void *data, size_t bytes) {
    if (bytes == 0 || memory::holds(data, bytes, memory::device | memory::managed)) return;
    say("%s: %s needs %zu bytes from %s", name, operand, bytes, memory::describe(data).c_str());
    abort();
}
}
