// Devices, contexts, memory, modules and functions of the emulated driver.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <dlfcn.h>

#include "state.h"

namespace emulated {

namespace {
thread_local CUcontext context_here;

// At the end of the process: what each kernel took.
struct AtExit {
    ~AtExit() {
        if (!settings().profile) return;
        std::vector<CUfunc_st *> functions;
        for (auto &function : state().functions) functions.push_back(function.get());
        std::sort(functions.begin(), functions.end(), [](auto *a, auto *b) { return a->seconds > b->seconds; });
        for (CUfunc_st *f : functions) {
            say("%-32s %8llu launches %10.1f ms", f->kernel->name, static_cast<unsigned long long>(f->launches), f->seconds * 1e3);
        }
    }
} at_exit;
} // namespace

// Never destroyed: other libraries may call while the process ends.
State &state() {
    static State &one = *new State;
    return one;
}

CUcontext current_context() { return context_here; }

CUresult ready() {
    if (!state().initialised) return CUDA_ERROR_NOT_INITIALIZED;
    if (!context_here) return CUDA_ERROR_INVALID_CONTEXT;
    return state().broken;
}

const std::vector<const Source *> &sources() {
    static const std::vector<const Source *> loaded = [] {
        std::vector<const Source *> found;
        std::string folder = settings().kernels;
        Dl_info here;
        if (folder.empty() && dladdr(reinterpret_cast<void *>(&sources), &here)) {
            folder = here.dli_fname;
            folder = folder.substr(0, folder.find_last_of('/') + 1) + "kernels";
        }
        if (settings().races) folder += "/races";
        std::vector<std::string> files;
        if (DIR *dir = opendir(folder.c_str())) {
            while (dirent *entry = readdir(dir)) {
                std::string file = entry->d_name;
                if (file.size() > 3 && file.substr(file.size() - 3) == ".so") files.push_back(folder + "/" + file);
            }
            closedir(dir);
        }
        std::sort(files.begin(), files.end());
        if (files.empty()) say("no compiled kernels in %s", folder.c_str());
        for (const std::string &file : files) {
            void *library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
            auto *source = library ? static_cast<const Source *>(dlsym(library, "emulated_source")) : nullptr;
            if (!source) {
                say("%s: %s", file.c_str(), dlerror());
                abort();
            }
            found.push_back(source);
        }
        return found;
    }();
    return loaded;
}

} // namespace emulated

using namespace emulated;

