/*
 * Packets between UDP sockets and libusrsctp: endpoints (the sockets), peers (remote ends), and the checks before a
 * packet reaches the library.
 */
#define _GNU_SOURCE
#include "usrsctp_packets.h"
#include "crc32c.h"
#include "usrsctp_timers.h"

#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <usrsctp.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum {
    DATAGRAMS = 8,              /* buffers of one recvmmsg(); with GRO each holds up to 64 KiB of packets */
    DATAGRAM_SIZE = 65536,
    FLUSH_EVERY = 32,           /* input packets between flushes; with more, both peers run in lockstep */
    OUT_BYTES = 512 * 1024,
    RUNS = 64,                  /* messages of one sendmmsg() */
    SEGMENTS = 64,              /* packets of one GSO send (UDP_MAX_SEGMENTS of old kernels) */
    RUN_BYTES = 63000,
    ENDPOINTS = 4096,
    COMMON_HEADER = 12,         /* RFC 9260 section 3.1 */
    CHUNK_HEADER = 4,
    CAUSE_HEADER = 4,
    DATA_HEADER = 16,           /* before its payload; that of I-DATA is longer */
    SACK_HEADER = 16,           /* before its gap blocks */
    I_DATA = 0x40,              /* RFC 8260 section 2.1; not in the library's header */
    LAST_FRAGMENT = 0x01,       /* the E bit of DATA and I-DATA */
    USER_INITIATED_ABORT = 12,  /* section 3.3.10.12 */
    REASON = 24,                /* bytes of a reason, with its padding */
    INIT_BURST = 256,           /* INITs that an address may send at once; */
    INIT_EVERY_US = 15625,      /* then one in this time: 64 a second */
    INIT_PLACES = 12,           /* addresses that are distinguished, as a power of two */
    CHUNK_COST = 256,           /* what the library counts for a chunk that it keeps, beside its payload */
    WINDOW_RESERVE = 32 * 1024, /* bytes of our window of which the peer is not told */
    SPARSE = 4,                 /* times what a chunk counts is what it may keep */
    PEER_GRACE_MS = 2000,       /* a peer without an association keeps its slot at least this long, for a slow handshake */
};

static struct {
    struct endpoint *endpoints[ENDPOINTS];
    int endpoint_count;
    struct endpoint *out_dirty; /* endpoints with queued packets, not all: there may be one for each association */
    uint32_t peer_unused, peer_free;
    uint64_t hash_seed;
    uint8_t *datagrams;
    bool refused;
} state;

struct peer peers[CARRIER_PEERS];
struct carrier_counters packet_counters;
static uint32_t peer_buckets[CARRIER_PEERS];

static uint16_t get16(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }

static uint32_t get32(const uint8_t *at) { return (uint32_t)get16(at) << 16 | get16(at + 2); }

struct endpoint *endpoint_of(int handle) {
    return handle >= 0 && handle < ENDPOINTS ? state.endpoints[handle] : NULL;
}

int packets_init(void) {
    if (getrandom(&state.hash_seed, sizeof state.hash_seed, 0) != sizeof state.hash_seed)
        return -errno;
    if (!(state.datagrams = malloc((size_t)DATAGRAMS * DATAGRAM_SIZE + CHUNK_HEADER)))
        return -ENOMEM;
    for (uint32_t i = 0; i < CARRIER_PEERS; i++)
        peers[i].endpoint = -1;
    crc32c_start();
    return 0;
}

static bool listens(const struct endpoint *endpoint, uint16_t port) {
    return endpoint->ports[port / 8] >> (port % 8) & 1;
}

void endpoint_listen(int handle, uint16_t port) {
    endpoint_of(handle)->ports[port / 8] |= (uint8_t)(1u << (port % 8));
}

void endpoints_unlisten(uint16_t port) {
    for (int i = 0; i < state.endpoint_count; i++)
        if (state.endpoints[i])
            state.endpoints[i]->ports[port / 8] &= (uint8_t)~(1u << (port % 8));
}

/* Whether a packet has a heartbeat, or the answer to one, and nothing else. */
static bool is_heartbeat(const uint8_t *packet, size_t length) {
    uint8_t type = packet[COMMON_HEADER];
    return (type == SCTP_HEARTBEAT_REQUEST || type == SCTP_HEARTBEAT_ACK) &&
           COMMON_HEADER + (size_t)((get16(packet + COMMON_HEADER + 2) + 3) & ~3) >= length;
}

