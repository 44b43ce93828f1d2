/* SPDX-License-Identifier: MIT */
/*
 * Buffers that notice accesses outside them, and a net that turns such a fault into a return value.
 */
#ifndef DOCONV_TEST_HARNESS_BUFFER_H
#define DOCONV_TEST_HARNESS_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum buffer_place {
    /* between margins of known bytes; aligned to the stated shift and no more */
    BUFFER_CANARIES,
    BUFFER_GUARD_AFTER, /* the byte after the last one lies in an inaccessible page */
    BUFFER_GUARD_BEFORE /* the byte before the first one does */
};

struct buffer {
    void *data; /* NULL if it has no bytes */
    size_t bytes;
    enum buffer_place place;
    void *map;
    size_t map_bytes;
};

/* Bits of the NaNs that fill new buffers and their margins: no computation yields them. */
#define BUFFER_UNWRITTEN UINT32_C(0x7fc0dead)
#define BUFFER_CANARY UINT32_C(0x7fc0c0de)

/*
 * Makes a buffer of bytes, filled with BUFFER_UNWRITTEN. With canaries data is `shift` bytes
 * (1..63) past a 64-byte boundary. Ends the program if there is no memory. buffer_destroy() frees
 * it; on a zeroed struct that is fine too.
 */
void buffer_create(struct buffer *buffer, size_t bytes, enum buffer_place place, size_t shift);
void buffer_destroy(struct buffer *buffer);

/* false if somebody wrote to the margins of a buffer with canaries. */
bool buffer_intact(const struct buffer *buffer);

/*
 * An allocator for contexts (doconv_allocate_fn) that puts every block against an inaccessible
 * page, as closely as its alignment allows. user: enum buffer_place *, which side; not
 * BUFFER_CANARIES.
 */
void *guard_allocate(void *user, size_t size, size_t alignment);
void guard_release(void *user, void *memory);

/*
 * Calls body(arg). Returns true, or false if it was stopped by SIGSEGV, SIGBUS, SIGILL or SIGFPE on
 * this thread; *address is then the address that the signal names. Whatever body held is lost then.
 * Not reentrant.
 */
bool fault_catch(void (*body)(void *arg), void *arg, const void **address);

#endif