namespace {
struct Code {
    CUresult code;
    const char *name, *text;
};
constexpr Code codes[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUDA_ERROR_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CUDA_ERROR_NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {CUDA_ERROR_FILE_NOT_FOUND, "CUDA_ERROR_FILE_NOT_FOUND", "file not found"},
    {CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {CUDA_ERROR_NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {CUDA_ERROR_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"},
    {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not initiated in this stream"},
    {CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
    {CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"},
    {CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "operation would make the legacy stream depend on a capturing blocking stream"},
    {CUDA_ERROR_CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
};
const Code *code(CUresult result) {
    for (const Code &c : codes) {
        if (c.code == result) return &c;
    }
    return nullptr;
}
bool no_such(CUdevice device) { return device < 0 || device >= settings().devices; }
void *pointer(CUdeviceptr p) { return reinterpret_cast<void *>(p); }
constexpr unsigned on_device = memory::device | memory::managed;
} // namespace

// The library.

EMULATED_API CUresult cuInit(unsigned flags) {
    std::lock_guard guard(state().lock);
    if (flags) return CUDA_ERROR_INVALID_VALUE;
    if (settings().init_error) return settings().init_error;
    if (settings().devices == 0) return CUDA_ERROR_NO_DEVICE;
    State &s = state();
    if (!s.initialised) {
        for (CUdevice device = 0; device < settings().devices; device++) s.contexts.push_back({device, 0, 0});
        s.initialised = true;
    }
    return 0;
}
EMULATED_API CUresult cuDriverGetVersion(int *version) {
    *version = settings().driver_version;
    return 0;
}
EMULATED_API CUresult cuGetErrorName(CUresult error, const char **text) {
    const Code *c = code(error);
    *text = c ? c->name : nullptr;
    return c ? 0 : CUDA_ERROR_INVALID_VALUE;
}
EMULATED_API CUresult cuGetErrorString(CUresult error, const char **text) {
    const Code *c = code(error);
    *text = c ? c->text : nullptr;
    return c ? 0 : CUDA_ERROR_INVALID_VALUE;
}
EMULATED_API CUresult cuGetProcAddress_v2(const char *symbol, void **function, int, uint64_t, int *status) {
    Dl_info here;
    dladdr(reinterpret_cast<void *>(&cuInit), &here);
    void *library = dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    *function = nullptr;
    for (const char *ending : {"_v4", "_v3", "_v2", ""}) {
        if (library && !*function) *function = dlsym(library, (std::string(symbol) + ending).c_str());
    }
    if (status) *status = *function ? 0 : 1;
    return *function ? 0 : CUDA_ERROR_NOT_FOUND;
}
EMULATED_API CUresult cuGetProcAddress(const char *symbol, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(symbol, function, version, flags, nullptr);
}
EMULATED_API CUresult cuProfilerStart() { return 0; }
EMULATED_API CUresult cuProfilerStop() { return 0; }

// Devices.

EMULATED_API CUresult cuDeviceGetCount(int *count) {
    if (!state().initialised) return CUDA_ERROR_NOT_INITIALIZED;
    *count = settings().devices;
    return 0;
}
EMULATED_API CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    if (!state().initialised) return CUDA_ERROR_NOT_INITIALIZED;
    if (no_such(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return 0;
}
EMULATED_API CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
    if (no_such(device)) return CUDA_ERROR_INVALID_DEVICE;
    snprintf(name, static_cast<size_t>(length), "Emulated GPU %d", device);
    return 0;
}
EMULATED_API CUresult cuDeviceGetUuid_v2(char *uuid, CUdevice device) {
    if (no_such(device)) return CUDA_ERROR_INVALID_DEVICE;
    memcpy(uuid, "emulated-gpu-00", 16);
    uuid[14] = static_cast<char>('0' + device);
    return 0;
}
EMULATED_API CUresult cuDeviceGetUuid(char *uuid, CUdevice device) { return cuDeviceGetUuid_v2(uuid, device); }
EMULATED_API CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
    if (no_such(device)) return CUDA_ERROR_INVALID_DEVICE;
    *bytes = settings().memory;
    return 0;
}
EMULATED_API CUresult cuDeviceGetPCIBusId(char *text, int length, CUdevice device) {
    if (no_such(device)) return CUDA_ERROR_INVALID_DEVICE;
    snprintf(text, static_cast<size_t>(length), "0000:%02x:00.0", device + 1);
    return 0;
}
EMULATED_API CUresult cuDeviceCanAccessPeer(int *can, CUdevice, CUdevice) {
    *can = 0;
    return 0;
}
// Numbers of an H100 where they tell how to launch, 0 for abilities that are not emulated.
EMULATED_API CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
    if (!state().initialised) return CUDA_ERROR_NOT_INITIALIZED;
    if (no_such(device)) return CUDA_ERROR_INVALID_DEVICE;
    switch (attribute) {
    case 1: *value = 1024; break;                             // threads a block
    case 2: case 3: *value = 1024; break;                     // block, x and y
    case 4: *value = 64; break;                               // block, z
    case 5: *value = 0x7fffffff; break;                       // grid, x
    case 6: case 7: *value = 65535; break;                    // grid, y and z
    case 8: *value = 48 << 10; break;                         // shared memory a block
    case 9: *value = 64 << 10; break;                         // constant memory
    case 10: *value = 32; break;                              // lanes of a warp
    case 12: case 82: *value = 65536; break;                  // registers a block, a multiprocessor
    case 13: *value = 1980000; break;                         // clock, kHz
    case 16: *value = settings().processors; break;           // multiprocessors
    case 19: case 41: *value = 1; break;                      // maps host memory, one address space
    case 36: *value = 2619000; break;                         // memory clock, kHz
    case 37: *value = 5120; break;                            // memory bus, bits
    case 38: *value = 50 << 20; break;                        // level-2 cache
    case 33: *value = device + 1; break;                      // PCI bus
    case 39: *value = 2048; break;                            // threads a multiprocessor
    case 40: *value = 3; break;                               // copy engines
    case 75: *value = settings().capability_major; break;
    case 76: *value = settings().capability_minor; break;
    case 78: *value = 1; break;                               // priorities of streams
    case 81: *value = 228 << 10; break;                       // shared memory a multiprocessor
    case 83: *value = 1; break;                               // managed memory
    case 97: *value = 227 << 10; break;                       // shared memory a block, when asked for
    case 106: *value = 32; break;                             // blocks a multiprocessor
    case 111: *value = 1 << 10; break;                        // shared memory that the system keeps
    case 115: *value = 1; break;                              // memory pools
    default: *value = 0;
    }
    return 0;
}

// Contexts.

EMULATED_API CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    std::lock_guard guard(state().lock);
    if (!state().initialised) return CUDA_ERROR_NOT_INITIALIZED;
    if (no_such(device)) return CUDA_ERROR_INVALID_DEVICE;
    *context = &state().contexts[static_cast<size_t>(device)];
    (*context)->retained++;
    return 0;
}
EMULATED_API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    std::lock_guard guard(state().lock);
    if (no_such(device)) return CUDA_ERROR_INVALID_DEVICE;
    CUcontext context = &state().contexts[static_cast<size_t>(device)];
    if (context->retained == 0) return CUDA_ERROR_INVALID_CONTEXT;
    context->retained--;
    return 0;
}
EMULATED_API CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned flags) {
    if (no_such(device)) return CUDA_ERROR_INVALID_DEVICE;
    state().contexts[static_cast<size_t>(device)].flags = flags;
    return 0;
}
EMULATED_API CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
    if (no_such(device)) return CUDA_ERROR_INVALID_DEVICE;
    *flags = state().contexts[static_cast<size_t>(device)].flags;
    *active = state().contexts[static_cast<size_t>(device)].retained > 0;
    return 0;
}
EMULATED_API CUresult cuCtxSetCurrent(CUcontext context) {
    if (!state().initialised) return CUDA_ERROR_NOT_INITIALIZED;
    context_here = context;
    return 0;
}
EMULATED_API CUresult cuCtxGetCurrent(CUcontext *context) {
    *context = context_here;
    return 0;
}
EMULATED_API CUresult cuCtxPushCurrent_v2(CUcontext context) { return cuCtxSetCurrent(context); }
EMULATED_API CUresult cuCtxPopCurrent_v2(CUcontext *context) {
    if (context) *context = context_here;
    context_here = nullptr;
    return 0;
}
EMULATED_API CUresult cuCtxGetDevice(CUdevice *device) {
    if (!context_here) return CUDA_ERROR_INVALID_CONTEXT;
    *device = context_here->device;
    return 0;
}
EMULATED_API CUresult cuCtxGetApiVersion(CUcontext, unsigned *version) {
    *version = 3020;
    return 0;
}
EMULATED_API CUresult cuCtxSetFlags(unsigned flags) {
    EMULATED_CALL
    context_here->flags = flags;
    return 0;
}
EMULATED_API CUresult cuCtxGetFlags(unsigned *flags) {
    EMULATED_CALL
    *flags = context_here->flags;
    return 0;
}
EMULATED_API CUresult cuCtxGetLimit(size_t *value, int) {
    EMULATED_CALL
    *value = 0;
    return 0;
}
EMULATED_API CUresult cuCtxSetLimit(int, size_t) {
    EMULATED_CALL
    return 0;
}
EMULATED_API CUresult cuCtxGetCacheConfig(int *config) {
    EMULATED_CALL
    *config = 0;
    return 0;
}
EMULATED_API CUresult cuCtxSetCacheConfig(int) {
    EMULATED_CALL
    return 0;
}

// Memory.

static CUresult allocate(CUdeviceptr *ret, size_t bytes, memory::Kind kind) {
    if (!ret || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    void *data = memory::allocate(kind, bytes);
    if (!data) return CUDA_ERROR_OUT_OF_MEMORY;
    *ret = reinterpret_cast<CUdeviceptr>(data);
    return 0;
}
EMULATED_API CUresult cuMemAlloc_v2(CUdeviceptr *ret, size_t bytes) {
    EMULATED_CALL
    if (CUresult refused = refuse_while_capturing()) return refused;
    return allocate(ret, bytes, memory::Kind::device);
}
EMULATED_API CUresult cuMemAllocManaged(CUdeviceptr *ret, size_t bytes, unsigned) {
    EMULATED_CALL
    if (CUresult refused = refuse_while_capturing()) return refused;
    return allocate(ret, bytes, memory::Kind::managed);
}
// Graphs that own memory are not emulated: an allocation while the stream captures is refused.
EMULATED_API CUresult cuMemAllocAsync(CUdeviceptr *ret, size_t bytes, CUstream stream) {
    EMULATED_CALL
    if (capturing(stream)) return refuse_while_capturing();
    return allocate(ret, bytes, memory::Kind::device);
}
EMULATED_API CUresult cuMemAllocFromPoolAsync(CUdeviceptr *ret, size_t bytes, CUmemoryPool, CUstream stream) {
    return cuMemAllocAsync(ret, bytes, stream);
}
EMULATED_API CUresult cuMemFree_v2(CUdeviceptr data) {
    EMULATED_CALL
    if (!data) return 0;
    if (CUresult refused = refuse_while_capturing()) return refused;
    if (CUresult broken = drain_all()) return broken;
    return memory::release(pointer(data), on_device) ? 0 : CUDA_ERROR_INVALID_VALUE;
}
EMULATED_API CUresult cuMemFreeAsync(CUdeviceptr data, CUstream stream) {
    EMULATED_CALL
    if (!data) return 0;
    if (capturing(stream)) return refuse_while_capturing();
    if (!memory::holds(pointer(data), 1, on_device)) return CUDA_ERROR_INVALID_VALUE;
    return submit(stream, "free", [data] {
        if (!memory::release(pointer(data), on_device)) say("%s is freed, and no block begins there", memory::describe(pointer(data)).c_str());
    });
}
EMULATED_API CUresult cuMemGetInfo_v2(size_t *free, size_t *total) {
    EMULATED_CALL
    *total = settings().memory;
    *free = settings().memory - std::min(settings().memory, memory::used());
    return 0;
}
EMULATED_API CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *bytes, CUdeviceptr address) {
    EMULATED_CALL
    void *begin;
    if (!memory::find(pointer(address), &begin, bytes)) return CUDA_ERROR_NOT_FOUND;
    if (base) *base = reinterpret_cast<CUdeviceptr>(begin);
    return 0;
}
EMULATED_API CUresult cuMemHostAlloc(void **ret, size_t bytes, unsigned) {
    EMULATED_CALL
    if (!ret || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    *ret = memory::allocate(memory::Kind::pinned, bytes);
    return *ret ? 0 : CUDA_ERROR_OUT_OF_MEMORY;
}
EMULATED_API CUresult cuMemAllocHost_v2(void **ret, size_t bytes) { return cuMemHostAlloc(ret, bytes, 0); }
EMULATED_API CUresult cuMemFreeHost(void *data) {
    EMULATED_CALL
    if (CUresult broken = drain_all()) return broken;
    return memory::release(data, memory::pinned) ? 0 : CUDA_ERROR_INVALID_VALUE;
}
EMULATED_API CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *ret, void *data, unsigned) {
    EMULATED_CALL
    if (!memory::holds(data, 1, memory::pinned)) return CUDA_ERROR_INVALID_VALUE;
    *ret = reinterpret_cast<CUdeviceptr>(data);
    return 0;
}
EMULATED_API CUresult cuMemAdvise_v2(CUdeviceptr, size_t, int, uint64_t) { return 0; }
EMULATED_API CUresult cuStreamAttachMemAsync(CUstream, CUdeviceptr, size_t, unsigned) { return 0; }

static CUresult outside(const char *call, const char *what, CUdeviceptr data, size_t bytes) {
    say("%s: %s, %zu bytes from %s", call, what, bytes, memory::describe(pointer(data)).c_str());
    return CUDA_ERROR_INVALID_VALUE;
}

// Copies and fills look at their ranges when called, and, as the memory may have been freed since, when run.
static CUresult copy(const char *call, CUdeviceptr to, bool to_device, CUdeviceptr from, bool from_device, size_t bytes, CUstream stream) {
    if (bytes == 0) return 0;
    if (to_device && !memory::holds(pointer(to), bytes, memory::any)) return outside(call, "the target", to, bytes);
    if (from_device && !memory::holds(pointer(from), bytes, memory::any)) return outside(call, "the source", from, bytes);
    return submit(stream, call, [=] {
        if ((to_device && !memory::holds(pointer(to), bytes, memory::any)) || (from_device && !memory::holds(pointer(from), bytes, memory::any))) {
            say("%s: its memory was freed before it ran", call);
            abort();
        }
        memmove(pointer(to), pointer(from), bytes);
    });
}
EMULATED_API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    EMULATED_CALL
    CUdeviceptr source = reinterpret_cast<CUdeviceptr>(from);
    if (memory::holds(from, bytes, memory::pinned | memory::managed)) return copy(__func__, to, true, source, true, bytes, stream);
    // From pageable memory the bytes are taken at the call. A graph could only keep a pointer that soon leads nowhere.
    if (capturing(stream)) return refuse_while_capturing();
    if (!settings().deferred) return copy(__func__, to, true, source, false, bytes, stream);
    if (!memory::holds(pointer(to), bytes, memory::any)) return outside(__func__, "the target", to, bytes);
    std::vector<char> taken(static_cast<const char *>(from), static_cast<const char *>(from) + bytes);
    return submit(stream, __func__, [to, taken = std::move(taken)] {
        emulated_check_range("cuMemcpyHtoDAsync", "the target", pointer(to), taken.size());
        memcpy(pointer(to), taken.data(), taken.size());
    });
}
EMULATED_API CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    EMULATED_CALL
    CUdeviceptr target = reinterpret_cast<CUdeviceptr>(to);
    if (memory::holds(to, bytes, memory::pinned | memory::managed)) return copy(__func__, target, true, from, true, bytes, stream);
    if (capturing(stream)) return refuse_while_capturing();
    // To pageable memory the call returns when the bytes are there.
    if (CUresult error = copy(__func__, target, false, from, true, bytes, stream)) return error;
    return drain(stream);
}
EMULATED_API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    EMULATED_CALL
    return copy(__func__, to, true, from, true, bytes, stream);
}
EMULATED_API CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    EMULATED_CALL
    return copy(__func__, to, memory::known(pointer(to)), from, memory::known(pointer(from)), bytes, stream);
}
EMULATED_API CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext, size_t bytes, CUstream stream) {
    return cuMemcpyDtoDAsync_v2(to, from, bytes, stream);
}
static CUresult copy_now(const char *call, CUdeviceptr to, bool to_device, CUdeviceptr from, bool from_device, size_t bytes) {
    if (CUresult refused = refuse_while_capturing()) return refused;
    if (CUresult error = copy(call, to, to_device, from, from_device, bytes, nullptr)) return error;
    return drain(nullptr);
}
EMULATED_API CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes) {
    EMULATED_CALL
    return copy_now(__func__, to, true, reinterpret_cast<CUdeviceptr>(from), false, bytes);
}
EMULATED_API CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes) {
    EMULATED_CALL
    return copy_now(__func__, reinterpret_cast<CUdeviceptr>(to), false, from, true, bytes);
}
EMULATED_API CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    EMULATED_CALL
    return copy_now(__func__, to, true, from, true, bytes);
}
EMULATED_API CUresult cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    EMULATED_CALL
    return copy_now(__func__, to, memory::known(pointer(to)), from, memory::known(pointer(from)), bytes);
}