/* The checksum of a packet. Its own field counts as zero; it is sent low byte first. */
static uint32_t packet_checksum(const uint8_t *packet, size_t length) {
    static const uint8_t zero[4];
    uint32_t crc = crc32c_update(~0u, packet, 8);
    crc = crc32c_update(crc, zero, 4);
    return ~crc32c_update(crc, packet + 12, length - 12);
}

static void put_checksum(uint8_t *packet, size_t length) {
    uint32_t crc = packet_checksum(packet, length);
    for (int i = 0; i < 4; i++)
        packet[8 + i] = (uint8_t)(crc >> (8 * i));
}

static bool checksum_is_right(const uint8_t *packet, size_t length) {
    uint32_t crc = packet_checksum(packet, length);
    return packet[8] == (uint8_t)crc && packet[9] == (uint8_t)(crc >> 8) && packet[10] == (uint8_t)(crc >> 16) &&
           packet[11] == (uint8_t)(crc >> 24);
}

static bool is_data(uint8_t type) { return type == SCTP_DATA || type == I_DATA; }

/* The size of the chunk at `at`, with its padding; 0: there is none. */
static size_t chunk_size(const uint8_t *packet, size_t length, size_t at) {
    size_t rest = length - at;
    if (rest < CHUNK_HEADER || get16(packet + at + 2) < CHUNK_HEADER || get16(packet + at + 2) > rest)
        return 0;
    size_t size = (size_t)(get16(packet + at + 2) + 3) & ~(size_t)3;
    return size < rest ? size : rest;
}

/* ---- peers --------------------------------------------------------------------------------------------------- */

/* Seeded, so that no peer can fill one bucket on purpose. Returns the highest `order` bits. */
static uint32_t hash_of(uint64_t number, const uint8_t *address, int order) {
    uint64_t words[2], hash = state.hash_seed ^ number;
    memcpy(words, address, 16);
    for (int i = 0; i < 2; i++) {
        hash = (hash ^ words[i]) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 29;
    }
    hash = (hash ^ state.hash_seed) * 0xBF58476D1CE4E5B9u;
    return (uint32_t)(hash >> (64 - order));
}

static uint32_t peer_hash(const struct carrier_source *source) {
    uint64_t number = (uint64_t)(uint32_t)source->endpoint << 16 | source->port;
    uint64_t ports = (uint64_t)source->own_sctp_port << 48 | (uint64_t)source->sctp_port << 32;
    return hash_of(number ^ ports ^ source->scope * 0x9E3779B97F4A7C15u, source->address, CARRIER_PEER_ORDER);
}

static struct carrier_source source_of(const struct peer *peer) {
    struct carrier_source source = {.scope = peer->scope, .port = peer->port, .endpoint = peer->endpoint,
                                    .own_sctp_port = peer->own_sctp_port, .sctp_port = peer->sctp_port};
    memcpy(source.address, peer->address, 16);
    return source;
}

uint32_t peer_find(const struct carrier_source *source) {
    uint32_t at = peer_buckets[peer_hash(source)];
    while (at) {
        const struct peer *peer = &peers[at];
        if (peer->endpoint == source->endpoint && peer->port == source->port && peer->scope == source->scope &&
            peer->own_sctp_port == source->own_sctp_port && peer->sctp_port == source->sctp_port &&
            !memcmp(peer->address, source->address, 16))
            break;
        at = peer->hash_next;
    }
    return at;
}

static void unclaimed_unlink(struct endpoint *endpoint, uint32_t at) {
    struct peer *peer = &peers[at];
    *(peer->before ? &peers[peer->before].after : &endpoint->unclaimed_first) = peer->after;
    *(peer->after ? &peers[peer->after].before : &endpoint->unclaimed_last) = peer->before;
    endpoint->unclaimed--;
}

static void unclaimed_append(struct endpoint *endpoint, uint32_t at) {
    struct peer *peer = &peers[at];
    peer->before = endpoint->unclaimed_last;
    peer->after = 0;
    *(peer->before ? &peers[peer->before].after : &endpoint->unclaimed_first) = at;
    endpoint->unclaimed_last = at;
    endpoint->unclaimed++;
}

static uint32_t *bucket_of(const struct peer *peer) {
    struct carrier_source source = source_of(peer);
    return &peer_buckets[peer_hash(&source)];
}

static void bucket_add(uint32_t at) {
    uint32_t *bucket = bucket_of(&peers[at]);
    peers[at].hash_next = *bucket;
    *bucket = at;
}

