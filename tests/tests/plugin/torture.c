/* Uses a packet source as no host should: opens and closes it many times, passes nulls and garbage, reads a great many
 * packets, asks on after the end. Exits with 0 when every answer is the one that the header promises.
 *
 * The source's seed has to be 3. PATIENCE is the longest that an interrupted call may take, in milliseconds;
 * FEW the packets of each short reading.
 *
 *   ./torture LIBRARY CONFIG PACKETS OPENS PATIENCE FEW
 */
#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "wiremamba_source.h"

static const struct wiremamba_source_table *table;
static const char *config;
/* Longest that an interrupted call may take, in seconds. */
static double patience;
/* Packets of a short reading. */
static unsigned long few;

#define CHECK(condition)                                                      \
    do {                                                                      \
        if (!(condition)) {                                                   \
            fprintf(stderr, "line %d: not %s\n", __LINE__, #condition);       \
            exit(1);                                                          \
        }                                                                     \
    } while (0)

static unsigned long lines;

static void log_line(void *log_arg, int level, const char *text) {
    CHECK(log_arg == &lines && level >= WIREMAMBA_LOG_ERROR && level <= WIREMAMBA_LOG_DEBUG && strlen(text) > 0);
    __atomic_add_fetch(&lines, 1, __ATOMIC_RELAXED);
}

static const struct wiremamba_source_host host = {.size = sizeof host, .log = log_line, .log_arg = &lines};

static void *open_or_die(void) {
    char error[256] = "";
    void *source = table->open(config, &host, error, sizeof error);
    if (source == NULL) fprintf(stderr, "%s\n", error);
    CHECK(source != NULL);
    return source;
}

/* Every failure has text, which fits where it is written, whatever room there is. */
static void refuse(const char *bad) {
    for (size_t room = 0; room < 80; room = room * 2 + 1) {
        char *error = malloc(room + 1);
        CHECK(error != NULL);
        memset(error, 'x', room + 1);
        CHECK(table->open(bad, NULL, room == 0 ? NULL : error, room) == NULL);
        CHECK(room == 0 || memchr(error, '\0', room) != NULL);
        CHECK(room < 2 || strlen(error) > 0);
        CHECK(error[room] == 'x');
        free(error);
    }
}

/* Reads packets, and looks at every byte of them. Returns how many there were. */
static unsigned long read_packets(void *source, unsigned long most, uint64_t *ret_sum) {
    struct wiremamba_source_packet packet;
    unsigned long count = 0;
    int64_t last = INT64_MIN;
    while (count < most) {
        int code = table->next_packet(source, &packet);
        if (code == WIREMAMBA_IDLE) continue;
        if (code != WIREMAMBA_PACKET) {
            CHECK(code == WIREMAMBA_END);
            CHECK(table->next_packet(source, &packet) == WIREMAMBA_END);
            break;
        }
        CHECK(packet.caplen <= packet.len && packet.ts_ns >= last);
        last = packet.ts_ns;
        for (uint32_t i = 0; i < packet.caplen; i++) *ret_sum = *ret_sum * 31 + packet.data[i];
        count++;
    }
    return count;
}

/* Reads the same packets, many at a time. */
static unsigned long read_batches(void *source, unsigned long most, uint64_t *ret_sum) {
    struct wiremamba_source_packet packets[7];
    unsigned long count = 0;
    while (count < most) {
        uint32_t room = most - count < 7 ? (uint32_t)(most - count) : 7;
        int code = table->next_batch(source, packets, room);
        if (code == WIREMAMBA_IDLE) continue;
        CHECK(code > 0 && (uint32_t)code <= room);
        for (int i = 0; i < code; i++) {
            CHECK(packets[i].flow_id > 0 && packets[i].direction != WIREMAMBA_DIRECTION_UNKNOWN);
            for (uint32_t at = 0; at < packets[i].caplen; at++) *ret_sum = *ret_sum * 31 + packets[i].data[at];
        }
        count += (unsigned long)code;
    }
    return count;
}

/* The table of options ends, and all of it is text. */
static void describe_all(void) {
    struct wiremamba_source_option option;
    uint32_t index = 0;
    while (table->describe(index, &option) == WIREMAMBA_PACKET) {
        CHECK(strlen(option.key) > 0 && strlen(option.help) > 0 && option.kind <= WIREMAMBA_OPTION_NUMBER);
        CHECK(option.default_value == NULL || strlen(option.default_value) > 0);
        index++;
    }
    CHECK(index > 3 && table->describe(index, &option) == WIREMAMBA_END);
    CHECK(table->describe(UINT32_MAX, &option) == WIREMAMBA_END && table->describe(0, NULL) == WIREMAMBA_ERROR);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int is_over;

/* Interrupts and asks, from another thread, until it is over. */
static void *interrupt_often(void *source) {
    struct wiremamba_source_stats stats;
    uint64_t before = 0;
    const long nanos = (long)(patience * 1e9 / 500);
    const struct timespec pause = {.tv_sec = nanos / 1000000000, .tv_nsec = nanos % 1000000000};
    while (!__atomic_load_n(&is_over, __ATOMIC_ACQUIRE)) {
        table->interrupt(source);
        CHECK(table->stats(source, &stats) == WIREMAMBA_PACKET && stats.packets >= before);
        before = stats.packets;
        nanosleep(&pause, NULL);
    }
    return NULL;
}

/* Interrupted while it computes, and between two calls: nothing is lost, and no call takes long after it. */
static void interrupt_it(uint64_t first) {
    struct wiremamba_source_packet packet;
    struct wiremamba_source_stats stats;
    pthread_t thread;
    void *source = open_or_die();
    uint64_t sum = 0;
    unsigned long count = 0, interrupted = 0;
    table->interrupt(source);
    table->interrupt(source);
    CHECK(table->next_packet(source, &packet) == WIREMAMBA_INTERRUPTED);
    CHECK(pthread_create(&thread, NULL, interrupt_often, source) == 0);
    while (count < few) {
        int code = table->next_packet(source, &packet);
        if (code == WIREMAMBA_INTERRUPTED) {
            interrupted++;
            continue;
        }
        CHECK(code == WIREMAMBA_PACKET);
        for (uint32_t i = 0; i < packet.caplen; i++) sum = sum * 31 + packet.data[i];
        count++;
    }
    __atomic_store_n(&is_over, 1, __ATOMIC_RELEASE);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(interrupted > 0 && sum == first);
    CHECK(table->stats(source, &stats) == WIREMAMBA_PACKET && stats.packets == few && stats.flows > 0);
    table->close(source);
}

struct blocked {
    void *source;
    double returned;
    int code;
};

/* Computes until it is interrupted: a flow takes the small model far longer than that. */
static void *block(void *arg) {
    struct blocked *blocked = arg;
    struct wiremamba_source_packet packet;
    while ((blocked->code = table->next_packet(blocked->source, &packet)) == WIREMAMBA_PACKET) continue;
    blocked->returned = now();
    return NULL;
}

static void interrupt_while_blocked(void) {
    const struct timespec pause = {.tv_nsec = 20000000};
    struct blocked blocked = {.source = open_or_die()};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, block, &blocked) == 0);
    nanosleep(&pause, NULL);
    double asked = now();
    table->interrupt(blocked.source);
    CHECK(pthread_join(thread, NULL) == 0 && blocked.code == WIREMAMBA_INTERRUPTED);
    printf("interrupted within %.1f ms\n", (blocked.returned - asked) * 1e3);
    CHECK(blocked.returned - asked < patience);
    table->close(blocked.source);
}