template <class T> static CUresult fill(const char *call, CUdeviceptr to, T value, size_t count, CUstream stream) {
    if (count == 0) return 0;
    if (to % sizeof(T)) return CUDA_ERROR_INVALID_VALUE;
    size_t bytes = count * sizeof(T);
    if (!memory::holds(pointer(to), bytes, memory::any)) return outside(call, "the target", to, bytes);
    return submit(stream, call, [=] {
        emulated_check_range(call, "the target", pointer(to), bytes);
        std::fill_n(static_cast<T *>(pointer(to)), count, value);
    });
}
EMULATED_API CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream) {
    EMULATED_CALL
    return fill(__func__, to, value, count, stream);
}
EMULATED_API CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, CUstream stream) {
    EMULATED_CALL
    return fill(__func__, to, value, count, stream);
}
EMULATED_API CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream stream) {
    EMULATED_CALL
    return fill(__func__, to, value, count, stream);
}
EMULATED_API CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) { return cuMemsetD8Async(to, value, count, nullptr); }
EMULATED_API CUresult cuMemsetD16_v2(CUdeviceptr to, unsigned short value, size_t count) { return cuMemsetD16Async(to, value, count, nullptr); }
EMULATED_API CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t count) { return cuMemsetD32Async(to, value, count, nullptr); }