static void bucket_remove(uint32_t at) {
    uint32_t *link = bucket_of(&peers[at]);
    while (*link != at)
        link = &peers[*link].hash_next;
    *link = peers[at].hash_next;
}

void peer_set_own_port(uint32_t at, uint16_t own_sctp_port) {
    bucket_remove(at);
    peers[at].own_sctp_port = own_sctp_port;
    bucket_add(at);
}

static void peer_free(uint32_t at) {
    struct peer *peer = &peers[at];
    bucket_remove(at);
    peer->endpoint = -1;
    peer->after = state.peer_free;
    state.peer_free = at;
    packet_counters.peers--;
}

void peer_release(uint32_t at) {
    struct peer *peer = &peers[at];
    struct endpoint *endpoint = endpoint_of(peer->endpoint);
    peer_start_ends(at);
    if (--peer->references)
        return;
    unclaimed_append(endpoint, at);
    peer->used_ms = now_ms();
}

void peer_claim(uint32_t at) {
    struct peer *peer = &peers[at];
    if (!peer->references++)
        unclaimed_unlink(state.endpoints[peer->endpoint], at);
    peer->gapped = 0;
    peer->closed = false;
    peer_start_ends(at);
}

void peer_start_begins(uint32_t at) {
    if (peers[at].references == 1 && !peers[at].start)
        peers[at].start = start_begin();
}

void peer_start_ends(uint32_t at) {
    start_end(peers[at].start);
    peers[at].start = NULL;
}

uint32_t peer_make(const struct carrier_source *source) {
    struct endpoint *endpoint = state.endpoints[source->endpoint];
    uint64_t now = now_ms();
    if (endpoint->unclaimed >= endpoint->max_unclaimed) {
        uint32_t oldest = endpoint->unclaimed_first;
        if (!oldest || now - peers[oldest].used_ms < PEER_GRACE_MS)
            return 0;
        unclaimed_unlink(endpoint, oldest);
        peer_free(oldest);
    }
    uint32_t at = state.peer_free;
    if (at) {
        state.peer_free = peers[at].after;
    } else {
        if (state.peer_unused + 1 >= CARRIER_PEERS)
            return 0;
        at = ++state.peer_unused;
        usrsctp_register_address((void *)(uintptr_t)at);
        packet_counters.peers_registered++;
    }
    struct peer *peer = &peers[at];
    memset(peer, 0, sizeof *peer);
    peer->endpoint = source->endpoint;
    peer->port = source->port;
    peer->own_sctp_port = source->own_sctp_port;
    peer->sctp_port = source->sctp_port;
    peer->scope = source->scope;
    peer->used_ms = now;
    memcpy(peer->address, source->address, 16);
    if (endpoint->family == AF_INET) {
        peer->name.v4.sin_family = AF_INET;
        peer->name.v4.sin_port = htons(source->port);
        memcpy(&peer->name.v4.sin_addr, source->address + 12, 4);
        peer->name_length = sizeof peer->name.v4;
    } else {
        peer->name.v6.sin6_family = AF_INET6;
        peer->name.v6.sin6_port = htons(source->port);
        peer->name.v6.sin6_scope_id = source->scope;
        memcpy(&peer->name.v6.sin6_addr, source->address, 16);
        peer->name_length = sizeof peer->name.v6;
    }
    bucket_add(at);
    unclaimed_append(endpoint, at);
    packet_counters.peers++;
    return at;
}

static bool source_is_allowed(const struct endpoint *endpoint, const uint8_t *address) {
    if (!endpoint->network_count)
        return true;
    for (uint32_t i = 0; i < endpoint->network_count; i++) {
        const uint8_t *network = endpoint->networks + 17 * i;
        int bits = network[16], whole = bits / 8;
        uint8_t mask = (uint8_t)(0xff00 >> (bits % 8));
        if (!memcmp(network, address, (size_t)whole) && (whole == 16 || !((network[whole] ^ address[whole]) & mask)))
            return true;
    }
    return false;
}

/*
 * Whether an address keeps to its rate of INITs, and of cookies without an association. Each takes an unclaimed slot, an
 * INIT ACK is seven times as long as an INIT, and an INIT may carry a victim's address. IPv6 addresses count by their first
 * 64 bits. Addresses with the same hash share a rate. The loopback has none: it has no victims.
 */
