/* What usrsctp_carrier.c uses of usrsctp_packets.c. */
#ifndef USRSCTP_PACKETS_H
#define USRSCTP_PACKETS_H

#include "usrsctp_carrier.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>

enum {
    OUT_PACKETS = 1024,
    LARGE_PACKET = 16 * 1024,   /* bytes: three such packets hold what is sent until a SACK is asked for (ASK_EVERY) */
};

/*
 * The other end of an association: a remote UDP address, and the SCTP ports at both ends, for associations may share their
 * UDP ports (those of a kernel do). The library knows it by its index in `peers`.
 */
struct peer {
    union {
        struct sockaddr sa;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } name;
    socklen_t name_length;
    int endpoint;               /* -1: slot is free */
    uint32_t references;        /* associations, more than one while they follow each other; 0: in its endpoint's list of
                                   unclaimed peers */
    uint32_t hash_next, before, after;
    uint64_t used_ms, packets_in, packets_out;
    uint32_t gapped;            /* chunks that its last SACK acknowledged beyond the cumulative TSN */
    bool small;                 /* it fragments messages into packets below LARGE_PACKET */
    uint32_t cumulative;        /* TSN, of our last SACK; */
    bool closed;                /* it said that our window is closed */
    uint32_t scope;
    uint16_t port, own_sctp_port, sctp_port;
    uint8_t address[16];
    struct start *start;        /* until it has left slow start */
};

struct out_packet {
    uint32_t offset, length, peer;
};

/* A UDP socket. */
struct endpoint {
    int fd, family;
    bool segmentation, blocked, out_dirty;
    struct endpoint *out_next;  /* while out_dirty */
    uint8_t *out;
    uint32_t out_used, out_count, out_first;
    struct out_packet packets[OUT_PACKETS];
    uint32_t unclaimed_first, unclaimed_last, unclaimed, max_unclaimed;
    uint32_t associations, max_associations;
    uint8_t *networks;          /* 17 bytes each: an address (IPv4 as ::ffff:a.b.c.d) and its prefix length in bits */
    uint32_t network_count;
    uint8_t ports[65536 / 8];   /* SCTP ports with a listener, a bit each */
    uint32_t refused[CARRIER_REFUSALS]; /* INITs since the last carrier_refused(), */
    struct carrier_source refused_last[CARRIER_REFUSALS]; /* and the source of the last one */
};

extern struct peer peers[CARRIER_PEERS];
extern struct carrier_counters packet_counters;

int packets_init(void);

/* Send all queued packets of all endpoints; CARRIER_BLOCKED if an endpoint is blocked. */
int packets_flush(void);

/* The library's output function. */
int packets_output(void *address, void *buffer, size_t length, uint8_t tos, uint8_t dont_fragment);

struct endpoint *endpoint_of(int handle);
void endpoint_listen(int handle, uint16_t port);
/* At all endpoints: a port has one listener in a process. */
void endpoints_unlisten(uint16_t port);

/* The slot of a peer; 0 if it has none. */
uint32_t peer_find(const struct carrier_source *source);
/* An unclaimed slot for a new peer; 0 if the endpoint has too many unclaimed ones. */
uint32_t peer_make(const struct carrier_source *source);
/* Our SCTP port was not known yet. */
void peer_set_own_port(uint32_t at, uint16_t own_sctp_port);
/* An association begins or ceases to use a slot. */
void peer_claim(uint32_t at);
void peer_release(uint32_t at);
/* Watch how the association starts. */
void peer_start_begins(uint32_t at);
void peer_start_ends(uint32_t at);

#endif
