/* What usrsctp_carrier.c and usrsctp_packets.c use of usrsctp_timers.c. */
#ifndef USRSCTP_TIMERS_H
#define USRSCTP_TIMERS_H

#include <stdbool.h>
#include <stdint.h>

/* Whether packets came or went, other than heartbeats. */
extern bool packets_moved;

/* Call it before the library gets a packet that is no heartbeat. */
void timers_wake(void);
bool timers_woken(void);

/* Milliseconds of a clock that is never set. */
uint64_t now_ms(void);
uint64_t now_us(void);

#endif
