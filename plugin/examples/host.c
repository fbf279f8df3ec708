/* A host in C: opens a source and writes its packets to standard output as a capture file.
 *
 *   cc -I plugin/include plugin/examples/host.c -ldl -o host
 *   ./host target/release/libwiremamba.so model=DIR,label=dns,packets=100 >out.pcap
 */
#include <dlfcn.h>
#include <stdio.h>

#include "wiremamba_source.h"

static int write_u32(uint32_t value) { return fwrite(&value, sizeof value, 1, stdout) == 1; }

/* What the source has to say goes where errors go. */
static void log_line(void *log_arg, int level, const char *text) {
    (void)log_arg;
    if (level <= WIREMAMBA_LOG_WARN) fprintf(stderr, "%s\n", text);
}

int main(int argc, char **argv) {
    char error[256] = "";
    struct wiremamba_source_packet packet;
    const struct wiremamba_source_table *(*entry)(void);
    int code, header_written = 0;

    if (argc != 3) {
        fprintf(stderr, "usage: %s LIBRARY CONFIG >FILE\n", argv[0]);
        return 2;
    }
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    *(void **)&entry = dlsym(library, "wiremamba_source_entry");
    if (entry == NULL) {
        fprintf(stderr, "%s is no packet source\n", argv[1]);
        return 1;
    }
    const struct wiremamba_source_table *table = entry();
    if (table->abi_version != WIREMAMBA_ABI_VERSION || table->size < sizeof *table) {
        fprintf(stderr, "%s has ABI version %u, this host %d\n", argv[1], table->abi_version,
                WIREMAMBA_ABI_VERSION);
        return 1;
    }
    const struct wiremamba_source_host host = {.size = sizeof host, .log = log_line};
    void *source = table->open(argv[2], &host, error, sizeof error);
    if (source == NULL) {
        fprintf(stderr, "%s: %s\n", table->name, error);
        return 1;
    }
    while ((code = table->next_packet(source, &packet)) >= WIREMAMBA_IDLE) {
        if (code == WIREMAMBA_IDLE)
            continue;
        /* The file's header: nanosecond magic, version 2.4, snaplen, link type. */
        if (!header_written)
            header_written = write_u32(0xa1b23c4d) && write_u32(2 | 4 << 16) && write_u32(0) && write_u32(0) &&
                             write_u32(262144) && write_u32(packet.linktype);
        if (!header_written || !write_u32((uint32_t)(packet.ts_ns / 1000000000)) ||
            !write_u32((uint32_t)(packet.ts_ns % 1000000000)) || !write_u32(packet.caplen) || !write_u32(packet.len) ||
            fwrite(packet.data, 1, packet.caplen, stdout) != packet.caplen) {
            perror("write");
            table->close(source);
            return 1;
        }
    }
    if (code == WIREMAMBA_ERROR)
        fprintf(stderr, "%s: %s\n", table->name, table->geterr(source));
    table->close(source);
    return code == WIREMAMBA_END && fflush(stdout) == 0 ? 0 : 1;
}