static bool opening_is_due(const uint8_t *address) {
    static uint64_t full_us[1 << INIT_PLACES]; /* when all of INIT_BURST is available again */
    static const uint8_t v4_prefix[12] = {[10] = 0xff, [11] = 0xff};
    static const uint8_t loopback[2][16] = {{[15] = 1}, {[10] = 0xff, [11] = 0xff, [12] = 127, [15] = 1}};
    uint8_t key[16] = {0};

    if (!memcmp(address, loopback[0], 16) || !memcmp(address, loopback[1], 16))
        return true;
    memcpy(key, address, memcmp(address, v4_prefix, 12) ? 8 : 16);
    uint64_t now = now_us();
    uint64_t *full = &full_us[hash_of(0, key, INIT_PLACES)];
    if (*full < now)
        *full = now;
    if (*full + INIT_EVERY_US > now + (uint64_t)INIT_BURST * INIT_EVERY_US)
        return false;
    *full += INIT_EVERY_US;
    return true;
}

/* ---- output -------------------------------------------------------------------------------------------------- */

/* How many packets from `first` on fit one GSO send: to one peer, of one size, the last may be shorter. */
static uint32_t run_length(const struct endpoint *endpoint, uint32_t first, uint32_t *bytes) {
    const struct out_packet *packets = endpoint->packets + first;
    uint32_t count = 1, total = packets[0].length, size = packets[0].length;
    while (endpoint->segmentation && first + count < endpoint->out_count && count < SEGMENTS) {
        const struct out_packet *next = &packets[count];
        if (next->peer != packets[0].peer || next->length > size || total + next->length > RUN_BYTES)
            break;
        total += next->length;
        count++;
        if (next->length < size)
            break;
    }
    *bytes = total;
    return count;
}

/* Send the queued packets. If the socket is full the rest stays queued, and the endpoint is "blocked". */
static void endpoint_flush(struct endpoint *endpoint) {
    struct mmsghdr messages[RUNS];
    struct iovec vectors[RUNS];
    uint32_t counts[RUNS];
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(uint16_t))];
    } controls[RUNS];

    endpoint->blocked = false;
    while (endpoint->out_first < endpoint->out_count) {
        uint32_t runs = 0;
        for (uint32_t at = endpoint->out_first; at < endpoint->out_count && runs < RUNS; at += counts[runs++]) {
            const struct out_packet *first = &endpoint->packets[at];
            uint32_t bytes;
            counts[runs] = run_length(endpoint, at, &bytes);
            vectors[runs] = (struct iovec){endpoint->out + first->offset, bytes};
            struct msghdr *header = &messages[runs].msg_hdr;
            memset(header, 0, sizeof *header);
            header->msg_name = &peers[first->peer].name;
            header->msg_namelen = peers[first->peer].name_length;
            header->msg_iov = &vectors[runs];
            header->msg_iovlen = 1;
            if (counts[runs] > 1) {
                uint16_t size = (uint16_t)first->length;
                header->msg_control = &controls[runs];
                header->msg_controllen = sizeof controls[runs];
                struct cmsghdr *control = CMSG_FIRSTHDR(header);
                control->cmsg_level = SOL_UDP;
                control->cmsg_type = UDP_SEGMENT;
                control->cmsg_len = CMSG_LEN(sizeof size);
                memcpy(CMSG_DATA(control), &size, sizeof size);
            }
        }
        int sent = sendmmsg(endpoint->fd, messages, runs, MSG_DONTWAIT);
        if (sent < 0) {
            if (errno == EINTR)
                continue;
            if (errno == EAGAIN || errno == ENOBUFS) {
                endpoint->blocked = true;
                break;
            }
            if (counts[0] > 1 && (errno == EINVAL || errno == EIO || errno == EMSGSIZE)) {
                endpoint->segmentation = false; /* this kernel, device or path cannot do it */
                continue;
            }
            endpoint->out_first += counts[0]; /* unreachable, filtered...: a loss like any other */
            packet_counters.dropped_output += counts[0];
            continue;
        }
        for (int i = 0; i < sent; i++) {
            endpoint->out_first += counts[i];
            packet_counters.sent += counts[i];
        }
    }
    if (endpoint->out_first == endpoint->out_count)
        endpoint->out_first = endpoint->out_count = endpoint->out_used = 0;
}

/* Take the endpoint at `link` from the list of those with queued packets. */
static void out_unlink(struct endpoint **link) {
    struct endpoint *endpoint = *link;
    *link = endpoint->out_next;
    endpoint->out_dirty = false;
}

