/*
 * The userspace SCTP carrier: libusrsctp with its packets as UDP payload (RFC 6951), made for few and large calls.
 *
 *   UDP socket --recvmmsg, GRO--> handle_packet --> usrsctp_conninput --> upcall marks the association dirty
 *   Python asks carrier_dirty(), then carrier_receive() for a batch of messages in one arena
 *   library --> on_output copies the packet into the endpoint's queue --sendmmsg, GSO--> UDP socket
 *
 * The library knows a remote UDP address as an opaque "connection address" (AF_CONN). Ours is the index of a peer
 * slot, not a pointer: a packet of an association that outlived its peer then finds an empty slot, and no freed
 * memory. Slots are registered with the library once and used again, because taking a registration back leaks:
 * usrsctp_deregister_address() leaves its work to an iterator thread that usrsctp_init_nothreads() does not start.
 */
#define _GNU_SOURCE
#include "usrsctp_carrier.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <usrsctp.h>

#if defined(__aarch64__)
#include <arm_acle.h>
#include <sys/auxv.h>
#ifndef HWCAP_CRC32
#define HWCAP_CRC32 (1 << 7)
#endif
#endif

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#ifndef SCTP_INTERLEAVING_SUPPORTED
#define SCTP_INTERLEAVING_SUPPORTED 0x00001206 /* the library has it, its public header forgot it */
#endif

enum {
    DATAGRAMS = 8,              /* buffers of one recvmmsg(); with GRO each holds up to 64 KiB of packets */
    DATAGRAM_SIZE = 65536,
    FLUSH_EVERY = 32,           /* input packets between flushes: later, and both peers run in lockstep */
    OUT_BYTES = 512 * 1024,
    OUT_PACKETS = 1024,
    RUNS = 64,                  /* messages of one sendmmsg() */
    SEGMENTS = 64,              /* packets of one GSO send (UDP_MAX_SEGMENTS of old kernels) */
    RUN_BYTES = 63000,
    ENDPOINTS = 4096,
    LISTENERS = 1024,
    BACKLOG = 1024,
    COMMON_HEADER = 12,         /* RFC 9260 section 3.1 */
    CHUNK_HEADER = 4,
    PEER_GRACE_MS = 2000,       /* a peer without an association keeps its slot at least so long: a slow handshake */
    ELAPSED_MAX_MS = 200,       /* of one tick: a process that was stopped must read its sockets before it times out */
    QUEUE_AHEAD = 16 * 1024,    /* what an association may have queued beyond its window at least, see carrier_room() */
    MESSAGE_OVERHEAD = 128,     /* what a queued message costs beside its payload, roughly */
    ARENA_RESERVE = 4096,       /* kept free for a notification */
    SACK_DELAY_MS = 20,
    SACK_EVERY = 2,
};

struct peer {
    union {
        struct sockaddr sa;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } name;
    socklen_t name_length;
    int endpoint;               /* -1: slot is free */
    uint32_t references;        /* associations; 0: "unclaimed", in its endpoint's list */
    uint32_t hash_next, before, after;
    uint64_t used_ms, packets_in, packets_out;
    uint16_t port;
    uint8_t address[16];
};

struct out_packet {
    uint32_t offset, length, peer;
};

struct endpoint {
    int fd, family;
    bool segmentation, blocked, out_dirty;
    uint8_t *out;
    uint32_t out_used, out_count, out_first;
    struct out_packet packets[OUT_PACKETS];
    uint32_t unclaimed_first, unclaimed_last, unclaimed, max_unclaimed;
    uint32_t associations, max_associations;
    uint8_t *networks;          /* 17 bytes each: an address (IPv4 as ::ffff:a.b.c.d) and its prefix length in bits */
    uint32_t network_count;
};

struct listener {
    struct socket *socket;
    int endpoint, dirty;
    uint16_t port;
};

struct association {
    struct socket *socket;
    int handle, dirty;          /* dirty: place in the list + 1 */
    uint32_t peer, send_buffer;
    uint32_t unfragmented;      /* largest message that goes in one chunk; 0: not asked yet */
    double mean_length;         /* of messages sent, for what the queue costs beside its payload */
    bool nodelay;
};

static struct {
    bool ready;
    struct endpoint *endpoints[ENDPOINTS];
    int endpoint_count;
    struct listener *listeners[LISTENERS];
    struct association **associations;
    int association_capacity, association_count;
    int32_t *dirty;             /* handles; listeners as -2 - n, gaps as -1 */
    int dirty_count, dirty_capacity;
    uint32_t peer_unused, peer_free;
    uint64_t hash_seed, tick_ms;
    uint8_t *datagrams;
    struct carrier_counters counters;
} state;

static struct peer peers[CARRIER_PEERS];
static uint32_t peer_buckets[CARRIER_PEERS];

static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- CRC32c (RFC 9260 appendix A), by the processor where it can -------------------------------------------- */

static uint32_t crc_table[8][256];

static void crc_table_fill(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (0x82F63B78u & (0u - (crc & 1)));
        crc_table[0][i] = crc;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int row = 1; row < 8; row++)
            crc_table[row][i] = (crc_table[row - 1][i] >> 8) ^ crc_table[0][crc_table[row - 1][i] & 0xff];
}

