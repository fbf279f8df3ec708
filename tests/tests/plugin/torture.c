/* Uses a packet source as no host should: opens and closes it many times, passes nulls and garbage, reads a great many
 * packets, asks on after the end. Exits with 0 when every answer is the one that the header promises.
 *
 *   ./torture LIBRARY CONFIG PACKETS OPENS
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wiremamba_source.h"

static const struct wiremamba_source_table *table;
static const char *config;

#define CHECK(condition)                                                      \
    do {                                                                      \
        if (!(condition)) {                                                   \
            fprintf(stderr, "line %d: not %s\n", __LINE__, #condition);       \
            exit(1);                                                          \
        }                                                                     \
    } while (0)

static void *open_or_die(void) {
    char error[256] = "";
    void *source = table->open(config, error, sizeof error);
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
        CHECK(table->open(bad, room == 0 ? NULL : error, room) == NULL);
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

/* Different sources may be used in parallel. */
static void *read_alone(void *ret_sum) {
    void *source = open_or_die();
    CHECK(read_packets(source, 200, ret_sum) == 200);
    table->close(source);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    CHECK(library != NULL);
    const struct wiremamba_source_table *(*entry)(void);
    *(void **)&entry = dlsym(library, "wiremamba_source_entry");
    CHECK(entry != NULL);
    table = entry();
    CHECK(table->abi_version == WIREMAMBA_ABI_VERSION && table->size >= sizeof *table && entry() == table);
    config = argv[2];
    unsigned long packets = strtoul(argv[3], NULL, 10), opens = strtoul(argv[4], NULL, 10);

    const char *bad[] = {"", ",", "=", "model", "model=", "model=/nowhere", "model=/dev/null", "colour=red", "\xff\xfe",
                         "model=/nowhere,flows=-1", "flows=99999999999999999999,model=/nowhere", NULL};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) refuse(bad[i]);
    CHECK(table->next_packet(NULL, NULL) == WIREMAMBA_ERROR);
    CHECK(strlen(table->geterr(NULL)) > 0);
    table->close(NULL);

    void *source = open_or_die();
    CHECK(table->next_packet(source, NULL) == WIREMAMBA_ERROR && strlen(table->geterr(source)) > 0);
    uint64_t sum = 0, again = 0;
    CHECK(read_packets(source, packets, &sum) == packets);
    table->close(source);

    /* The same configuration gives the same bytes, whatever was done before; also side by side. */
    uint64_t first = 0;
    source = open_or_die();
    CHECK(read_packets(source, 200, &first) == 200);
    table->close(source);
    for (unsigned long i = 0; i < opens; i++) {
        source = open_or_die();
        again = 0;
        if (i % 10 == 0) CHECK(read_packets(source, 200, &again) == 200 && again == first);
        table->close(source);
    }
    pthread_t threads[2];
    uint64_t sums[2] = {0, 0};
    for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, read_alone, &sums[i]) == 0);
    for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0 && sums[i] == first);
    return 0;
}