// Memory pools: there is one, and it keeps nothing.

static CUmemoryPool the_pool() { return reinterpret_cast<CUmemoryPool>(&state()); }
EMULATED_API CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice) {
    *pool = the_pool();
    return 0;
}
EMULATED_API CUresult cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice) {
    *pool = the_pool();
    return 0;
}
EMULATED_API CUresult cuDeviceSetMemPool(CUdevice, CUmemoryPool) { return 0; }
EMULATED_API CUresult cuMemPoolSetAttribute(CUmemoryPool, int, void *) { return 0; }
EMULATED_API CUresult cuMemPoolGetAttribute(CUmemoryPool, int attribute, void *value) {
    EMULATED_CALL
    constexpr int reserved = 5, reserved_most = 6, in_use = 7, in_use_most = 8;
    if (attribute == reserved || attribute == in_use) *static_cast<uint64_t *>(value) = memory::used();
    else if (attribute == reserved_most || attribute == in_use_most) *static_cast<uint64_t *>(value) = memory::used_most();
    else memset(value, 0, 4);
    return 0;
}
EMULATED_API CUresult cuMemPoolTrimTo(CUmemoryPool, size_t) { return 0; }

// Modules and functions. Any image will do: the kernels are those that were compiled for the emulator.

EMULATED_API CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    EMULATED_CALL
    if (!image) return CUDA_ERROR_INVALID_VALUE;
    // Machine code and PTX of the product begin at compute capability 8.0.
    if (settings().capability_major < 8) return CUDA_ERROR_NO_BINARY_FOR_GPU;
    *module = new CUmod_st{};
    state().modules.insert(*module);
    return 0;
}
EMULATED_API CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned, int *, void **) {
    return cuModuleLoadData(module, image);
}
EMULATED_API CUresult cuModuleLoadFatBinary(CUmodule *module, const void *image) { return cuModuleLoadData(module, image); }
EMULATED_API CUresult cuModuleLoad(CUmodule *module, const char *file) {
    FILE *opened = fopen(file, "rb");
    if (!opened) return CUDA_ERROR_FILE_NOT_FOUND;
    fclose(opened);
    return cuModuleLoadData(module, file);
}
EMULATED_API CUresult cuModuleUnload(CUmodule module) {
    EMULATED_CALL
    if (!state().modules.erase(module)) return CUDA_ERROR_INVALID_HANDLE;
    delete module;
    return 0;
}
EMULATED_API CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    EMULATED_CALL
    State &s = state();
    if (!s.modules.count(module)) return CUDA_ERROR_INVALID_HANDLE;
    for (auto &known : s.functions) {
        if (!strcmp(known->kernel->name, name)) {
            *function = known.get();
            return 0;
        }
    }
    for (const Source *source : sources()) {
        for (size_t i = 0; i < source->count; i++) {
            if (strcmp(source->kernels[i].name, name)) continue;
            s.functions.push_back(std::make_unique<CUfunc_st>(CUfunc_st{source, &source->kernels[i], 48 << 10}));
            *function = s.functions.back().get();
            return 0;
        }
    }
    return CUDA_ERROR_NOT_FOUND;
}
EMULATED_API CUresult cuModuleGetGlobal_v2(CUdeviceptr *, size_t *, CUmodule, const char *) { return CUDA_ERROR_NOT_FOUND; }
EMULATED_API CUresult cuLibraryLoadData(CUmodule *library, const void *image, int *, void **, unsigned, int *, void **, unsigned) {
    return cuModuleLoadData(library, image);
}
EMULATED_API CUresult cuLibraryUnload(CUmodule library) { return cuModuleUnload(library); }
EMULATED_API CUresult cuLibraryGetModule(CUmodule *module, CUmodule library) {
    *module = library;
    return 0;
}
EMULATED_API CUresult cuLibraryGetKernel(CUfunction *kernel, CUmodule library, const char *name) {
    return cuModuleGetFunction(kernel, library, name);
}
EMULATED_API CUresult cuKernelGetFunction(CUfunction *function, CUfunction kernel) {
    *function = kernel;
    return 0;
}