static uint32_t crc_by_table(uint32_t crc, const uint8_t *data, size_t length) {
    while (length >= 8) {
        uint32_t low = crc ^ ((uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 |
                              (uint32_t)data[3] << 24);
        crc = crc_table[7][low & 0xff] ^ crc_table[6][(low >> 8) & 0xff] ^ crc_table[5][(low >> 16) & 0xff] ^
              crc_table[4][low >> 24] ^ crc_table[3][data[4]] ^ crc_table[2][data[5]] ^ crc_table[1][data[6]] ^
              crc_table[0][data[7]];
        data += 8;
        length -= 8;
    }
    while (length--)
        crc = (crc >> 8) ^ crc_table[0][(crc ^ *data++) & 0xff];
    return crc;
}

/*
 * The instruction takes eight bytes, and three cycles until the next that needs its result. So long data goes in three
 * parts side by side: a checksum so far, moved over the bytes of a part, and the next part's are added (the checksum is
 * linear). The tables move one over CRC_PART zero bytes, a byte of it at a time.
 */
enum { CRC_PART = 1024 };
static uint32_t crc_moved[4][256];

static void crc_moved_fill(void) {
    static const uint8_t zeros[CRC_PART];
    for (int row = 0; row < 4; row++) {
        for (int bit = 0; bit < 8; bit++)
            crc_moved[row][1 << bit] = crc_by_table(1u << (8 * row + bit), zeros, CRC_PART);
        for (int i = 1; i < 256; i++)
            crc_moved[row][i] = crc_moved[row][i & (i - 1)] ^ crc_moved[row][i & -i];
    }
}

static uint32_t crc_move(uint32_t crc) {
    return crc_moved[0][crc & 0xff] ^ crc_moved[1][(crc >> 8) & 0xff] ^ crc_moved[2][(crc >> 16) & 0xff] ^
           crc_moved[3][crc >> 24];
}

#if defined(__x86_64__)
#define CRC_TARGET "sse4.2"
#define CRC_WORD(crc, word) ((uint32_t)__builtin_ia32_crc32di(crc, word))
#define CRC_BYTE(crc, byte) __builtin_ia32_crc32qi(crc, byte)
static bool crc_processor_has(void) { return __builtin_cpu_supports("sse4.2"); }
#elif defined(__aarch64__)
#define CRC_TARGET "+crc"
#define CRC_WORD(crc, word) __crc32cd(crc, word)
#define CRC_BYTE(crc, byte) __crc32cb(crc, byte)
static bool crc_processor_has(void) { return getauxval(AT_HWCAP) & HWCAP_CRC32; }
#endif

#ifdef CRC_TARGET
static uint64_t crc_load(const uint8_t *data) {
    uint64_t word;
    memcpy(&word, data, 8);
    return word;
}

__attribute__((target(CRC_TARGET)))
static uint32_t crc_by_processor(uint32_t crc, const uint8_t *data, size_t length) {
    for (; length >= 3 * CRC_PART; data += 3 * CRC_PART, length -= 3 * CRC_PART) {
        uint32_t second = 0, third = 0;
        for (size_t at = 0; at < CRC_PART; at += 8) {
            crc = CRC_WORD(crc, crc_load(data + at));
            second = CRC_WORD(second, crc_load(data + CRC_PART + at));
            third = CRC_WORD(third, crc_load(data + 2 * CRC_PART + at));
        }
        crc = crc_move(crc_move(crc) ^ second) ^ third;
    }
    for (; length >= 8; data += 8, length -= 8)
        crc = CRC_WORD(crc, crc_load(data));
    while (length--)
        crc = CRC_BYTE(crc, *data++);
    return crc;
}
#else
#define crc_by_processor crc_by_table
static bool crc_processor_has(void) { return false; }
#endif

static uint32_t (*crc_function)(uint32_t, const uint8_t *, size_t) = crc_by_table;

static void crc_start(void) {
    crc_table_fill();
    crc_moved_fill();
    if (crc_processor_has())
        crc_function = crc_by_processor;
}

uint32_t carrier_crc32c(const uint8_t *data, size_t length, int portable) {
    if (!state.ready)
        crc_start();
    return ~(portable ? crc_by_table : crc_function)(~0u, data, length);
}

/* The checksum of a packet: its own field counts as zero, and it is sent with the low byte first. */
static uint32_t packet_checksum(const uint8_t *packet, size_t length) {
    static const uint8_t zero[4];
    uint32_t crc = crc_function(~0u, packet, 8);
    crc = crc_function(crc, zero, 4);
    return ~crc_function(crc, packet + 12, length - 12);
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

static uint16_t get16(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }

/* ---- what changed, for Python -------------------------------------------------------------------------------- */

static void dirty_add(int32_t handle, int *place) {
    if (*place)
        return;
    if (state.dirty_count == state.dirty_capacity) {
        int capacity = state.dirty_capacity ? 2 * state.dirty_capacity : 64;
        int32_t *grown = realloc(state.dirty, (size_t)capacity * sizeof *grown);
        if (!grown)
            return; /* the next packet or tick tries again */
        state.dirty = grown;
        state.dirty_capacity = capacity;
    }
    state.dirty[state.dirty_count++] = handle;
    *place = state.dirty_count;
}

static void dirty_remove(int *place) {
    if (*place)
        state.dirty[*place - 1] = -1;
    *place = 0;
}

static struct association *association_of(int handle) {
    return handle >= 0 && handle < state.association_capacity ? state.associations[handle] : NULL;
}

static struct listener *listener_of(int handle) {
    return handle >= 0 && handle < LISTENERS ? state.listeners[handle] : NULL;
}

static struct endpoint *endpoint_of(int handle) {
    return handle >= 0 && handle < ENDPOINTS ? state.endpoints[handle] : NULL;
}

int carrier_dirty(int32_t *handles, int max) {
    int count = 0, at = 0;
    for (; at < state.dirty_count && count < max; at++) {
        int32_t handle = state.dirty[at];
        if (handle == -1)
            continue;
        if (handle >= 0)
            state.associations[handle]->dirty = 0;
        else
            state.listeners[-2 - handle]->dirty = 0;
        handles[count++] = handle;
    }
    /* what did not fit moves to the front */
    int left = state.dirty_count - at;
    for (int i = 0; i < left; i++) {
        int32_t handle = state.dirty[i] = state.dirty[at + i];
        if (handle >= 0)
            state.associations[handle]->dirty = i + 1;
        else if (handle != -1)
            state.listeners[-2 - handle]->dirty = i + 1;
    }
    state.dirty_count = left;
    return count;
}

static void on_association(struct socket *socket, void *argument, int flags) {
    struct association *association = argument;
    (void)socket, (void)flags;
    dirty_add(association->handle, &association->dirty);
}

static void on_listener(struct socket *socket, void *argument, int flags) {
    int handle = (int)(intptr_t)argument;
    (void)socket, (void)flags;
    if (listener_of(handle))
        dirty_add(-2 - handle, &state.listeners[handle]->dirty);
}

/* ---- peers: remote UDP addresses ----------------------------------------------------------------------------- */

static uint32_t peer_hash(int endpoint, const uint8_t *address, uint16_t port) {
    uint64_t words[2], hash = state.hash_seed ^ ((uint64_t)(uint32_t)endpoint << 16 | port);
    memcpy(words, address, 16);
    for (int i = 0; i < 2; i++) { /* seeded, so that nobody outside can aim at one bucket */
        hash = (hash ^ words[i]) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 29;
    }
    hash = (hash ^ state.hash_seed) * 0xBF58476D1CE4E5B9u;
    return (uint32_t)(hash >> (64 - CARRIER_PEER_ORDER));
}

static uint32_t peer_find(int endpoint, const uint8_t *address, uint16_t port) {
    uint32_t at = peer_buckets[peer_hash(endpoint, address, port)];
    while (at && !(peers[at].endpoint == endpoint && peers[at].port == port && !memcmp(peers[at].address, address, 16)))
        at = peers[at].hash_next;
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

static void peer_free(uint32_t at) {
    struct peer *peer = &peers[at];
    uint32_t *link = &peer_buckets[peer_hash(peer->endpoint, peer->address, peer->port)];
    while (*link != at)
        link = &peers[*link].hash_next;
    *link = peer->hash_next;
    peer->endpoint = -1;
    peer->after = state.peer_free;
    state.peer_free = at;
    state.counters.peers--;
}

static void peer_release(uint32_t at) {
    struct peer *peer = &peers[at];
    struct endpoint *endpoint = endpoint_of(peer->endpoint);
    if (--peer->references)
        return;
    unclaimed_append(endpoint, at);
    peer->used_ms = now_ms();
}

static void peer_claim(uint32_t at) {
    if (!peers[at].references++)
        unclaimed_unlink(state.endpoints[peers[at].endpoint], at);
}

/* A slot for a new remote address, unclaimed; 0 if the endpoint has as many strangers as it may. */
static uint32_t peer_make(int handle, const uint8_t *address, uint16_t port, uint32_t scope) {
    struct endpoint *endpoint = state.endpoints[handle];
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
        state.counters.peers_registered++;
    }
    struct peer *peer = &peers[at];
    memset(peer, 0, sizeof *peer);
    peer->endpoint = handle;
    peer->port = port;
    peer->used_ms = now;
    memcpy(peer->address, address, 16);
    if (endpoint->family == AF_INET) {
        peer->name.v4.sin_family = AF_INET;
        peer->name.v4.sin_port = htons(port);
        memcpy(&peer->name.v4.sin_addr, address + 12, 4);
        peer->name_length = sizeof peer->name.v4;
    } else {
        peer->name.v6.sin6_family = AF_INET6;
        peer->name.v6.sin6_port = htons(port);
        peer->name.v6.sin6_scope_id = scope;
        memcpy(&peer->name.v6.sin6_addr, address, 16);
        peer->name_length = sizeof peer->name.v6;
    }
    uint32_t *bucket = &peer_buckets[peer_hash(handle, address, port)];
    peer->hash_next = *bucket;
    *bucket = at;
    unclaimed_append(endpoint, at);
    state.counters.peers++;
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

/* ---- output -------------------------------------------------------------------------------------------------- */

/* How many packets from `first` on go to one peer in one GSO send: all of one size, but the last may be shorter. */
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

/* Send what is queued; what the socket does not take now stays queued and the endpoint is "blocked". */
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
                endpoint->segmentation = false; /* this kernel, device or path has no use for it */
                continue;
            }
            endpoint->out_first += counts[0]; /* unreachable, filtered...: lost, as packets are */
            state.counters.dropped_output += counts[0];
            continue;
        }
        for (int i = 0; i < sent; i++) {
            endpoint->out_first += counts[i];
            state.counters.sent += counts[i];
        }
    }
    if (endpoint->out_first == endpoint->out_count)
        endpoint->out_first = endpoint->out_count = endpoint->out_used = 0;
    endpoint->out_dirty = endpoint->blocked;
}