/* Room for a packet in the endpoint's queue, or NULL: then the packet is lost, and SCTP sends it again. */
static uint8_t *out_reserve(struct endpoint *endpoint, uint32_t peer, size_t length) {
    if (endpoint->out_used + length > OUT_BYTES || endpoint->out_count == OUT_PACKETS) {
        if (!endpoint->blocked)
            endpoint_flush(endpoint);
        if (endpoint->out_used + length > OUT_BYTES || endpoint->out_count == OUT_PACKETS) {
            packet_counters.dropped_output++;
            return NULL;
        }
    }
    uint8_t *at = endpoint->out + endpoint->out_used;
    endpoint->packets[endpoint->out_count++] = (struct out_packet){endpoint->out_used, (uint32_t)length, peer};
    endpoint->out_used += (uint32_t)length;
    if (!endpoint->out_dirty) {
        endpoint->out_dirty = true;
        endpoint->out_next = state.out_dirty;
        state.out_dirty = endpoint;
    }
    return at;
}

/*
 * Note what a packet tells the peer of our window: chunks before DATA, of which SACK need not be the first. The peer is told of
 * less than there is: with no window left the library drops even the next TSN, if it is I-DATA of a message of which it has
 * nothing, and what fills the window may wait for that.
 */
static void note_window(struct peer *peer, uint8_t *packet, size_t length) {
    size_t at = COMMON_HEADER;
    for (size_t size; (size = chunk_size(packet, length, at)) && !is_data(packet[at]); at += size)
        if (packet[at] == SCTP_SELECTIVE_ACK && size >= SACK_HEADER) {
            uint8_t *field = packet + at + CHUNK_HEADER + 4;
            uint32_t window = get32(field), told = window > WINDOW_RESERVE ? window - WINDOW_RESERVE : 0;
            for (int i = 0; i < 4; i++)
                field[i] = (uint8_t)(told >> (24 - 8 * i));
            peer->cumulative = get32(packet + at + CHUNK_HEADER);
            peer->closed = !told;
        } else if (packet[at] == SCTP_COOKIE_ACK) {
            peer->closed = false; /* an association that begins, perhaps in the place of another */
        }
}

/* The library's output function. It never fails: SCTP notices a loss by itself and has no use for an error. */
int packets_output(void *address, void *buffer, size_t length, uint8_t tos, uint8_t dont_fragment) {
    uint32_t at = (uint32_t)(uintptr_t)address;
    (void)tos, (void)dont_fragment;
    if (at == 0 || at >= CARRIER_PEERS || peers[at].endpoint < 0 || length < COMMON_HEADER)
        return 0;
    uint8_t *packet = out_reserve(state.endpoints[peers[at].endpoint], at, length);
    if (packet) {
        memcpy(packet, buffer, length);
        note_window(&peers[at], packet, length);
        put_checksum(packet, length);
        packets_moved |= !is_heartbeat(packet, length);
        peers[at].packets_out++;
        if (peers[at].start)
            start_sent(peers[at].start, packet, length, now_us());
    }
    return 0;
}

int packets_flush(void) {
    int blocked = 0;
    for (struct endpoint **link = &state.out_dirty, *endpoint; (endpoint = *link);) {
        endpoint_flush(endpoint);
        if (endpoint->blocked) {
            blocked = CARRIER_BLOCKED;
            link = &endpoint->out_next;
        } else {
            out_unlink(link);
        }
    }
    return blocked;
}

int carrier_blocked(int endpoint) {
    return endpoint_of(endpoint) && state.endpoints[endpoint]->blocked;
}

/* ---- input --------------------------------------------------------------------------------------------------- */

/*
 * Answer a packet that belongs to no association (RFC 9260 section 8.4), and keep no state: the sender of an INIT learns
 * that it is refused, and a peer whose association ended with the process before us learns that at once.
 */
