/*
 * The userspace SCTP carrier: libusrsctp with its packets in UDP (RFC 6951). Python makes few and large calls.
 *
 *   UDP socket --recvmmsg, GRO--> handle_packet --> usrsctp_conninput --> upcall marks the association dirty
 *   Python asks carrier_dirty(), then carrier_receive() for a batch of messages in one arena
 *   library --> on_output copies the packet into the endpoint's queue --sendmmsg, GSO--> UDP socket
 *
 * The library knows a peer as an opaque "connection address" (AF_CONN). Ours is the index of a peer
 * slot, not a pointer: a packet of an association that outlived its peer then finds an empty slot and not freed
 * memory. Slots are registered with the library once and used again, because to deregister one leaks:
 * usrsctp_deregister_address() leaves its work to an iterator thread that usrsctp_init_nothreads() does not start.
 *
 * This file has the sockets, messages and notifications of SCTP; usrsctp_packets.c has the packets, usrsctp_timers.c the
 * library's clock; each uses those that come after it.
 */
#include "usrsctp_packets.h"
#include "usrsctp_timers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <usrsctp.h>

#ifndef SCTP_INTERLEAVING_SUPPORTED
#define SCTP_INTERLEAVING_SUPPORTED 0x00001206 /* the library has it, its public header does not */
#endif

enum {
    LISTENERS = 1024,
    BACKLOG = 1024,
    QUEUE_AHEAD = 16 * 1024,    /* what an association may queue beyond its window at least, see carrier_room() */
    MESSAGE_OVERHEAD = 128,     /* what a queued message costs in addition to its payload, roughly */
    ARENA_RESERVE = 4096,       /* kept free for a notification */
    ARENA_LEAST = 64 * 1024,    /* to read a message into: one that does not fit comes in parts, which are copied again */
    SACK_DELAY_MS = 20,
    ASK_EVERY = 48 * 1024,      /* bytes sent, or two packets if that is less, after which a message asks for an immediate
                                   SACK: large packets are too few to cause one, and the window (2 packets at the start)
                                   must not be full before */
    RTO_STEP_MS = 16,           /* by which the least retransmission time-out changes at least */
    SMALL_SACK_EVERY = 2,       /* packets of a peer whose packets are small; RFC 9260 section 6.2 */
};

struct listener {
    struct socket *socket;
    int dirty;
    uint16_t port;
    struct carrier_options options;
};

struct association {
    struct socket *socket;
    int handle, dirty;          /* dirty: place in the list + 1 */
    uint32_t peer, send_buffer;
    uint32_t unfragmented;      /* largest message that fits one chunk; 0: not known yet */
    uint32_t unasked, ask_every; /* bytes sent since a message asked for a SACK; limit of that */
    uint32_t sack_every;
    uint32_t rto_min_ms, rto_max_ms, rto_least_ms; /* as in struct carrier_options; what the library has now */
    double mean_length;         /* of messages sent, for MESSAGE_OVERHEAD */
    bool nodelay;
    bool interleaving;          /* I-DATA is in use */
};

static struct {
    bool ready;
    struct listener *listeners[LISTENERS];
    struct association **associations;
    int association_capacity, association_count;
    int32_t *dirty;             /* handles; listeners as -2 - n, gaps as -1 */
    int dirty_count, dirty_capacity;
} state;

/* ---- associations and listeners with news for Python ---------------------------------------------------------- */

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

/* Send what waits; CARRIER_BLOCKED if an endpoint is blocked, and CARRIER_WOKEN if carrier_timers() is due sooner than it
 * said. */
int carrier_flush(void) {
    int woken = timers_woken() ? CARRIER_WOKEN : 0;
    return woken | packets_flush();
}

/* ---- the library ---------------------------------------------------------------------------------------------- */

