/*
 * What Python sees of the userspace SCTP carrier. The text between the markers is also what cffi reads
 * (_usrsctp_build.py), so it is plain C without preprocessor lines.
 *
 * Everything here runs on the event loop's thread. Nothing calls back into Python: events are noted, and Python
 * fetches them in batches (carrier_dirty, carrier_receive). Handles are small integers, never pointers, so a stale
 * one is an error and not a crash. Functions that can fail return -errno.
 */
#ifndef USRSCTP_CARRIER_H
#define USRSCTP_CARRIER_H

#include <stddef.h>
#include <stdint.h>

/* cffi: begin */
struct carrier_options {
    uint32_t outgoing_streams, incoming_streams;
    uint32_t scheduler;                     /* SCTP_SS_... */
    uint32_t interleaving;
    uint32_t send_buffer, receive_buffer;
    uint32_t packet;                        /* SCTP packet size, without IP and UDP headers */
    uint32_t sack_every;                    /* packets after which a SACK is sent, if none is asked for */
    uint32_t retransmissions;               /* of the only path, thus of the association */
    uint32_t rto_initial_ms, rto_min_ms, rto_max_ms;
    uint32_t connect_timeout_ms;
};

/* A message, a part of one, or a notification that was received. Offsets are into the arena. */
struct carrier_record {
    uint32_t offset, length;
    uint32_t kind;
    uint32_t stream;                        /* or a count of outgoing streams */
    uint32_t ppid;                          /* or a count of incoming streams, or an errno */
    uint32_t key;                           /* distinguishes the messages of one stream (low 16 bits of SSN or MID) */
};

/* A message to send. Payloads of several messages lie one after the other in memory. */
struct carrier_outgoing {
    uint32_t length, stream, ppid, unordered, lifetime_ms;
};

struct carrier_status {
    uint32_t state, peer_window, unacknowledged, outgoing_streams, incoming_streams;
    uint32_t cwnd, srtt_ms, rto_ms, mtu, path_state, queued;
    uint64_t packets_sent, packets_received;
};

struct carrier_counters {
    uint64_t received, sent, dropped_malformed, dropped_checksum, dropped_peer, dropped_output;
    uint64_t refused;                       /* INITs, see enum carrier_refusal */
    uint64_t answered;                      /* ABORTs without an association, see answer_stateless() */
    uint32_t peers, peers_registered, associations;
};

/* A remote UDP address, and SCTP ports. IPv4 addresses are ::ffff:a.b.c.d; scope is the zone of a link-local one. */
struct carrier_source {
    uint8_t address[16];
    uint32_t scope;
    uint16_t port, own_sctp_port, sctp_port;
    int32_t endpoint;
};

int carrier_init(void);
int carrier_endpoint_open(int fd, int offload, uint32_t max_unclaimed, uint32_t max_associations,
                          const uint8_t *networks, uint32_t network_count);
void carrier_endpoint_close(int endpoint);
int carrier_listen(int endpoint, uint16_t port, const struct carrier_options *options);
int carrier_listen_also(int listener, int endpoint);
void carrier_unlisten(int listener);
int carrier_accept(int listener, struct carrier_source *source);
int carrier_connect(int endpoint, const uint8_t *address, uint16_t udp_port, uint16_t port,
                    uint32_t scope, const struct carrier_options *options);
int carrier_input(int endpoint, int max_packets);
uint32_t carrier_refused(int endpoint, int why, struct carrier_source *last);
const char *carrier_refusal_text(int why);
int carrier_timers(void);
void carrier_timers_restart(void);
int carrier_flush(void);
int carrier_blocked(int endpoint);
int carrier_dirty(int32_t *handles, int max);
int carrier_receive(int association, uint8_t *arena, uint32_t size, struct carrier_record *records, int max);
uint32_t carrier_unfragmented(int association);
int carrier_room(int association, uint32_t beyond, uint32_t *useful);
int carrier_send(int association, const uint8_t *data, size_t length, const struct carrier_outgoing *messages, int count);
int carrier_set_priority(int association, uint16_t stream, uint16_t priority);
int carrier_add_streams(int association, uint16_t count);
int carrier_shutdown(int association);
void carrier_abort(int association, const uint8_t *reason, uint32_t length);
void carrier_release(int association);
void carrier_ask(int association);
uint64_t carrier_packets_received(int association);
int carrier_get_status(int association, struct carrier_status *status);
void carrier_get_counters(struct carrier_counters *counters);
uint32_t carrier_crc32c(const uint8_t *data, size_t length, int portable);

/* How an association leaves slow start, see usrsctp_start.c. Python needs it for tests only. */
struct start;
struct start *start_begin(void);
void start_end(struct start *start);
void start_sent(struct start *start, const uint8_t *packet, size_t length, uint64_t now_us);
void start_received(struct start *start, const uint8_t *packet, size_t length, uint64_t now_us);
uint32_t start_bound(struct start *start, uint32_t window, uint32_t packet);
/* cffi: end */

enum carrier_kind {
    CARRIER_ORDERED = 0,
    CARRIER_UNORDERED = 1,
    CARRIER_PART_ORDERED = 2,       /* a part of a message; its last part has kind ORDERED or UNORDERED */
    CARRIER_PART_UNORDERED = 3,
    CARRIER_PART_LOST = 4,          /* the rest of the message of (stream, key) will never come */
    CARRIER_UP = 5,                 /* key: 1 with I-DATA */
    CARRIER_STREAMS = 6,
    CARRIER_DOWN = 7,               /* after a graceful shutdown */
    CARRIER_LOST = 8,               /* ppid: errno; data: the ABORT chunk, if there was one */
    CARRIER_PATH = 9,               /* ppid: the new state */
    CARRIER_RESTART = 10,
};

/* Why an INIT was refused. */
enum carrier_refusal {
    CARRIER_NOT_ALLOWED = 0,        /* in none of the networks */
    CARRIER_FULL = 1,               /* too many associations */
    CARRIER_TOO_OFTEN = 2,          /* too many INITs from this address */
    CARRIER_TOO_MANY = 3,           /* too many peers without an association */
    CARRIER_REFUSALS = 4,
};

enum {
    CARRIER_REFUSED = 1 << 30,      /* in the answer of carrier_input() */
    CARRIER_BLOCKED = 1,            /* in the answer of carrier_flush() */
    CARRIER_WOKEN = 2,
    CARRIER_PEER_ORDER = 16,
    CARRIER_PEERS = 1 << CARRIER_PEER_ORDER,    /* table size; the limits of a carrier are lower */
};

#endif