static void answer_stateless(struct endpoint *endpoint, const struct sockaddr *name, socklen_t name_length,
                             const uint8_t *packet, size_t length, const char *why) {
    uint8_t answer[COMMON_HEADER + CHUNK_HEADER + CAUSE_HEADER + REASON] = {0};
    size_t size = COMMON_HEADER + CHUNK_HEADER;
    uint8_t type = packet[COMMON_HEADER];
    memcpy(answer, packet + 2, 2);
    memcpy(answer + 2, packet, 2);
    memcpy(answer + 4, packet + 4, 4);
    answer[12] = SCTP_ABORT_ASSOCIATION;
    answer[13] = 1; /* T: the tag is the sender's own */
    switch (type) {
    case SCTP_ABORT_ASSOCIATION:
    case SCTP_SHUTDOWN_COMPLETE:
    case SCTP_COOKIE_ACK:
    case SCTP_OPERATION_ERROR:
        return;
    case SCTP_INITIATION:
        if (length < COMMON_HEADER + 20)
            return;
        memcpy(answer + 4, packet + COMMON_HEADER + CHUNK_HEADER, 4); /* its initiate tag */
        answer[13] = 0;
        break;
    case SCTP_SHUTDOWN_ACK:
        answer[12] = SCTP_SHUTDOWN_COMPLETE;
        break;
    }
    size_t text = type == SCTP_INITIATION ? strlen(why) : 0, padded = (text + 3) & ~(size_t)3;
    if (text && size + CAUSE_HEADER + padded <= length) { /* an answer is never longer than the packet */
        uint8_t *cause = answer + size;
        cause[1] = USER_INITIATED_ABORT;
        cause[3] = (uint8_t)(CAUSE_HEADER + text);
        memcpy(cause + CAUSE_HEADER, why, text);
        answer[15] = (uint8_t)(CHUNK_HEADER + CAUSE_HEADER + text);
        size += CAUSE_HEADER + padded;
    } else {
        answer[15] = CHUNK_HEADER;
    }
    put_checksum(answer, size);
    if (sendto(endpoint->fd, answer, size, MSG_DONTWAIT, name, name_length) > 0)
        packet_counters.answered++;
}

const char *carrier_refusal_text(int why) {
    static const char *texts[CARRIER_REFUSALS] = {"not in allowed_peers", "too many associations",
                                                  "too many attempts", "too many new peers"};
    return why >= 0 && why < CARRIER_REFUSALS ? texts[why] : NULL;
}

/* Refuse an INIT: count it for carrier_refused(), and answer its sender. */
static void refuse(struct endpoint *endpoint, const struct carrier_source *source, enum carrier_refusal why,
                   const struct sockaddr *name, socklen_t name_length, const uint8_t *packet, size_t length) {
    packet_counters.refused++;
    endpoint->refused[why]++;
    endpoint->refused_last[why] = *source;
    state.refused = true;
    answer_stateless(endpoint, name, name_length, packet, length, carrier_refusal_text(why));
}

/* How many INITs were refused for this reason since the last call, and the source of the last one. */
uint32_t carrier_refused(int handle, int why, struct carrier_source *last) {
    struct endpoint *endpoint = endpoint_of(handle);
    if (!endpoint || why < 0 || why >= CARRIER_REFUSALS)
        return 0;
    uint32_t count = endpoint->refused[why];
    endpoint->refused[why] = 0;
    *last = endpoint->refused_last[why];
    return count;
}

/* How many chunks a SACK acknowledges beyond its cumulative TSN (RFC 9260 section 3.3.4). */
static uint32_t acknowledged_beyond(const uint8_t *sack, size_t length) {
    uint32_t count = 0;
    if (length < SACK_HEADER)
        return 0;
    const uint8_t *block = sack + SACK_HEADER;
    for (uint32_t blocks = get16(sack + 12); blocks && block + 4 <= sack + length; blocks--, block += 4)
        count += (uint16_t)(get16(block + 2) - get16(block) + 1);
    return count;
}

/* The size of the last chunk; 0: chunks end before the packet does. */
static size_t last_chunk(const uint8_t *packet, size_t length) {
    size_t at = COMMON_HEADER, size = 0, next;
    while ((next = chunk_size(packet, length, at))) {
        size = next;
        at += size;
    }
    return at == length ? size : 0;
}

/*
 * The length of a packet without the DATA that has no room: without a window, only the next TSN has. What the peer repeats
 * because our SACK was lost passes: the library keeps none of it, and sends another SACK.
 */
static size_t length_with_room(const struct peer *peer, const uint8_t *packet, size_t length) {
    size_t at = COMMON_HEADER;
    for (size_t size; (size = chunk_size(packet, length, at)); at += size)
        if (is_data(packet[at]) && size >= DATA_HEADER &&
            (int32_t)(get32(packet + at + CHUNK_HEADER) - peer->cumulative) > 1)
            return at;
    return length;
}

/*
 * Hand a packet over to the library. While an earlier chunk or message is missing, the library keeps a chunk, and counts
 * its payload and CHUNK_COST against our window. But the last chunk of a packet keeps all of the packet, where the others
 * keep a buffer of it. So a small one is not the last: an empty chunk that the library ignores (RFC 4820) follows it. And
 * without a window the library would still take what is below the highest TSN that it has.
 */