EMULATED_API CUresult cuFuncGetAttribute(int *value, int attribute, CUfunction function) {
    EMULATED_CALL
    switch (attribute) {
    case 0: *value = static_cast<int>(function->kernel->threads_max ? function->kernel->threads_max : 1024); break;
    case 4: *value = 64; break; // registers a thread
    case 5: case 6: *value = settings().capability_major * 10 + settings().capability_minor; break;
    case 8: *value = function->dynamic_shared_max; break;
    default: *value = 0;
    }
    return 0;
}
EMULATED_API CUresult cuFuncSetAttribute(CUfunction function, int attribute, int value) {
    EMULATED_CALL
    if (attribute == 8) {
        if (value < 0 || value > 227 << 10) return CUDA_ERROR_INVALID_VALUE;
        function->dynamic_shared_max = value;
    }
    return 0;
}
EMULATED_API CUresult cuFuncSetCacheConfig(CUfunction, int) { return 0; }
EMULATED_API CUresult cuFuncLoad(CUfunction) { return 0; }

EMULATED_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, CUfunction, int block_size, size_t shared, unsigned) {
    EMULATED_CALL
    if (block_size < 1 || block_size > 1024) return CUDA_ERROR_INVALID_VALUE;
    size_t by_threads = 2048 / ((static_cast<size_t>(block_size) + 31) / 32 * 32), by_shared = (228 << 10) / (shared + 1024);
    *blocks = static_cast<int>(std::min({by_threads, by_shared, size_t(32)}));
    return 0;
}
EMULATED_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction function, int block_size, size_t shared) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, block_size, shared, 0);
}
EMULATED_API CUresult cuOccupancyMaxPotentialBlockSizeWithFlags(int *grid, int *block, CUfunction function, size_t (*)(int), size_t, int limit, unsigned) {
    EMULATED_CALL
    int most = static_cast<int>(function->kernel->threads_max ? function->kernel->threads_max : 1024);
    *block = limit > 0 ? std::min(limit, most) : most;
    *grid = settings().processors * (2048 / *block);
    return 0;
}
EMULATED_API CUresult cuOccupancyMaxPotentialBlockSize(int *grid, int *block, CUfunction function, size_t (*shared)(int), size_t bytes, int limit) {
    return cuOccupancyMaxPotentialBlockSizeWithFlags(grid, block, function, shared, bytes, limit, 0);
}
EMULATED_API CUresult cuOccupancyAvailableDynamicSMemPerBlock(size_t *bytes, CUfunction, int blocks, int) {
    EMULATED_CALL
    if (blocks < 1) return CUDA_ERROR_INVALID_VALUE;
    *bytes = std::min<size_t>(227 << 10, static_cast<size_t>((228 << 10) / blocks - 1024));
    return 0;
}
