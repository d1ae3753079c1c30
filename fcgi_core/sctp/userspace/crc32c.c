/* CRC32c (RFC 9260 appendix A), by the processor's instruction if there is one. */
#include "crc32c.h"
#include "usrsctp_carrier.h"

#include <stdbool.h>
#include <string.h>

#if defined(__aarch64__)
#include <arm_acle.h>
#include <sys/auxv.h>
#ifndef HWCAP_CRC32
#define HWCAP_CRC32 (1 << 7)
#endif
#endif

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
 * The instruction takes eight bytes, and its result is ready three cycles later. So long data is summed in three parts at
 * the same time. The checksum is linear: the first part's, moved over as many zero bytes as the second part has, XOR the
 * second part's is the checksum of both. The tables move a checksum over CRC_PART zero bytes, one byte of it at a time.
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

uint32_t (*crc32c_update)(uint32_t, const uint8_t *, size_t) = crc_by_table;

void crc32c_start(void) {
    crc_table_fill();
    crc_moved_fill();
    if (crc_processor_has())
        crc32c_update = crc_by_processor;
}

uint32_t carrier_crc32c(const uint8_t *data, size_t length, int portable) {
    if (!crc_table[0][1])
        crc32c_start();
    return ~(portable ? crc_by_table : crc32c_update)(~0u, data, length);
}