/* Room for a packet in the endpoint's queue, or NULL: then it is lost, and SCTP will send it again. */
static uint8_t *out_reserve(struct endpoint *endpoint, uint32_t peer, size_t length) {
    if (endpoint->out_used + length > OUT_BYTES || endpoint->out_count == OUT_PACKETS) {
        if (!endpoint->blocked)
            endpoint_flush(endpoint);
        if (endpoint->out_used + length > OUT_BYTES || endpoint->out_count == OUT_PACKETS) {
            state.counters.dropped_output++;
            return NULL;
        }
    }
    uint8_t *at = endpoint->out + endpoint->out_used;
    endpoint->packets[endpoint->out_count++] = (struct out_packet){endpoint->out_used, (uint32_t)length, peer};
    endpoint->out_used += (uint32_t)length;
    endpoint->out_dirty = true;
    return at;
}

/* The library's output function. It never fails: a loss is SCTP's to see, an error would only confuse it. */
static int on_output(void *address, void *buffer, size_t length, uint8_t tos, uint8_t dont_fragment) {
    uint32_t at = (uint32_t)(uintptr_t)address;
    (void)tos, (void)dont_fragment;
    if (at == 0 || at >= CARRIER_PEERS || peers[at].endpoint < 0 || length < COMMON_HEADER)
        return 0;
    uint8_t *packet = out_reserve(state.endpoints[peers[at].endpoint], at, length);
    if (packet) {
        memcpy(packet, buffer, length);
        put_checksum(packet, length);
        peers[at].packets_out++;
    }
    return 0;
}

/* Send everything queued anywhere; 1 if some endpoint is blocked. */
int carrier_flush(void) {
    int blocked = 0;
    for (int i = 0; i < state.endpoint_count; i++) {
        struct endpoint *endpoint = state.endpoints[i];
        if (endpoint && endpoint->out_dirty) {
            endpoint_flush(endpoint);
            blocked |= endpoint->blocked;
        }
    }
    return blocked;
}