static int threads(void) {
    DIR *folder = opendir("/proc/self/task");
    int count = 0;
    CHECK(folder != NULL);
    while (readdir(folder) != NULL) count++;
    closedir(folder);
    return count;
}

/* Different sources may be used in parallel. */
static void *read_alone(void *ret_sum) {
    void *source = open_or_die();
    CHECK(read_packets(source, few, ret_sum) == few);
    table->close(source);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 7) return 2;
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    CHECK(library != NULL);
    const struct wiremamba_source_table *(*entry)(void);
    *(void **)&entry = dlsym(library, "wiremamba_source_entry");
    CHECK(entry != NULL);
    table = entry();
    CHECK(table->abi_version == WIREMAMBA_ABI_VERSION && table->size >= sizeof *table && entry() == table);
    config = argv[2];
    unsigned long packets = strtoul(argv[3], NULL, 10), opens = strtoul(argv[4], NULL, 10);
    patience = strtod(argv[5], NULL) / 1e3;
    few = strtoul(argv[6], NULL, 10);

    const char *bad[] = {"", ",", "=", "model", "model=", "model=/nowhere", "model=/dev/null", "colour=red", "\xff\xfe",
                         "model=/nowhere,flows=-1", "flows=99999999999999999999,model=/nowhere", NULL};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) refuse(bad[i]);
    CHECK(table->next_packet(NULL, NULL) == WIREMAMBA_ERROR);
    CHECK(strlen(table->geterr(NULL)) > 0);
    table->close(NULL);
    table->interrupt(NULL);
    CHECK(table->stats(NULL, NULL) == WIREMAMBA_ERROR && table->rewind(NULL, 1) == WIREMAMBA_ERROR);
    CHECK(table->next_batch(NULL, NULL, 5) == WIREMAMBA_ERROR);
    describe_all();

    int threads_before = threads();
    void *source = open_or_die();
    struct wiremamba_source_packet none;
    CHECK(lines == 1 && table->pollfd(source) == -1);
    CHECK(table->next_batch(source, &none, 0) == WIREMAMBA_ERROR && strlen(table->geterr(source)) > 0);
    CHECK(table->stats(source, NULL) == WIREMAMBA_ERROR);
    CHECK(table->next_packet(source, NULL) == WIREMAMBA_ERROR && strlen(table->geterr(source)) > 0);
    uint64_t sum = 0, again = 0;
    CHECK(read_packets(source, packets, &sum) == packets);
    table->close(source);

    /* The same configuration gives the same bytes, whatever was done before; also side by side. */
    uint64_t first = 0;
    source = open_or_die();
    CHECK(read_packets(source, few, &first) == few);
    table->close(source);
    for (unsigned long i = 0; i < opens; i++) {
        source = open_or_die();
        again = 0;
        if (i % 10 == 0) CHECK(read_packets(source, few, &again) == few && again == first);
        table->close(source);
    }
    pthread_t pair[2];
    uint64_t sums[2] = {0, 0};
    for (int i = 0; i < 2; i++) CHECK(pthread_create(&pair[i], NULL, read_alone, &sums[i]) == 0);
    for (int i = 0; i < 2; i++) CHECK(pthread_join(pair[i], NULL) == 0 && sums[i] == first);

    /* From the beginning again: the same seed, the same packets; another, others. In batches, too. */
    source = open_or_die();
    for (uint64_t seed = 3; seed < 5; seed++) {
        again = 0;
        CHECK(read_packets(source, few / 2, &again) == few / 2);
        CHECK(table->rewind(source, seed) == WIREMAMBA_PACKET);
        again = 0;
        CHECK(read_batches(source, few, &again) == few && (again == first) == (seed == 3));
    }
    table->close(source);
    interrupt_it(first);
    interrupt_while_blocked();
    /* The kernel lists a thread that was joined for a moment more. */
    const struct timespec moment = {0, 1000000};
    const double end = now() + patience;
    while (threads() != threads_before && now() < end) nanosleep(&moment, NULL);
    CHECK(threads() == threads_before);
    return 0;
}
