/*
 * libusrsctp doubles its window each round trip until packets are lost. On a path whose queue holds one bandwidth-delay
 * product half of the last window is lost then. Recovery takes so long that retransmissions time out, the window becomes
 * one packet, and to fill the path again by a packet each round trip takes many seconds.
 *
 * The library has no call to end slow start, but its window does not grow while less is outstanding. So the caller
 * bounds what it hands over to the window at which the round trip began to rise (as HyStart++ does, RFC 9406), and adds
 * one packet each round trip. The first loss ends this: the library has a threshold of its own then.
 *
 * HyStart++ looks at the first packets of a round, which find a queue only when the window is larger than the path, and
 * knows of it a round trip later, when the window is twice that. In slow start packets are sent twice as fast as the
 * path takes them, so the last packets of a round find a queue much earlier. Such a queue is gone a round trip later if
 * the window is still smaller than the path: that is what the hold finds out.
 */
#include "usrsctp_carrier.h"

#include <stdbool.h>
#include <stdlib.h>

enum {
    COMMON_HEADER = 12,         /* RFC 9260 section 3.1 */
    CHUNK_HEADER = 4,
    DATA = 0,
    SACK = 3,
    I_DATA = 0x40,              /* RFC 8260 section 2.1 */
    RISE_MIN_US = 4000,         /* MIN_RTT_THRESH, MAX_RTT_THRESH, MIN_RTT_DIVISOR and N_RTT_SAMPLE of RFC 9406 */
    RISE_MAX_US = 16000,        /* section 4.3 */
    RISE_DIVISOR = 8,
    SAMPLES = 8,
    TIMED = 64,                 /* packets under way that are timed; a window with more has enough of them */
    HOLD_ROUNDS = 2,            /* the first one has packets from before the hold */
    LEAST_PACKETS = 16,         /* of a bound; a smaller window says little of the path */
};

struct start {
    enum {
        SLOW,                   /* the window doubles */
        HOLD,                   /* the round trip rose: the window stays, to see whether that is more than a burst */
        AVOIDANCE,              /* it is: one packet more each round trip */
        OVER,                   /* a packet was lost */
    } phase;
    bool begun;                 /* a packet was sent */
    uint32_t next, round_end;   /* TSN: after the last one sent; that ends this round when it is acknowledged */
    uint32_t tsn[TIMED];        /* a ring of those that are timed, and when they were sent */
    uint64_t sent_us[TIMED];
    uint32_t first, timed;
    uint64_t base_us;           /* the shortest round trip; 0: not known */
    uint32_t longer;            /* round trips in a row that were longer by the threshold */
    bool whole;                 /* all of this round were */
    uint32_t rounds;            /* that ended since the hold began, or the bound was raised */
    uint32_t bound;             /* 0: none */
};

static uint32_t get32(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* The TSN at the beginning of a packet's first chunk of one of two types; NULL: there is none. */
static const uint8_t *find_tsn(const uint8_t *packet, size_t length, uint8_t type, uint8_t other) {
    size_t at = COMMON_HEADER;
    while (at + CHUNK_HEADER + 4 <= length) {
        const uint8_t *chunk = packet + at;
        size_t size = (size_t)(chunk[2] << 8 | chunk[3]);
        if (*chunk == type || *chunk == other)
            return chunk + CHUNK_HEADER;
        if (size < CHUNK_HEADER)
            break;
        at += (size + 3) & ~(size_t)3;
    }
    return NULL;
}

/* NULL: no memory, so no bound. */
struct start *start_begin(void) { return calloc(1, sizeof(struct start)); }

void start_end(struct start *start) { free(start); }

/* Note a packet that is sent. */
void start_sent(struct start *start, const uint8_t *packet, size_t length, uint64_t now_us) {
    const uint8_t *at = find_tsn(packet, length, DATA, I_DATA);
    if (!at)
        return;
    uint32_t tsn = get32(at);
    if (!start->begun) {
        start->begun = true;
        start->next = start->round_end = tsn;
    }
    if ((int32_t)(tsn - start->next) < 0) { /* sent again */
        start->phase = OVER;
        return;
    }
    start->next = tsn + 1;
    if (start->timed < TIMED) {
        uint32_t place = (start->first + start->timed++) % TIMED;
        start->tsn[place] = tsn;
        start->sent_us[place] = now_us;
    }
}

static void answered(struct start *start, uint64_t took_us) {
    if (!start->base_us || took_us < start->base_us)
        start->base_us = took_us;
    uint64_t rise = start->base_us / RISE_DIVISOR;
    rise = rise < RISE_MIN_US ? RISE_MIN_US : rise > RISE_MAX_US ? RISE_MAX_US : rise;
    if (took_us < start->base_us + rise) {
        start->longer = 0;
        start->whole = false;
    } else if (++start->longer >= SAMPLES && start->phase == SLOW) {
        start->phase = HOLD;
        start->rounds = 0;
    }
}

/* Note a packet that has come. */
void start_received(struct start *start, const uint8_t *packet, size_t length, uint64_t now_us) {
    const uint8_t *at = find_tsn(packet, length, SACK, SACK);
    if (!at || !start->begun)
        return;
    uint32_t acknowledged = get32(at);
    while (start->timed && (int32_t)(acknowledged - start->tsn[start->first]) >= 0) {
        answered(start, now_us - start->sent_us[start->first]);
        start->first = (start->first + 1) % TIMED;
        start->timed--;
    }
    if ((int32_t)(acknowledged - start->round_end) < 0)
        return;
    start->round_end = start->next;
    start->rounds++;
    if (start->phase == HOLD && start->rounds >= HOLD_ROUNDS) {
        start->phase = start->whole ? AVOIDANCE : SLOW;
        start->rounds = start->longer = 0;
    }
    start->whole = true;
}

/*
 * How many bytes may be outstanding at most, if the library has this congestion window and packets are of this size.
 * UINT32_MAX: no bound. 0: the start is over.
 */
uint32_t start_bound(struct start *start, uint32_t window, uint32_t packet) {
    if (start->phase == OVER)
        return 0;
    if (start->phase == SLOW) {
        start->bound = 0;
        return UINT32_MAX;
    }
    if (!start->bound)
        start->bound = window > LEAST_PACKETS * packet ? window : LEAST_PACKETS * packet;
    if (start->phase == AVOIDANCE && start->rounds) {
        start->rounds = 0;
        if (window + packet > start->bound) /* all of it is used */
            start->bound += packet;
    }
    return start->bound;
}