static void hand_over(uint32_t at, uint8_t *packet, size_t length) {
    if (peers[at].closed)
        length = length_with_room(&peers[at], packet, length);
    if (length > SPARSE * CHUNK_COST && length % 4 == 0 &&
        length > SPARSE * (CHUNK_COST + last_chunk(packet, length))) {
        static const uint8_t padding[CHUNK_HEADER] = {0x84, 0, 0, CHUNK_HEADER};
        uint8_t next_packet[CHUNK_HEADER]; /* of a datagram that has several */
        memcpy(next_packet, packet + length, CHUNK_HEADER);
        memcpy(packet + length, padding, CHUNK_HEADER);
        usrsctp_conninput((void *)(uintptr_t)at, packet, length + CHUNK_HEADER, 0);
        memcpy(packet + length, next_packet, CHUNK_HEADER);
    } else if (length > COMMON_HEADER) {
        usrsctp_conninput((void *)(uintptr_t)at, packet, length, 0);
    }
}

/* Handle one packet. A malformed or damaged one, or one from a source that may not send, never reaches the library. */
static void handle_packet(int handle, const struct sockaddr *name, socklen_t name_length, uint8_t *packet,
                          size_t length) {
    struct endpoint *endpoint = state.endpoints[handle];
    struct carrier_source source = {.address = {[10] = 0xff, [11] = 0xff}, .endpoint = handle};

    packet_counters.received++;
    if (length < COMMON_HEADER + CHUNK_HEADER || get16(packet) == 0 || get16(packet + 2) == 0 ||
        get16(packet + COMMON_HEADER + 2) < CHUNK_HEADER) {
        packet_counters.dropped_malformed++;
        return;
    }
    if (name->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const void *)name;
        memcpy(source.address + 12, &v4->sin_addr, 4);
        source.port = ntohs(v4->sin_port);
    } else {
        const struct sockaddr_in6 *v6 = (const void *)name;
        memcpy(source.address, &v6->sin6_addr, 16);
        source.port = ntohs(v6->sin6_port);
        source.scope = v6->sin6_scope_id;
    }
    uint8_t type = packet[COMMON_HEADER];
    source.sctp_port = get16(packet);
    source.own_sctp_port = get16(packet + 2);
    uint32_t at = peer_find(&source);
    bool allowed = at || source_is_allowed(endpoint, source.address);
    if (!allowed && type != SCTP_INITIATION) {
        packet_counters.dropped_peer++;
        return;
    }
    if (!checksum_is_right(packet, length)) {
        packet_counters.dropped_checksum++;
        return;
    }
    bool opening = type == SCTP_INITIATION || (type == SCTP_COOKIE_ECHO && !at);
    if (opening && (listens(endpoint, get16(packet + 2)) || !allowed)) {
        int why = -1;
        if (!allowed)
            why = CARRIER_NOT_ALLOWED;
        else if (endpoint->associations >= endpoint->max_associations)
            why = CARRIER_FULL;
        else if (!opening_is_due(source.address))
            why = CARRIER_TOO_OFTEN;
        else if (!at && !(at = peer_make(&source)))
            why = CARRIER_TOO_MANY;
        if (why >= 0) {
            refuse(endpoint, &source, (enum carrier_refusal)why, name, name_length, packet, length);
            return;
        }
    } else if (opening || !at) {
        answer_stateless(endpoint, name, name_length, packet, length, "");
        return;
    }
    struct peer *peer = &peers[at];
    peer->packets_in++;
    peer->small |= length < LARGE_PACKET && is_data(type) && !(packet[COMMON_HEADER + 1] & LAST_FRAGMENT);
    if (!peer->references && opening) { /* the longest unused is first; only INITs and cookies count as use */
        peer->used_ms = now_ms();
        unclaimed_unlink(endpoint, at);
        unclaimed_append(endpoint, at);
    }
    if (!is_heartbeat(packet, length))
        timers_wake();
    if (type == SCTP_SELECTIVE_ACK)
        peer->gapped = acknowledged_beyond(packet + COMMON_HEADER, length - COMMON_HEADER);
    if (peer->start)
        start_received(peer->start, packet, length, now_us());
    hand_over(at, packet, length);
}

/*
 * Read about max_packets packets of an endpoint at most; what remains keeps the socket readable. Returns how many were read,
 * and CARRIER_REFUSED if carrier_refused() has something to report.
 */
