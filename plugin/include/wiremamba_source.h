/* The C ABI of a packet source: what a library exports to be one, and what a host may rely on.
 *
 * A library exports one function, wiremamba_source_entry, which returns a constant table. The manners are libpcap's:
 * 1 for a packet, 0 for nothing yet, -1 for an error, -2 for the end. A source belongs to one thread at a time; different
 * sources may be used in parallel. A source never sleeps: the host paces. Structs grow at the end only; `size` says how
 * much of the table there is. A library stays loaded once it was loaded.
 *
 * A change here raises WIREMAMBA_ABI_VERSION.
 */
#ifndef WIREMAMBA_SOURCE_H
#define WIREMAMBA_SOURCE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WIREMAMBA_ABI_VERSION 1

#define WIREMAMBA_PACKET 1
#define WIREMAMBA_IDLE 0
#define WIREMAMBA_ERROR (-1)
#define WIREMAMBA_END (-2)

struct wiremamba_source_packet {
    int64_t ts_ns;       /* nanoseconds since 1970 */
    const uint8_t *data; /* owned by the source, valid until the next call with the same handle */
    uint32_t caplen;     /* bytes at data */
    uint32_t len;        /* length on the wire */
    uint32_t linktype;   /* LINKTYPE_ number of the first header */
    uint32_t reserved;   /* zero */
};

struct wiremamba_source_table {
    uint32_t abi_version; /* WIREMAMBA_ABI_VERSION of the library */
    uint32_t size;        /* bytes of this struct as the library knows it */
    const char *name;
    /* Opens a source. config is UTF-8, key=value,key=value. On failure returns NULL and writes a string of at most
     * error_size bytes, its end included, to ret_error (which may be NULL when error_size is 0). */
    void *(*open)(const char *config, char *ret_error, size_t error_size);
    /* Fills *ret_packet and returns WIREMAMBA_PACKET, or returns another code and leaves it as it was. */
    int (*next_packet)(void *source, struct wiremamba_source_packet *ret_packet);
    /* The text of the source's last error, valid until the next call with it; never NULL. */
    const char *(*geterr)(const void *source);
    /* Closes the source. NULL does nothing. */
    void (*close)(void *source);
};

const struct wiremamba_source_table *wiremamba_source_entry(void);

#ifdef __cplusplus
}
#endif
#endif
