/* The C ABI of a packet source: what a library exports to be one, and what a host may rely on. wiremamba-plugin(3) has the
 * words. A library exports one function, wiremamba_source_entry, which returns a constant table. The manners are libpcap's:
 * 1 for a packet, 0 for nothing yet, -1 for an error, -2 for the end. A library stays loaded once it was loaded.
 *
 * Made by cbindgen from plugin/abi; do not edit. A change raises WIREMAMBA_ABI_VERSION.
 */

#ifndef WIREMAMBA_SOURCE_H
#define WIREMAMBA_SOURCE_H

#include <stddef.h>
#include <stdint.h>

/**
 * Version of everything in this file.
 */
#define WIREMAMBA_ABI_VERSION 2

/**
 * A packet was given; next_batch returns how many.
 */
#define WIREMAMBA_PACKET 1

/**
 * There is nothing yet: ask again, or wait for pollfd.
 */
#define WIREMAMBA_IDLE 0

/**
 * It failed; geterr has the text.
 */
#define WIREMAMBA_ERROR -1

/**
 * The end, and for ever after.
 */
#define WIREMAMBA_END -2

/**
 * Somebody called interrupt. Nothing is lost: the next call goes on.
 */
#define WIREMAMBA_INTERRUPTED -3

/**
 * SourcePacket.direction: not known.
 */
#define WIREMAMBA_DIRECTION_UNKNOWN 0

/**
 * SourcePacket.direction: from the client, who began the flow.
 */
#define WIREMAMBA_DIRECTION_CLIENT 1

/**
 * SourcePacket.direction: from the server.
 */
#define WIREMAMBA_DIRECTION_SERVER 2

/**
 * SourceOption.kind: any text without a comma.
 */
#define WIREMAMBA_OPTION_TEXT 0

/**
 * SourceOption.kind: a folder.
 */
#define WIREMAMBA_OPTION_FOLDER 1

/**
 * SourceOption.kind: a whole number from 0.
 */
#define WIREMAMBA_OPTION_INTEGER 2

/**
 * SourceOption.kind: a number.
 */
#define WIREMAMBA_OPTION_NUMBER 3

/**
 * Bit of SourceOption.flags: it has to be given.
 */
#define WIREMAMBA_OPTION_REQUIRED 1

/**
 * Bit of SourceOption.flags: it may be given several times.
 */
#define WIREMAMBA_OPTION_REPEATABLE 2

/**
 * Level of a log line.
 */
#define WIREMAMBA_LOG_ERROR 1

/**
 * Level of a log line.
 */
#define WIREMAMBA_LOG_WARN 2

/**
 * Level of a log line.
 */
#define WIREMAMBA_LOG_INFO 3

/**
 * Level of a log line.
 */
#define WIREMAMBA_LOG_DEBUG 4

/**
 * What a host offers to a source; may be null.
 */
struct wiremamba_source_host {
    /**
     * Bytes of this struct as the host knows it.
     */
    uint32_t size;
    /**
     * Zero.
     */
    uint32_t reserved;
    /**
     * Takes a line of text for the host's log; may be null. It is called only by the thread that is calling the source, and
     * only during that call.
     */
    void (*log)(void *log_arg, int level, const char *text);
    /**
     * Passed to log.
     */
    void *log_arg;
};

/**
 * A packet.
 */
struct wiremamba_source_packet {
    /**
     * Time in nanoseconds since 1970. Times do not go back.
     */
    int64_t ts_ns;
    /**
     * The captured bytes, owned by the source; valid until the next call of next_packet, next_batch, rewind or close with
     * the same source.
     */
    const uint8_t *data;
    /**
     * Bytes at data; at most 262144.
     */
    uint32_t caplen;
    /**
     * Length on the wire, at least caplen.
     */
    uint32_t len;
    /**
     * LINKTYPE_ number of the first header (tcpdump.org/linktypes.html); 1 is Ethernet.
     */
    uint32_t linktype;
    /**
     * One of DIRECTION_.
     */
    uint32_t direction;
    /**
     * The same for all packets of a flow or session, and for no others; 0 where flows are not known.
     */
    uint64_t flow_id;
};