int carrier_init(void) {
    if (state.ready)
        return 0;
    int error = packets_init();
    if (error)
        return error;
    usrsctp_init_nothreads(0, packets_output, NULL);
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
        .spp_address.ss_family = AF_CONN, .spp_pathmtu = options->packet,
        .spp_flags = SPP_HB_DISABLE | SPP_PMTUD_DISABLE, /* carrier_ask() sends heartbeats, when nothing else comes */ .spp_pathmaxrxt = (uint16_t)options->retransmissions};
    struct sctp_assoc_value scheduler = {SCTP_FUTURE_ASSOC, options->scheduler};
    struct sctp_assoc_value interleaving = {SCTP_FUTURE_ASSOC, options->interleaving};
    struct sctp_assoc_value reset = {SCTP_FUTURE_ASSOC, SCTP_ENABLE_CHANGE_ASSOC_REQ};
    struct sctp_sack_info sack = {SCTP_FUTURE_ASSOC, SACK_DELAY_MS, options->sack_every};

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

/* Close a socket at once, with an ABORT if its association still stands. */
static void close_hard(struct socket *socket) {
    struct linger linger = {1, 0};
    usrsctp_set_upcall(socket, NULL, NULL);
    usrsctp_setsockopt(socket, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    usrsctp_close(socket);
}

static struct association *association_make(struct socket *socket, uint32_t peer,
                                            const struct carrier_options *options) {
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
    association->ask_every = 2 * options->packet < ASK_EVERY ? 2 * options->packet : ASK_EVERY;
    association->sack_every = options->sack_every;
    association->rto_min_ms = association->rto_least_ms = options->rto_min_ms;
    association->rto_max_ms = options->rto_max_ms;
    peer_claim(peer);
    if (options->packet < LARGE_PACKET) /* the loopback has no queue that drops packets */
        peer_start_begins(peer);
    endpoint_of(peers[peer].endpoint)->associations++;
    state.associations[handle] = association;
    packet_counters.associations++;
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
    *listener = (struct listener){socket, 0, port, *options};
    state.listeners[handle] = listener;
    endpoint_listen(endpoint, port);
    usrsctp_set_upcall(socket, on_listener, (void *)(intptr_t)handle);
    return handle;
}

/* Accept associations of another endpoint, too. */
int carrier_listen_also(int handle, int endpoint) {
    struct listener *listener = listener_of(handle);
    if (!listener || !endpoint_of(endpoint))
        return -EBADF;
    endpoint_listen(endpoint, listener->port);
    return 0;
}

void carrier_unlisten(int handle) {
    struct listener *listener = listener_of(handle);
    if (!listener)
        return;
    close_hard(listener->socket);
    dirty_remove(&listener->dirty);
    endpoints_unlisten(listener->port);
    state.listeners[handle] = NULL;
    free(listener);
}

/*
 * Accept the next association of a listener, and return its peer in `source`; -EAGAIN if there is none. An association
 * that cannot be kept is closed.
 */
int carrier_accept(int handle, struct carrier_source *source) {
    struct listener *listener = listener_of(handle);
    struct sockaddr_conn name = {0};
    socklen_t size = sizeof name;
    if (!listener)
        return -EBADF;
    for (;;) {
        struct socket *socket = usrsctp_accept(listener->socket, (struct sockaddr *)&name, &size);
        if (!socket)
            return -EAGAIN;
        uint32_t at = (uint32_t)(uintptr_t)name.sconn_addr;
        struct association *association = NULL;
        if (at && at < CARRIER_PEERS && peers[at].endpoint >= 0) {
            usrsctp_set_non_blocking(socket, 1);
            association = association_make(socket, at, &listener->options);
        }
        if (!association) {
            close_hard(socket);
            continue;
        }
        source->endpoint = peers[at].endpoint;
        source->port = peers[at].port;
        source->scope = peers[at].scope;
        memcpy(source->address, peers[at].address, 16);
        dirty_add(association->handle, &association->dirty); /* data may have come with the COOKIE ECHO */
        return association->handle;
    }
}

int carrier_connect(int endpoint, const uint8_t *address, uint16_t udp_port, uint16_t port, uint32_t scope,
                    const struct carrier_options *options) {
    struct carrier_source source = {.scope = scope, .port = udp_port, .sctp_port = port, .endpoint = endpoint};
    if (!endpoint_of(endpoint))
        return -EBADF;
    timers_wake();
    memcpy(source.address, address, 16);
    uint32_t at = peer_make(&source);
    if (!at)
        return -ENOBUFS;
    struct sockaddr_conn name = {.sconn_family = AF_CONN, .sconn_port = htons(port),
                                 .sconn_addr = (void *)(uintptr_t)at};
    struct socket *socket = usrsctp_socket(AF_CONN, SOCK_STREAM, IPPROTO_SCTP, NULL, NULL, 0, NULL);
    if (!socket)
        return -errno;
    int error = apply_options(socket, options);
    /* the library looks for the address of a packet among those of its socket: without this among all that it knows */
    struct sockaddr_conn own = {.sconn_family = AF_CONN, .sconn_addr = (void *)(uintptr_t)at};
    struct sockaddr *bound;
    if (!error && usrsctp_bind(socket, (struct sockaddr *)&own, sizeof own))
        error = -errno;
    if (!error && usrsctp_getladdrs(socket, 0, &bound) <= 0)
        error = -ENOMEM;
    if (!error) {
        peer_set_own_port(at, ntohs(((struct sockaddr_conn *)bound)->sconn_port));
        usrsctp_freeladdrs(bound);
    }
    if (!error && usrsctp_connect(socket, (struct sockaddr *)&name, sizeof name) && errno != EINPROGRESS)
        error = -errno;
    struct association *association = error ? NULL : association_make(socket, at, options);
    if (!association) {
        close_hard(socket);
        return error ? error : -ENOMEM;
    }
    return association->handle;
}

/* Forget an association, with an ABORT if it still stands. */
void carrier_release(int handle) {
    struct association *association = association_of(handle);
    if (!association)
        return;
    timers_wake();
    close_hard(association->socket);
    dirty_remove(&association->dirty);
    state.associations[handle] = NULL;
    packet_counters.associations--;
    endpoint_of(peers[association->peer].endpoint)->associations--;
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
 * Turn a notification into a record; false if Python need not know of it. `before` is the previous record, or NULL.
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
            record->key = association->interleaving = supports_interleaving(&event->sn_assoc_change, length);
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
        /* The library marks the last part it had of an abandoned message as the end, and then notifies that it is not. */
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
 * Read what an association has received, in order: up to `max` records, with their data in the arena. If there may be
 * more, the association is dirty again. A batch never ends between a message and a notification after it, see
 * read_notification().
 */
int carrier_receive(int handle, uint8_t *arena, uint32_t size, struct carrier_record *records, int max) {
    struct association *association = association_of(handle);
    uint32_t used = 0;
    int count = 0;
    bool notification_next = false;

    if (!association)
        return -EBADF;
    if (association->sack_every > SMALL_SACK_EVERY && peers[association->peer].small) {
        /* its window may hold only three packets, and it cannot ask for a SACK before the end of a message */
        struct sctp_sack_info sack = {SCTP_CURRENT_ASSOC, SACK_DELAY_MS, SMALL_SACK_EVERY};
        set_option(association->socket, SCTP_DELAYED_SACK, &sack, sizeof sack);
        association->sack_every = SMALL_SACK_EVERY;
    }
    for (;;) {
        struct sctp_recvv_rn info;
        socklen_t info_size = sizeof info;
        unsigned int info_type = 0;
        int flags = 0;
        uint32_t space = size - used - (notification_next ? 0 : ARENA_RESERVE);
        if (count >= max - 1 - !notification_next || space < (notification_next ? ARENA_RESERVE / 2 : ARENA_LEAST)) {
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
            record->kind = length ? CARRIER_LOST : CARRIER_DOWN; /* if no notification said so */
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
        used = (record->offset + record->length + 7) & ~7u; /* aligned: notifications are read in place */
        count++;
    }
    return count;
}

/* ---- sending ------------------------------------------------------------------------------------------------- */

/* Whether the library would queue `length` more bytes. It checks the stream, which does not exist, only after that. */
static bool fits(struct association *association, uint32_t length) {
    static const uint8_t nothing;
    struct sctp_sndinfo info = {.snd_sid = 65535};
    ssize_t sent = usrsctp_sendv(association->socket, &nothing, length, NULL, 0, &info, sizeof info,
                                 SCTP_SENDV_SNDINFO, 0);
    return sent < 0 && errno == EINVAL;
}

/*
 * Payload bytes that the library has queued or in flight. It has no call for that, but it refuses what would not fit the
 * socket's buffer: so search for the limit by bisection, to 512 bytes. Eight refusals cost about as much as one message.
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
 * Keep the least retransmission time-out above this round trip by rto_min_ms. The library's is the round trip and four
 * times its variance, which is next to nothing on a path that was quiet: then a queue that a burst builds looks like a
 * loss, and the window becomes one packet.
 */
static void follow_round_trip(struct association *association, uint32_t round_trip_ms) {
    uint32_t least = association->rto_min_ms + round_trip_ms, now = association->rto_least_ms;
    if (least > association->rto_max_ms)
        least = association->rto_max_ms;
    if ((least > now ? least - now : now - least) < RTO_STEP_MS)
        return;
    struct sctp_rtoinfo rto = {.srto_initial = least, .srto_min = least}; /* RTO.Initial is not used any more */
    set_option(association->socket, SCTP_RTOINFO, &rto, sizeof rto);
    association->rto_least_ms = least;
}

/*
 * How many bytes to queue now. The library's queue is kept at one and a half congestion windows: one in flight, and half
 * of one, 16 KiB at least, to send from while acknowledgements come. More would only delay what is more urgent: the
 * library gives each stream with queued data its turn before it looks for a higher priority (docs/streams.md compares
 * other lengths). While it starts there may be a lower bound (usrsctp_start.c), and a quarter instead of the half, lest
 * a bound comes too late. What the peer has beyond a gap is queued, but not in flight: if it counted, the library
 * would have nothing to send until the lost packet has come, and make its window small for that.
 *
 * `useful` is the room worth a call: with less, the caller had better wait. The answer is negative, down to -beyond, when
 * more is queued than should be.
 */
int carrier_room(int handle, uint32_t beyond, uint32_t *useful) {
    struct association *association = association_of(handle);
    struct sctp_status status;
    *useful = 1;
    if (!association || !status_of(association, &status) || status.sstat_state != SCTP_ESTABLISHED)
        return -(int)beyond;
    const struct peer *peer = &peers[association->peer];
    uint32_t window = status.sstat_primary.spinfo_cwnd, buffer = association->send_buffer, bound = 0;
    bool gap = peer->references == 1 && peer->gapped && peer->gapped < status.sstat_unackdata;
    uint64_t ahead = gap || window / 2 > QUEUE_AHEAD ? window / 2 : QUEUE_AHEAD;
    if (peer->start) {
        bound = start_bound(peer->start, window, status.sstat_primary.spinfo_mtu);
        if (bound)
            ahead = window / 4 > QUEUE_AHEAD ? window / 4 : QUEUE_AHEAD;
        else
            peer_start_ends(association->peer);
    }
    uint64_t target = window + ahead;
    if (bound && target > bound)
        target = bound;
    if (target > buffer)
        target = buffer;
    *useful = (uint32_t)target / 4;
    if (bound && *useful > ahead / 2)
        *useful = (uint32_t)ahead / 2;
    follow_round_trip(association, status.sstat_primary.spinfo_srtt);
    double queued = queued_bytes(association, gap ? 2 * buffer - 1 : (uint32_t)target + beyond), arrived = 0;
    if (gap) {
        double each = queued / status.sstat_unackdata, fragment = status.sstat_fragmentation_point;
        arrived = peer->gapped * (each < fragment ? each : fragment);
    }
    double room = (double)target - (queued - arrived) * (1 + MESSAGE_OVERHEAD / association->mean_length);
    if (room > (double)buffer - queued)
        room = (double)buffer - queued;
    return room <= -(double)beyond ? -(int)beyond : (int)room;
}

static void set_nodelay(struct association *association, bool nodelay) {
    int value = nodelay;
    if (association->nodelay != nodelay) {
        set_option(association->socket, SCTP_NODELAY, &value, sizeof value);
        association->nodelay = nodelay;
    }
}

/* Bytes of the largest message that one packet carries; 0 if that is not known. */
static uint32_t unfragmented(struct association *association) {
    struct sctp_status status;
    if (!association->unfragmented && status_of(association, &status))
        association->unfragmented = status.sstat_fragmentation_point;
    return association->unfragmented;
}

uint32_t carrier_unfragmented(int handle) {
    struct association *association = association_of(handle);
    return association ? unfragmented(association) : 0;
}

/*
 * Whether a message fits one packet. Only then may it have a lifetime: when libusrsctp 0.9.5 abandons a fragmented
 * message, it takes the next chunks in its queue for the rest of it (sctp_release_pr_sctp_chunk()). With I-DATA those may
 * belong to other, reliable messages, which are then never sent again, and the association stalls or worse. A longer
 * message is sent reliably: what may be abandoned may also arrive.
 *
 * And without I-DATA only then is it sent unordered: where a FORWARD-TSN for another message meets fragments of an
 * unordered one, libusrsctp 0.9.5 aborts the association ("Reass 30000007", its issue 597). Ordered ones do no harm.
 */
static bool fits_a_packet(struct association *association, uint32_t length) {
    return length <= unfragmented(association);
}

/*
 * Give messages to the library; returns how many it accepted. Small messages of a batch wait for each other (Nagle) and
 * share packets; the last one is sent at once and takes the others along.
 */
int carrier_send(int handle, const uint8_t *data, size_t length, const struct carrier_outgoing *messages, int count) {
    struct association *association = association_of(handle);
    int taken = 0;
    if (!association)
        return -EBADF;
    timers_wake();
    for (; taken < count; taken++) {
        const struct carrier_outgoing *message = &messages[taken];
        struct sctp_sendv_spa info = {
            .sendv_flags = SCTP_SEND_SNDINFO_VALID,
            .sendv_sndinfo = {.snd_sid = (uint16_t)message->stream, .snd_ppid = htonl(message->ppid)}};
        if (message->unordered && (association->interleaving || fits_a_packet(association, message->length)))
            info.sendv_sndinfo.snd_flags |= SCTP_UNORDERED;
        association->unasked += message->length;
        if (association->unasked >= association->ask_every) {
            association->unasked = 0;
            info.sendv_sndinfo.snd_flags |= SCTP_SACK_IMMEDIATELY;
        }
        if (message->lifetime_ms && fits_a_packet(association, message->length)) {
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
    timers_wake();
    return set_option(association->socket, SCTP_ADD_STREAMS, &add, sizeof add) ? -errno : 0;
}

/* Shut down gracefully, with SCTP_EOF: usrsctp_shutdown() would also end receiving. */
int carrier_shutdown(int handle) {
    struct association *association = association_of(handle);
    struct sctp_sndinfo info = {.snd_flags = SCTP_EOF};
    if (!association)
        return -EBADF;
    timers_wake();
    return usrsctp_sendv(association->socket, "", 0, NULL, 0, &info, sizeof info, SCTP_SENDV_SNDINFO, 0) < 0 ? -errno
                                                                                                              : 0;
}

/* ABORT with a reason for the peer (RFC 9260 section 3.3.10.12). Call carrier_release() next. */
void carrier_abort(int handle, const uint8_t *reason, uint32_t length) {
    struct association *association = association_of(handle);
    struct sctp_sndinfo info = {.snd_flags = SCTP_ABORT};
    if (association)
        (void)usrsctp_sendv(association->socket, reason, length, NULL, 0, &info, sizeof info, SCTP_SENDV_SNDINFO, 0);
}

/* Send a heartbeat. */
void carrier_ask(int handle) {
    struct association *association = association_of(handle);
    if (!association)
        return;
    struct sockaddr_conn name = {.sconn_family = AF_CONN, .sconn_addr = (void *)(uintptr_t)association->peer};
    struct sctp_paddrparams ask = {.spp_assoc_id = SCTP_CURRENT_ASSOC, .spp_flags = SPP_HB_DEMAND};
    memcpy(&ask.spp_address, &name, sizeof name);
    set_option(association->socket, SCTP_PEER_ADDR_PARAMS, &ask, sizeof ask);
}

/* Packets of the association's peer; 0 if there is no such association. */
uint64_t carrier_packets_received(int handle) {
    struct association *association = association_of(handle);
    return association ? peers[association->peer].packets_in : 0;
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

void carrier_get_counters(struct carrier_counters *counters) { *counters = packet_counters; }