int carrier_blocked(int endpoint) {
    return endpoint_of(endpoint) && state.endpoints[endpoint]->blocked;
}

/* ---- input --------------------------------------------------------------------------------------------------- */

static bool endpoint_listens(int endpoint, uint16_t port) {
    for (int i = 0; i < LISTENERS; i++)
        if (state.listeners[i] && state.listeners[i]->endpoint == endpoint && state.listeners[i]->port == port)
            return true;
    return false;
}

/*
 * Answer a packet for which there is nothing here, without any state (RFC 9260 section 8.4): the sender of an INIT
 * learns that it is refused, and one whose association died with the process before us learns that at once.
 */
static void answer_stateless(struct endpoint *endpoint, const struct sockaddr *name, socklen_t name_length,
                             const uint8_t *packet, size_t length) {
    uint8_t answer[COMMON_HEADER + CHUNK_HEADER] = {0};
    uint8_t type = packet[COMMON_HEADER];
    memcpy(answer, packet + 2, 2);
    memcpy(answer + 2, packet, 2);
    memcpy(answer + 4, packet + 4, 4);
    answer[12] = SCTP_ABORT_ASSOCIATION;
    answer[13] = 1; /* T: the tag is the one that the sender used */
    answer[15] = CHUNK_HEADER;
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
    put_checksum(answer, sizeof answer);
    if (sendto(endpoint->fd, answer, sizeof answer, MSG_DONTWAIT, name, name_length) > 0)
        state.counters.answered++;
}

/* Take one packet: nothing reaches the library that is malformed, damaged, or from a source that may not send. */
static void handle_packet(int handle, const struct sockaddr *name, socklen_t name_length, const uint8_t *packet,
                          size_t length) {
    struct endpoint *endpoint = state.endpoints[handle];
    uint8_t address[16] = {[10] = 0xff, [11] = 0xff};
    uint16_t port;
    uint32_t scope = 0;

    state.counters.received++;
    if (length < COMMON_HEADER + CHUNK_HEADER || get16(packet) == 0 || get16(packet + 2) == 0 ||
        get16(packet + COMMON_HEADER + 2) < CHUNK_HEADER) {
        state.counters.dropped_malformed++;
        return;
    }
    if (name->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const void *)name;
        memcpy(address + 12, &v4->sin_addr, 4);
        port = ntohs(v4->sin_port);
    } else {
        const struct sockaddr_in6 *v6 = (const void *)name;
        memcpy(address, &v6->sin6_addr, 16);
        port = ntohs(v6->sin6_port);
        scope = v6->sin6_scope_id;
    }
    uint32_t at = peer_find(handle, address, port);
    if (!at && !source_is_allowed(endpoint, address)) {
        state.counters.dropped_peer++;
        return;
    }
    if (!checksum_is_right(packet, length)) {
        state.counters.dropped_checksum++;
        return;
    }
    uint8_t type = packet[COMMON_HEADER];
    bool opening = type == SCTP_INITIATION || (type == SCTP_COOKIE_ECHO && !at);
    bool refused = opening && (!endpoint_listens(handle, get16(packet + 2)) ||
                               endpoint->associations >= endpoint->max_associations);
    if (refused || (!at && !opening)) {
        answer_stateless(endpoint, name, name_length, packet, length);
        return;
    }
    if (!at && !(at = peer_make(handle, address, port, scope))) {
        state.counters.dropped_bound++;
        return;
    }
    struct peer *peer = &peers[at];
    peer->packets_in++;
    if (!peer->references) { /* longest unused first */
        peer->used_ms = now_ms();
        unclaimed_unlink(endpoint, at);
        unclaimed_append(endpoint, at);
    }
    usrsctp_conninput((void *)(uintptr_t)at, packet, length, 0);
}

/*
 * Read packets of an endpoint, about max_packets at most, so that the loop stays fair; how many there were. What
 * remains keeps the socket readable.
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
                total++; /* an empty datagram is work too */
            for (size_t offset = 0; offset < length; offset += step) {
                size_t rest = length - offset;
                handle_packet(handle, (struct sockaddr *)&names[i], header->msg_namelen,
                              (uint8_t *)vectors[i].iov_base + offset, rest < step ? rest : step);
                total++;
                if (++unflushed == FLUSH_EVERY) {
                    carrier_flush();
                    unflushed = 0;
                }
            }
        }
        if (count < DATAGRAMS)
            break;
    }
    return total;
}

/* ---- time ---------------------------------------------------------------------------------------------------- */

/* Monotonic time that passed, no more than a little at once: neither a set clock nor SIGSTOP makes peers time out. */
void carrier_timers(void) {
    uint64_t now = now_ms(), elapsed = now - state.tick_ms;
    state.tick_ms = now;
    if (elapsed)
        usrsctp_handle_timers(elapsed > ELAPSED_MAX_MS ? ELAPSED_MAX_MS : (uint32_t)elapsed);
}

void carrier_timers_restart(void) { state.tick_ms = now_ms(); }

/* ---- endpoints ----------------------------------------------------------------------------------------------- */

int carrier_init(void) {
    if (state.ready)
        return 0;
    crc_start();
    if (getrandom(&state.hash_seed, sizeof state.hash_seed, 0) != sizeof state.hash_seed)
        return -errno;
    if (!(state.datagrams = malloc((size_t)DATAGRAMS * DATAGRAM_SIZE)))
        return -ENOMEM;
    for (uint32_t i = 0; i < CARRIER_PEERS; i++)
        peers[i].endpoint = -1;
    usrsctp_init_nothreads(0, on_output, NULL);
    usrsctp_enable_crc32c_offload();
    usrsctp_sysctl_set_sctp_ecn_enable(0);              /* UDP payload carries no ECN bits to us */
    usrsctp_sysctl_set_sctp_asconf_enable(0);
    usrsctp_sysctl_set_sctp_auth_enable(0);
    usrsctp_sysctl_set_sctp_nrsack_enable(0);
    usrsctp_sysctl_set_sctp_pktdrop_enable(0);
    usrsctp_sysctl_set_sctp_enable_sack_immediately(1); /* a shutdown must not wait for a delayed SACK */
    usrsctp_sysctl_set_sctp_max_chunks_on_queue(8192);  /* 512 would limit small messages before cwnd does */
    carrier_timers_restart();
    state.ready = true;
    return 0;
}

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

