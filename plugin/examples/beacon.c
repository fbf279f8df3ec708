/* A source in C: a host that reports to its master every few seconds, by UDP, as much malware does.
 *
 *   cc -shared -fPIC -I plugin/include plugin/examples/beacon.c -o beacon.so
 *   wiremamba replay --plugin beacon.so:packets=100,seconds=5 --tap tap0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wiremamba_source.h"

struct beacon {
    uint32_t packets, seconds, sent;
    uint8_t frame[60];
    char error[64];
};

static uint16_t checksum(const uint8_t *bytes, size_t count) {
    uint32_t sum = 0;
    for (size_t i = 0; i < count; i += 2) sum += (uint32_t)bytes[i] << 8 | bytes[i + 1];
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static void *open_beacon(const char *config, const struct wiremamba_source_host *host, char *ret_error, size_t error_size) {
    (void)host;
    struct beacon *beacon = calloc(1, sizeof *beacon);
    if (beacon == NULL) return NULL;
    beacon->packets = 10, beacon->seconds = 60;
    for (const char *at = config; *at != '\0'; at += strcspn(at, ","), at += *at == ',') {
        if (sscanf(at, "packets=%u", &beacon->packets) == 1 || sscanf(at, "seconds=%u", &beacon->seconds) == 1) continue;
        if (error_size > 0) snprintf(ret_error, error_size, "unknown: %s; there are packets=N and seconds=N", at);
        free(beacon);
        return NULL;
    }
    /* Ethernet; IPv4 from 10.9.9.9 to 203.0.113.9; UDP to port 4444, without a checksum; 18 bytes of payload. */
    static const uint8_t head[42] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0, 0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0,
                                     10, 9, 9, 9, 203, 0, 113, 9, 0x9c, 0x40, 0x11, 0x5c, 0, 26, 0, 0};
    memcpy(beacon->frame, head, sizeof head);
    return beacon;
}

static int next_beacon(void *source, struct wiremamba_source_packet *ret_packet) {
    struct beacon *beacon = source;
    if (beacon->sent == beacon->packets) return WIREMAMBA_END;
    uint8_t *ip = beacon->frame + 14;
    ip[4] = (uint8_t)(beacon->sent >> 8), ip[5] = (uint8_t)beacon->sent, ip[10] = ip[11] = 0;
    uint16_t sum = checksum(ip, 20);
    ip[10] = (uint8_t)(sum >> 8), ip[11] = (uint8_t)sum;
    snprintf((char *)beacon->frame + 42, 18, "alive %u", beacon->sent);
    *ret_packet = (struct wiremamba_source_packet){.data = beacon->frame, .caplen = 60, .len = 60, .linktype = 1,
        .direction = WIREMAMBA_DIRECTION_CLIENT, .flow_id = 1};
    ret_packet->ts_ns = 1700000000000000000 + (int64_t)beacon->sent++ * beacon->seconds * 1000000000;
    return WIREMAMBA_PACKET;
}

static int describe_beacon(uint32_t index, struct wiremamba_source_option *ret_option) {
    static const struct wiremamba_source_option options[] = {
        {.key = "packets", .default_value = "10", .help = "Reports to send", .kind = WIREMAMBA_OPTION_INTEGER},
        {.key = "seconds", .default_value = "60", .help = "Time between two", .kind = WIREMAMBA_OPTION_INTEGER}};
    if (index >= sizeof options / sizeof *options) return WIREMAMBA_END;
    *ret_option = options[index];
    return WIREMAMBA_PACKET;
}

static const char *error_of_beacon(const void *source) { return ((const struct beacon *)source)->error; }

static const struct wiremamba_source_table table = {.abi_version = WIREMAMBA_ABI_VERSION, .size = sizeof table,
    .name = "beacon", .open = open_beacon, .next_packet = next_beacon, .geterr = error_of_beacon, .close = free,
    .describe = describe_beacon};

const struct wiremamba_source_table *wiremamba_source_entry(void) { return &table; }
