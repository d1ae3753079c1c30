/*
 * Time: a clock that is never set, and when the library's timers run by it.
 */
#include "usrsctp_timers.h"
#include "usrsctp_carrier.h"

#include <time.h>
#include <usrsctp.h>

enum {
    TICK_MS = 10,               /* between calls of the library's timers while packets move, */
    REST_TICK_MS = 100,         /* and at rest */
    ELAPSED_MAX_MS = 200,       /* of one tick: a process that was stopped must read its sockets before peers time out */
};

static struct {
    uint64_t tick_ms, moved_ms; /* the last tick, and the last one that found packets_moved */
    bool resting, woken;        /* ticks are rare; they were until something happened */
} state;

bool packets_moved;

uint64_t now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

uint64_t now_ms(void) { return now_us() / 1000; }

/*
 * Advance the library's clock by the monotonic time that passed, a little at most: neither a clock that is set nor SIGSTOP
 * makes peers time out.
 */
static void advance(uint64_t now) {
    uint64_t elapsed = now - state.tick_ms;
    state.tick_ms = now;
    if (elapsed)
        usrsctp_handle_timers(elapsed > ELAPSED_MAX_MS ? ELAPSED_MAX_MS : (uint32_t)elapsed);
}

/*
 * Run the timers that are due; returns after how many milliseconds to call this again. The library tells nobody when its
 * next timer is due, and looks at all of them in each call, several for an association. But all of them begin with a
 * packet, or with a call that sends one. So with a call each time that a tenth of the time since then has passed, no timer
 * is later than by a tenth. Heartbeats do not count, which are all that moves at rest: theirs may be REST_TICK_MS late.
 */
int carrier_timers(void) {
    uint64_t now = now_ms();
    advance(now);
    if (packets_moved) {
        packets_moved = false;
        state.moved_ms = now;
    }
    uint64_t tick = (now - state.moved_ms) / 10;
    state.resting = tick > TICK_MS;
    return tick < TICK_MS ? TICK_MS : tick > REST_TICK_MS ? REST_TICK_MS : (int)tick;
}

/* Call this before what begins timers: the library's clock may be late, and they would end early. */
void timers_wake(void) {
    packets_moved = true;
    if (state.resting) {
        state.resting = false;
        state.woken = true;
        advance(now_ms());
    }
}

/* Whether timers_wake() ended a rest since the last call. */
bool timers_woken(void) {
    bool woken = state.woken;
    state.woken = false;
    return woken;
}

void carrier_timers_restart(void) {
    state.tick_ms = state.moved_ms = now_ms();
    state.resting = false;
}