int carrier_input(int handle, int max_packets) {
    struct mmsghdr messages[DATAGRAMS];
    struct iovec vectors[DATAGRAMS];
    struct sockaddr_storage names[DATAGRAMS];
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } controls[DATAGRAMS];
    int total = 0, unflushed = 0;

    if (!endpoint_of(handle))
        return 0;
    state.refused = false;
    while (total < max_packets) {
        for (int i = 0; i < DATAGRAMS; i++) {
            vectors[i] = (struct iovec){state.datagrams + (size_t)i * DATAGRAM_SIZE, DATAGRAM_SIZE};
            messages[i].msg_hdr = (struct msghdr){
                .msg_name = &names[i], .msg_namelen = sizeof names[i], .msg_iov = &vectors[i], .msg_iovlen = 1,
                .msg_control = &controls[i], .msg_controllen = sizeof controls[i]};
        }
        int count = recvmmsg(state.endpoints[handle]->fd, messages, DATAGRAMS, MSG_DONTWAIT, NULL);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            break;
        for (int i = 0; i < count; i++) {
            struct msghdr *header = &messages[i].msg_hdr;
            size_t length = messages[i].msg_len, step = length;
            for (struct cmsghdr *control = CMSG_FIRSTHDR(header); control; control = CMSG_NXTHDR(header, control))
                if (control->cmsg_level == SOL_UDP && control->cmsg_type == UDP_GRO) {
                    int size;
                    memcpy(&size, CMSG_DATA(control), sizeof size);
                    step = size > 0 ? (size_t)size : length;
                }
            if (!length)
                total++; /* an empty datagram is work, too */
            for (size_t offset = 0; offset < length; offset += step) {
                size_t rest = length - offset;
                handle_packet(handle, (struct sockaddr *)&names[i], header->msg_namelen,
                              (uint8_t *)vectors[i].iov_base + offset, rest < step ? rest : step);
                total++;
                if (++unflushed == FLUSH_EVERY) {
                    packets_flush();
                    unflushed = 0;
                }
            }
        }
        if (count < DATAGRAMS)
            break;
    }
    return total | (state.refused ? CARRIER_REFUSED : 0);
}

/* ---- endpoints ----------------------------------------------------------------------------------------------- */

int carrier_endpoint_open(int fd, int offload, uint32_t max_unclaimed, uint32_t max_associations,
                          const uint8_t *networks, uint32_t network_count) {
    struct sockaddr_storage name;
    socklen_t name_length = sizeof name;
    int handle = 0, one = 1;

    while (handle < ENDPOINTS && state.endpoints[handle])
        handle++;
    if (handle == ENDPOINTS)
        return -EMFILE;
    if (getsockname(fd, (struct sockaddr *)&name, &name_length))
        return -errno;
    struct endpoint *endpoint = calloc(1, sizeof *endpoint);
    uint8_t *out = malloc(OUT_BYTES), *copy = malloc(17 * (size_t)network_count + 1);
    if (!endpoint || !out || !copy) {
        free(endpoint), free(out), free(copy);
        return -ENOMEM;
    }
    memcpy(copy, networks, 17 * (size_t)network_count);
    endpoint->fd = fd;
    endpoint->family = name.ss_family;
    endpoint->out = out;
    endpoint->networks = copy;
    endpoint->network_count = network_count;
    endpoint->max_unclaimed = max_unclaimed;
    endpoint->max_associations = max_associations;
    if (offload) {
        int size = 0;
        socklen_t size_length = sizeof size;
        endpoint->segmentation = !getsockopt(fd, SOL_UDP, UDP_SEGMENT, &size, &size_length);
        (void)setsockopt(fd, SOL_UDP, UDP_GRO, &one, sizeof one); /* without: one packet a datagram */
    }
    state.endpoints[handle] = endpoint;
    if (handle >= state.endpoint_count)
        state.endpoint_count = handle + 1;
    return handle;
}

/* Call it when no association and no listener uses the endpoint any more. The caller closes the descriptor. */
void carrier_endpoint_close(int handle) {
    struct endpoint *endpoint = endpoint_of(handle);
    if (!endpoint)
        return;
    endpoint_flush(endpoint);
    for (struct endpoint **link = &state.out_dirty; *link; link = &(*link)->out_next)
        if (*link == endpoint) {
            out_unlink(link);
            break;
        }
    for (uint32_t at = endpoint->unclaimed_first; at;) {
        uint32_t next = peers[at].after;
        peer_free(at);
        at = next;
    }
    state.endpoints[handle] = NULL;
    while (state.endpoint_count && !state.endpoints[state.endpoint_count - 1])
        state.endpoint_count--;
    free(endpoint->networks), free(endpoint->out), free(endpoint);
}
