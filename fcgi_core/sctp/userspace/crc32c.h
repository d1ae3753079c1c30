/* CRC32c as SCTP has it: begin with ~0, and invert what comes out. */
#ifndef CRC32C_H
#define CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Choose the quickest way that this processor has, before the first use. */
void crc32c_start(void);

/* The checksum so far, taken on over more data. */
extern uint32_t (*crc32c_update)(uint32_t crc, const uint8_t *data, size_t length);

#endif
