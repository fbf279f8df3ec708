// The environment variables of the emulated driver, and its voice.
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <unistd.h>

#include "internal.h"

namespace emulated {

void say(const char *format, ...) {
    char line[1024];
    int at = snprintf(line, sizeof line, "emulated CUDA: ");
    va_list list;
    va_start(list, format);
    int more = vsnprintf(line + at, sizeof line - static_cast<size_t>(at) - 1, format, list);
    va_end(list);
    at = at + more < static_cast<int>(sizeof line) - 1 ? at + more : static_cast<int>(sizeof line) - 2;
    line[at++] = '\n';
    ssize_t written = write(2, line, static_cast<size_t>(at));
    (void)written;
}

static Settings read() {
    auto text = [](const char *name) {
        const char *value = getenv(name);
        return std::string(value ? value : "");
    };
    auto number = [&](const char *name, long long otherwise) {
        std::string value = text(name);
        if (value.empty()) return otherwise;
        char *end;
        long long n = strtoll(value.c_str(), &end, 10);
        if (*end != 0 || n < 0) {
            say("%s=%s is no number", name, value.c_str());
            abort();
        }
        return n;
    };
    Settings s;
    std::string order = text("EMULATED_CUDA_ORDER");
    if (order == "reverse") {
        s.order = Settings::Order::reverse;
    } else if (order.rfind("random", 0) == 0) {
        s.order = Settings::Order::random;
        if (order.size() > 7) s.seed = strtoull(order.c_str() + 7, nullptr, 10);
    } else if (!order.empty() && order != "forward") {
        say("EMULATED_CUDA_ORDER=%s: use forward, reverse or random:SEED", order.c_str());
        abort();
    }
    unsigned cores = std::thread::hardware_concurrency();
    s.threads = static_cast<unsigned>(number("EMULATED_CUDA_THREADS", cores ? cores : 1));
    if (s.threads == 0) s.threads = 1;
    s.deferred = number("EMULATED_CUDA_DEFERRED", 0) != 0;
    s.leaks = number("EMULATED_CUDA_LEAKS", 0) != 0;
    s.trace = number("EMULATED_CUDA_TRACE", 0) != 0;
    s.profile = number("EMULATED_CUDA_PROFILE", 0) != 0;
    s.races = number("EMULATED_CUDA_RACES", 0) != 0;
    if (s.races) s.threads = 1; // what is kept of each access has no lock
    s.fault_is_error = text("EMULATED_CUDA_FAULT") == "error";
    s.kernels = text("EMULATED_CUDA_KERNELS");
    s.devices = static_cast<int>(number("EMULATED_CUDA_DEVICES", 1));
    s.init_error = static_cast<int>(number("EMULATED_CUDA_INIT_ERROR", 0));
    s.driver_version = static_cast<int>(number("EMULATED_CUDA_DRIVER_VERSION", 13000));
    s.processors = static_cast<int>(number("EMULATED_CUDA_PROCESSORS", 132));
    s.memory = static_cast<size_t>(number("EMULATED_CUDA_MEMORY", 4LL << 30));
    s.failing_launch = static_cast<uint64_t>(number("EMULATED_CUDA_FAIL_LAUNCH", 0));
    std::string capability = text("EMULATED_CUDA_CAPABILITY");
    if (!capability.empty() &&
        sscanf(capability.c_str(), "%d.%d", &s.capability_major, &s.capability_minor) != 2) {
        say("EMULATED_CUDA_CAPABILITY=%s: write it as 9.0", capability.c_str());
        abort();
    }
    return s;
}

const Settings &settings() {
    static const Settings read_once = read();
    return read_once;
}

} // namespace emulated