/**
 * A key of the configuration.
 */
struct wiremamba_source_option {
    /**
     * Its name.
     */
    const char *key;
    /**
     * What it is when it is not given; null for nothing.
     */
    const char *default_value;
    /**
     * What it does, in a line.
     */
    const char *help;
    /**
     * One of OPTION_TEXT and the like.
     */
    uint32_t kind;
    /**
     * OPTION_REQUIRED and OPTION_REPEATABLE.
     */
    uint32_t flags;
};

/**
 * What a source has done since it was opened or rewound.
 */
struct wiremamba_source_stats {
    /**
     * Packets given out.
     */
    uint64_t packets;
    /**
     * Their bytes.
     */
    uint64_t bytes;
    /**
     * Flows generated, or read; some may not have been given out yet.
     */
    uint64_t flows;
    /**
     * Packets left out because they made no sense.
     */
    uint64_t malformed;
};

/**
 * What a library can do. Functions from describe on may be null: the host then does without.
 *
 * A source is used by one thread at a time, whichever it is; different sources may be used in parallel. Only interrupt and
 * stats may be called from another thread while a call is under way, and not after close has begun. No call sleeps: the
 * host paces. A call may compute for as long as it takes; interrupt ends it.
 */
struct wiremamba_source_table {
    /**
     * ABI_VERSION of the library.
     */
    uint32_t abi_version;
    /**
     * Bytes of this struct as the library knows it. It grows at its end only.
     */
    uint32_t size;
    /**
     * Name of the source.
     */
    const char *name;
    /**
     * Opens a source. config is UTF-8, key=value with commas between. On failure returns null and writes a string of at most
     * error_size bytes, its end included, to ret_error (which may be null when error_size is 0). host has to live until
     * close.
     */
    void *(*open)(const char *config, const struct wiremamba_source_host *host, char *ret_error, uintptr_t error_size);
    /**
     * Fills *ret_packet and returns PACKET, or returns another code and leaves it as it was.
     */
    int (*next_packet)(void *source, struct wiremamba_source_packet *ret_packet);
    /**
     * The text of the last error of this source, valid until the next call with it; never null.
     */
    const char *(*geterr)(const void *source);
    /**
     * Closes the source: nothing of it is left, no thread either. Null does nothing.
     */
    void (*close)(void *source);
    /**
     * Fills *ret_option with the key number index, from 0, and returns PACKET; END where there are no more. What it points to
     * lives as long as the library.
     */
    int (*describe)(uint32_t index, struct wiremamba_source_option *ret_option);
    /**
     * Fills as many of ret_packets as there are now, at most count, and returns how many; another code, none above 0, as
     * next_packet. All of them are valid until the next call.
     */
    int (*next_batch)(void *source, struct wiremamba_source_packet *ret_packets, uint32_t count);
    /**
     * Makes the call that is under way return INTERRUPTED soon, or else the next one. From any thread, also from a signal
     * handler.
     */
    void (*interrupt)(void *source);
    /**
     * Fills *ret_stats. From any thread. Returns PACKET or ERROR.
     */
    int (*stats)(void *source, struct wiremamba_source_stats *ret_stats);
    /**
     * Begins again with another seed, or with the same for the same packets. Returns PACKET or ERROR; after an error the
     * source is at its end.
     */
    int (*rewind)(void *source, uint64_t seed);
    /**
     * A descriptor that is readable when a call would not return IDLE, owned by the source; -1 where it never does.
     */
    int (*pollfd)(void *source);
};

#endif  /* WIREMAMBA_SOURCE_H */

#ifdef __cplusplus
extern "C" {
#endif

/* The one function that a library exports. The table lives as long as the library. */
const struct wiremamba_source_table *wiremamba_source_entry(void);

#ifdef __cplusplus
}
#endif
