/* CRC32c for SCTP: start with ~0 and invert the result. */
#ifndef CRC32C_H
#define CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Choose the fastest way for this processor. Call it before the first use. */
void crc32c_start(void);

/* The checksum `crc` continued over more data. */
extern uint32_t (*crc32c_update)(uint32_t crc, const uint8_t *data, size_t length);

#endif