/* Call it when no association and no listener uses the endpoint any more; the descriptor is the caller's. */
void carrier_endpoint_close(int handle) {
    struct endpoint *endpoint = endpoint_of(handle);
    if (!endpoint)
        return;
    endpoint_flush(endpoint);
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

/* ---- SCTP sockets -------------------------------------------------------------------------------------------- */

static int set_option(struct socket *socket, int option, const void *value, socklen_t size) {
    return usrsctp_setsockopt(socket, IPPROTO_SCTP, option, value, size);
}

static int subscribe(struct socket *socket) {
    static const uint16_t events[] = {SCTP_ASSOC_CHANGE, SCTP_PEER_ADDR_CHANGE, SCTP_PARTIAL_DELIVERY_EVENT,
                                      SCTP_STREAM_CHANGE_EVENT};
    int failed = 0;
    for (size_t i = 0; i < sizeof events / sizeof *events; i++) {
        struct sctp_event event = {.se_assoc_id = SCTP_FUTURE_ASSOC, .se_type = events[i], .se_on = 1};
        failed |= set_option(socket, SCTP_EVENT, &event, sizeof event);
    }
    return failed;
}

static int apply_options(struct socket *socket, const struct carrier_options *options) {
    int one = 1, interleave = options->interleaving ? 2 : 1, failed = 0;
    /* twice: a message may be as large as the send buffer and find a queue that is as long as room() allows */
    int send_buffer = (int)(2 * options->send_buffer), receive_buffer = (int)options->receive_buffer;
    struct sctp_initmsg init = {
        .sinit_num_ostreams = (uint16_t)options->outgoing_streams,
        .sinit_max_instreams = (uint16_t)options->incoming_streams,
        .sinit_max_attempts = (uint16_t)(options->connect_timeout_ms / options->rto_min_ms + 8), /* Python ends it */
        .sinit_max_init_timeo = (uint16_t)(options->rto_max_ms < 65535 ? options->rto_max_ms : 65535)};
    struct sctp_rtoinfo rto = {.srto_initial = options->rto_initial_ms, .srto_min = options->rto_min_ms,
                               .srto_max = options->rto_max_ms};
    struct sctp_assocparams params = {.sasoc_asocmaxrxt = (uint16_t)options->retransmissions};
    struct sctp_paddrparams path = {
        .spp_address.ss_family = AF_CONN, .spp_hbinterval = options->heartbeat_ms, .spp_pathmtu = options->packet,
        .spp_flags = SPP_HB_ENABLE | SPP_PMTUD_DISABLE, .spp_pathmaxrxt = (uint16_t)options->retransmissions};
    struct sctp_assoc_value scheduler = {SCTP_FUTURE_ASSOC, options->scheduler};
    struct sctp_assoc_value interleaving = {SCTP_FUTURE_ASSOC, options->interleaving};
    struct sctp_assoc_value reset = {SCTP_FUTURE_ASSOC, SCTP_ENABLE_CHANGE_ASSOC_REQ};
    struct sctp_sack_info sack = {SCTP_FUTURE_ASSOC, SACK_DELAY_MS, SACK_EVERY};

    failed |= usrsctp_set_non_blocking(socket, 1);
    failed |= usrsctp_setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &send_buffer, sizeof send_buffer);
    failed |= usrsctp_setsockopt(socket, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    failed |= set_option(socket, SCTP_INITMSG, &init, sizeof init);
    failed |= set_option(socket, SCTP_RTOINFO, &rto, sizeof rto);
    failed |= set_option(socket, SCTP_ASSOCINFO, &params, sizeof params);
    failed |= set_option(socket, SCTP_PEER_ADDR_PARAMS, &path, sizeof path);
    failed |= set_option(socket, SCTP_PLUGGABLE_SS, &scheduler, sizeof scheduler);
    failed |= set_option(socket, SCTP_FRAGMENT_INTERLEAVE, &interleave, sizeof interleave);
    failed |= set_option(socket, SCTP_INTERLEAVING_SUPPORTED, &interleaving, sizeof interleaving);
    failed |= set_option(socket, SCTP_ENABLE_STREAM_RESET, &reset, sizeof reset);
    failed |= set_option(socket, SCTP_DELAYED_SACK, &sack, sizeof sack);
    failed |= set_option(socket, SCTP_NODELAY, &one, sizeof one);
    failed |= set_option(socket, SCTP_RECVRCVINFO, &one, sizeof one);
    failed |= set_option(socket, SCTP_RECVNXTINFO, &one, sizeof one);
    failed |= subscribe(socket);
    return failed ? -EINVAL : 0;
}

/* Close a socket at once: with an ABORT if its association still stands. */
static void close_hard(struct socket *socket) {
    struct linger linger = {1, 0};
    usrsctp_set_upcall(socket, NULL, NULL);
    usrsctp_setsockopt(socket, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    usrsctp_close(socket);
}

static struct association *association_make(struct socket *socket, uint32_t peer) {
    int handle = 0;
    while (handle < state.association_capacity && state.associations[handle])
        handle++;
    if (handle == state.association_capacity) {
        int capacity = handle ? 2 * handle : 64;
        struct association **grown = realloc(state.associations, (size_t)capacity * sizeof *grown);
        if (!grown)
            return NULL;
        memset(grown + handle, 0, (size_t)(capacity - handle) * sizeof *grown);
        state.associations = grown;
        state.association_capacity = capacity;
    }
    struct association *association = calloc(1, sizeof *association);
    if (!association)
        return NULL;
    int send_buffer = 0;
    socklen_t size = sizeof send_buffer;
    usrsctp_getsockopt(socket, SOL_SOCKET, SO_SNDBUF, &send_buffer, &size);
    association->send_buffer = (uint32_t)send_buffer / 2;
    association->socket = socket;
    association->handle = handle;
    association->peer = peer;
    association->mean_length = 1024;
    association->nodelay = true;
    peer_claim(peer);
    state.endpoints[peers[peer].endpoint]->associations++;
    state.associations[handle] = association;
    state.counters.associations++;
    usrsctp_set_upcall(socket, on_association, association);
    return association;
}

int carrier_listen(int endpoint, uint16_t port, const struct carrier_options *options) {
    int handle = 0, error;
    struct sockaddr_conn name = {.sconn_family = AF_CONN, .sconn_port = htons(port)};

    while (handle < LISTENERS && state.listeners[handle])
        handle++;
    if (handle == LISTENERS || !endpoint_of(endpoint))
        return -EMFILE;
    struct listener *listener = calloc(1, sizeof *listener);
    struct socket *socket = usrsctp_socket(AF_CONN, SOCK_STREAM, IPPROTO_SCTP, NULL, NULL, 0, NULL);
    if (!listener || !socket) {
        error = -ENOMEM;
    } else if ((error = apply_options(socket, options)) == 0) {
        if (usrsctp_bind(socket, (struct sockaddr *)&name, sizeof name) || usrsctp_listen(socket, BACKLOG))
            error = -errno;
    }
    if (error) {
        if (socket)
            usrsctp_close(socket);
        free(listener);
        return error;
    }
    *listener = (struct listener){socket, endpoint, 0, port};
    state.listeners[handle] = listener;
    usrsctp_set_upcall(socket, on_listener, (void *)(intptr_t)handle);
    return handle;
}

void carrier_unlisten(int handle) {
    struct listener *listener = listener_of(handle);
    if (!listener)
        return;
    close_hard(listener->socket);
    dirty_remove(&listener->dirty);
    state.listeners[handle] = NULL;
    free(listener);
}

/* The next association of a listener, and who it is with; -EAGAIN if there is none. */
int carrier_accept(int handle, int *endpoint, uint8_t *address, uint16_t *port) {
    struct listener *listener = listener_of(handle);
    struct sockaddr_conn name = {0};
    socklen_t size = sizeof name;
    if (!listener)
        return -EBADF;
    struct socket *socket = usrsctp_accept(listener->socket, (struct sockaddr *)&name, &size);
    if (!socket)
        return -EAGAIN;
    uint32_t at = (uint32_t)(uintptr_t)name.sconn_addr;
    struct association *association = NULL;
    if (at && at < CARRIER_PEERS && peers[at].endpoint >= 0) {
        usrsctp_set_non_blocking(socket, 1);
        association = association_make(socket, at);
    }
    if (!association) {
        close_hard(socket);
        return -ENOMEM;
    }
    *endpoint = peers[at].endpoint;
    *port = peers[at].port;
    memcpy(address, peers[at].address, 16);
    dirty_add(association->handle, &association->dirty); /* data may have come with the COOKIE ECHO */
    return association->handle;
}

int carrier_connect(int endpoint, const uint8_t *address, uint16_t udp_port, uint16_t port, uint32_t scope,
                    const struct carrier_options *options) {
    if (!endpoint_of(endpoint))
        return -EBADF;
    uint32_t at = peer_find(endpoint, address, udp_port);
    if (!at && !(at = peer_make(endpoint, address, udp_port, scope)))
        return -ENOBUFS;
    struct sockaddr_conn name = {.sconn_family = AF_CONN, .sconn_port = htons(port),
                                 .sconn_addr = (void *)(uintptr_t)at};
    struct socket *socket = usrsctp_socket(AF_CONN, SOCK_STREAM, IPPROTO_SCTP, NULL, NULL, 0, NULL);
    if (!socket)
        return -errno;
    int error = apply_options(socket, options);
    if (!error && usrsctp_connect(socket, (struct sockaddr *)&name, sizeof name) && errno != EINPROGRESS)
        error = -errno;
    struct association *association = error ? NULL : association_make(socket, at);
    if (!association) {
        close_hard(socket);
        return error ? error : -ENOMEM;
    }
    return association->handle;
}

/* Forget an association: an ABORT is sent if it still stands. */
void carrier_release(int handle) {
    struct association *association = association_of(handle);
    if (!association)
        return;
    close_hard(association->socket);
    dirty_remove(&association->dirty);
    state.associations[handle] = NULL;
    state.counters.associations--;
    state.endpoints[peers[association->peer].endpoint]->associations--;
    peer_release(association->peer);
    free(association);
}

/* ---- receiving ----------------------------------------------------------------------------------------------- */

static bool supports_interleaving(const struct sctp_assoc_change *change, size_t length) {
    for (size_t i = offsetof(struct sctp_assoc_change, sac_info); i < length; i++)
        if (((const uint8_t *)change)[i] == SCTP_ASSOC_SUPPORTS_INTERLEAVING)
            return true;
    return false;
}

static int socket_error(struct socket *socket) {
    int error = 0;
    socklen_t size = sizeof error;
    usrsctp_getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size);
    return error;
}

/*
 * Turn the notification at `record` into something short; false if Python need not know of it. `before` is the
 * record before it, or NULL.
 */
static bool read_notification(struct association *association, uint8_t *data, struct carrier_record *record,
                              struct carrier_record *before) {
    union sctp_notification *event = (union sctp_notification *)data;
    uint32_t length = record->length;
    record->length = 0;
    if (length < sizeof event->sn_header)
        return false;
    switch (event->sn_header.sn_type) {
    case SCTP_ASSOC_CHANGE:
        record->stream = event->sn_assoc_change.sac_outbound_streams;
        record->ppid = event->sn_assoc_change.sac_inbound_streams;
        switch (event->sn_assoc_change.sac_state) {
        case SCTP_COMM_UP:
            record->kind = CARRIER_UP;
            record->key = supports_interleaving(&event->sn_assoc_change, length);
            return true;
        case SCTP_RESTART:
            record->kind = CARRIER_RESTART;
            return true;
        case SCTP_SHUTDOWN_COMP:
            record->kind = CARRIER_DOWN;
            return true;
        default:
            record->kind = CARRIER_LOST;
            record->ppid = (uint32_t)socket_error(association->socket);
            record->offset += offsetof(struct sctp_assoc_change, sac_info);
            record->length = length - (uint32_t)offsetof(struct sctp_assoc_change, sac_info);
            return true;
        }
    case SCTP_STREAM_CHANGE_EVENT:
        record->kind = CARRIER_STREAMS;
        record->stream = event->sn_strchange_event.strchange_outstrms;
        record->ppid = event->sn_strchange_event.strchange_instrms;
        return true;
    case SCTP_PEER_ADDR_CHANGE:
        record->kind = CARRIER_PATH;
        record->ppid = event->sn_paddr_change.spc_state;
        return true;
    case SCTP_PARTIAL_DELIVERY_EVENT:
        record->stream = event->sn_pdapi_event.pdapi_stream;
        record->key = event->sn_pdapi_event.pdapi_seq & 0xffff;
        record->kind = CARRIER_PART_LOST;
        /* The library marks what it had of an abandoned message as its end, and only then says that it is not. */
        if (before && before->kind <= CARRIER_UNORDERED && before->stream == record->stream &&
            before->key == record->key) {
            before->kind = CARRIER_PART_LOST;
            before->length = 0;
            return false;
        }
        return true;
    }
    return false;
}

/*
 * Take what an association has received, in order: up to `max` records, their data in the arena. If there may be
 * more the association is dirty again. A batch never ends between a message and a notification behind it, see
 * read_notification().
 */
int carrier_receive(int handle, uint8_t *arena, uint32_t size, struct carrier_record *records, int max) {
    struct association *association = association_of(handle);
    uint32_t used = 0;
    int count = 0;
    bool notification_next = false;

    if (!association)
        return -EBADF;
    for (;;) {
        struct sctp_recvv_rn info;
        socklen_t info_size = sizeof info;
        unsigned int info_type = 0;
        int flags = 0;
        uint32_t space = size - used - (notification_next ? 0 : ARENA_RESERVE);
        if (count >= max - 1 - !notification_next || space < ARENA_RESERVE / 2) {
            dirty_add(handle, &association->dirty);
            break;
        }
        ssize_t length = usrsctp_recvv(association->socket, arena + used, space, NULL, NULL, &info, &info_size,
                                       &info_type, &flags);
        struct carrier_record *record = &records[count];
        *record = (struct carrier_record){.offset = used, .length = (uint32_t)length};
        if (length <= 0) {
            if (length < 0 && errno == EAGAIN)
                break;
            record->kind = length ? CARRIER_LOST : CARRIER_DOWN; /* in case that no notification said so */
            record->ppid = length ? (uint32_t)errno : 0;
            record->length = 0;
            count++;
            break;
        }
        notification_next = info_type == SCTP_RECVV_RN && (info.recvv_nxtinfo.nxt_flags & SCTP_NOTIFICATION);
        if (flags & MSG_NOTIFICATION) {
            notification_next = false;
            if (!read_notification(association, arena + used, record, count ? record - 1 : NULL))
                continue;
        } else {
            record->kind = (info.recvv_rcvinfo.rcv_flags & SCTP_UNORDERED ? CARRIER_UNORDERED : CARRIER_ORDERED) +
                           (flags & MSG_EOR ? 0 : CARRIER_PART_ORDERED);
            record->stream = info.recvv_rcvinfo.rcv_sid;
            record->ppid = ntohl(info.recvv_rcvinfo.rcv_ppid);
            record->key = info.recvv_rcvinfo.rcv_ssn;
        }
        used = (record->offset + record->length + 7) & ~7u; /* notifications are read where they lie */
        count++;
    }
    return count;
}

/* ---- sending ------------------------------------------------------------------------------------------------- */

/* Would the library queue `length` bytes more? Asked with a stream that cannot be, which it looks at afterwards. */
static bool fits(struct association *association, uint32_t length) {
    static const uint8_t nothing;
    struct sctp_sndinfo info = {.snd_sid = 65535};
    ssize_t sent = usrsctp_sendv(association->socket, &nothing, length, NULL, 0, &info, sizeof info,
                                 SCTP_SENDV_SNDINFO, 0);
    return sent < 0 && errno == EINVAL;
}

/*
 * Payload bytes that the library has queued or in flight. It does not tell, but it refuses what would not fit the
 * socket's buffer: so look for the limit by halving, to 512 bytes. Eight refusals cost about as much as one message.
 */
static uint32_t queued_bytes(struct association *association, uint32_t limit) {
    uint32_t buffer = 2 * association->send_buffer, low = 0, high = limit;
    if (!fits(association, buffer - limit))
        return limit;
    while (high - low > 512) {
        uint32_t middle = low + (high - low) / 2;
        if (fits(association, buffer - middle))
            high = middle;
        else
            low = middle;
    }
    return high <= 512 ? 0 : high;
}

static bool status_of(struct association *association, struct sctp_status *status) {
    socklen_t size = sizeof *status;
    memset(status, 0, sizeof *status);
    return !usrsctp_getsockopt(association->socket, IPPROTO_SCTP, SCTP_STATUS, status, &size);
}

/*
 * How many bytes to hand over now. The library's queue is kept at one and a half of the congestion window: one in
 * flight, and half of one, 16 KiB at least, to send from while acknowledgements come. More only stands before what is
 * more urgent: the library gives each stream that has something queued its turn before it looks for a higher priority
 * (docs/streams.md has what other lengths do). `useful` is the room worth a call: less, and the caller had better wait
 * for more. The answer is negative, down to -beyond, when more is queued than should be.
 */
int carrier_room(int handle, uint32_t beyond, uint32_t *useful) {
    struct association *association = association_of(handle);
    struct sctp_status status;
    *useful = 1;
    if (!association || !status_of(association, &status) || status.sstat_state != SCTP_ESTABLISHED)
        return -(int)beyond;
    uint64_t window = status.sstat_primary.spinfo_cwnd;
    uint64_t target = window + (window / 2 > QUEUE_AHEAD ? window / 2 : QUEUE_AHEAD);
    if (target > association->send_buffer)
        target = association->send_buffer;
    *useful = (uint32_t)target / 4;
    double queued = queued_bytes(association, (uint32_t)target + beyond);
    queued *= 1 + MESSAGE_OVERHEAD / association->mean_length;
    return queued >= (double)target + beyond ? -(int)beyond : (int)((double)target - queued);
}

static void set_nodelay(struct association *association, bool nodelay) {
    int value = nodelay;
    if (association->nodelay != nodelay) {
        set_option(association->socket, SCTP_NODELAY, &value, sizeof value);
        association->nodelay = nodelay;
    }
}

/*
 * Whether a message may be given a lifetime: only one that needs no fragmentation. When libusrsctp 0.9.5 gives up a
 * fragmented message, it takes the chunks that follow in its queue for the rest of it (sctp_release_pr_sctp_chunk()).
 * With I-DATA those belong to other messages too, reliable ones, and they are never sent again: the association
 * stands still, or worse. What may be abandoned may also arrive, so such a message is sent reliably.
 */
static bool may_expire(struct association *association, uint32_t length) {
    struct sctp_status status;
    if (!association->unfragmented && status_of(association, &status))
        association->unfragmented = status.sstat_fragmentation_point;
    return length <= association->unfragmented;
}

/*
 * Hand over messages; how many were taken. Within a batch small messages wait for each other (Nagle) so that they
 * share packets; the last one goes out at once and takes the rest along.
 */
int carrier_send(int handle, const uint8_t *data, size_t length, const struct carrier_outgoing *messages, int count) {
    struct association *association = association_of(handle);
    int taken = 0;
    if (!association)
        return -EBADF;
    for (; taken < count; taken++) {
        const struct carrier_outgoing *message = &messages[taken];
        struct sctp_sendv_spa info = {
            .sendv_flags = SCTP_SEND_SNDINFO_VALID,
            .sendv_sndinfo = {.snd_sid = (uint16_t)message->stream, .snd_ppid = htonl(message->ppid),
                              .snd_flags = message->unordered ? SCTP_UNORDERED : 0}};
        if (message->lifetime_ms && may_expire(association, message->length)) {
            info.sendv_flags |= SCTP_SEND_PRINFO_VALID;
            info.sendv_prinfo.pr_policy = SCTP_PR_SCTP_TTL;
            info.sendv_prinfo.pr_value = message->lifetime_ms;
        }
        if (message->length > length)
            return -EINVAL;
        set_nodelay(association, taken == count - 1);
        if (usrsctp_sendv(association->socket, data, message->length, NULL, 0, &info, sizeof info, SCTP_SENDV_SPA,
                          0) < 0) {
            if (errno == EAGAIN || taken)
                break;
            return -errno;
        }
        association->mean_length += (message->length - association->mean_length) / 64;
        data += message->length;
        length -= message->length;
    }
    set_nodelay(association, true);
    return taken;
}

/* ---- control ------------------------------------------------------------------------------------------------- */

int carrier_set_priority(int handle, uint16_t stream, uint16_t priority) {
    struct association *association = association_of(handle);
    struct sctp_stream_value value = {SCTP_CURRENT_ASSOC, stream, priority};
    if (!association)
        return -EBADF;
    return set_option(association->socket, SCTP_SS_VALUE, &value, sizeof value) ? -errno : 0;
}

int carrier_add_streams(int handle, uint16_t count) {
    struct association *association = association_of(handle);
    struct sctp_add_streams add = {.sas_outstrms = count};
    if (!association)
        return -EBADF;
    return set_option(association->socket, SCTP_ADD_STREAMS, &add, sizeof add) ? -errno : 0;
}

/* Graceful, by SCTP_EOF and not usrsctp_shutdown(): that one would also stop what is still to be received. */
int carrier_shutdown(int handle) {
    struct association *association = association_of(handle);
    struct sctp_sndinfo info = {.snd_flags = SCTP_EOF};
    if (!association)
        return -EBADF;
    return usrsctp_sendv(association->socket, "", 0, NULL, 0, &info, sizeof info, SCTP_SENDV_SNDINFO, 0) < 0 ? -errno
                                                                                                              : 0;
}

/* ABORT with a reason for the peer (RFC 9260 section 3.3.10.12); carrier_release() is to follow. */
void carrier_abort(int handle, const uint8_t *reason, uint32_t length) {
    struct association *association = association_of(handle);
    struct sctp_sndinfo info = {.snd_flags = SCTP_ABORT};
    if (association)
        (void)usrsctp_sendv(association->socket, reason, length, NULL, 0, &info, sizeof info, SCTP_SENDV_SNDINFO, 0);
}

int carrier_get_status(int handle, struct carrier_status *result) {
    struct association *association = association_of(handle);
    struct sctp_status status;
    if (!association || !status_of(association, &status))
        return -EBADF;
    const struct peer *peer = &peers[association->peer];
    *result = (struct carrier_status){
        .state = (uint32_t)status.sstat_state,
        .peer_window = status.sstat_rwnd,
        .unacknowledged = status.sstat_unackdata,
        .outgoing_streams = status.sstat_outstrms,
        .incoming_streams = status.sstat_instrms,
        .cwnd = status.sstat_primary.spinfo_cwnd,
        .srtt_ms = status.sstat_primary.spinfo_srtt,
        .rto_ms = status.sstat_primary.spinfo_rto,
        .mtu = status.sstat_primary.spinfo_mtu,
        .path_state = (uint32_t)status.sstat_primary.spinfo_state,
        .queued = queued_bytes(association, 2 * association->send_buffer - 1),
        .packets_sent = peer->packets_out,
        .packets_received = peer->packets_in};
    return 0;
}

void carrier_get_counters(struct carrier_counters *counters) { *counters = state.counters; }
