/* SPDX-License-Identifier: MIT */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "harness_buffer.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MARGIN 256 /* bytes of canaries on each side, a multiple of 64 */

static void fill(void *memory, size_t bytes, uint32_t word)
{
    size_t done = bytes < sizeof word ? bytes : sizeof word;
    memcpy(memory, &word, done);
    while (done < bytes) {
        const size_t more = done < bytes - done ? done : bytes - done;
        memcpy((char *)memory + done, memory, more);
        done += more;
    }
}

static bool holds(const void *memory, size_t bytes, uint32_t word)
{
    const char *at = memory;
    unsigned char pattern[sizeof word];
    memcpy(pattern, &word, sizeof word);
    for (size_t i = 0; i < bytes; i++) {
        if ((unsigned char)at[i] != pattern[i % sizeof word]) {
            return false;
        }
    }
    return true;
}

static void no_memory(size_t bytes)
{
    fprintf(stderr, "tests: no memory for a buffer of %zu bytes\n", bytes);
    exit(1);
}

/*
 * Maps pages for bytes with an inaccessible page on each side; returns the first accessible byte.
 */
static char *map_guarded(size_t bytes, void **map, size_t *map_bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t inside = (bytes + page - 1) / page * page;
    *map_bytes = inside + 2 * page;
    *map = mmap(NULL, *map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (*map == MAP_FAILED) {
        return NULL;
    }
    char *first = (char *)*map + page;
    if (mprotect(first, inside, PROT_READ | PROT_WRITE) != 0) {
        munmap(*map, *map_bytes);
        return NULL;
    }
    return first;
}

void buffer_create(struct buffer *buffer, size_t bytes, enum buffer_place place, size_t shift)
{
    *buffer = (struct buffer){.bytes = bytes, .place = place};
    if (bytes == 0) {
        return;
    }
    if (place == BUFFER_CANARIES) {
        buffer->map_bytes = (2 * MARGIN + shift + bytes + 63) / 64 * 64;
        buffer->map = aligned_alloc(64, buffer->map_bytes);
        if (buffer->map == NULL) {
            no_memory(bytes);
        }
        char *data = (char *)buffer->map + MARGIN + shift;
        fill(buffer->map, MARGIN + shift, BUFFER_CANARY);
        fill(data + bytes, buffer->map_bytes - MARGIN - shift - bytes, BUFFER_CANARY);
        buffer->data = data;
    } else {
        const size_t page = (size_t)sysconf(_SC_PAGESIZE);
        char *data = map_guarded(bytes, &buffer->map, &buffer->map_bytes);
        if (data == NULL) {
            no_memory(bytes);
        }
        buffer->data =
            place == BUFFER_GUARD_AFTER ? data + (buffer->map_bytes - 2 * page - bytes) : data;
    }
    fill(buffer->data, bytes, BUFFER_UNWRITTEN);
}

void buffer_destroy(struct buffer *buffer)
{
    if (buffer->data != NULL) {
        if (buffer->place == BUFFER_CANARIES) {
            free(buffer->map);
        } else {
            munmap(buffer->map, buffer->map_bytes);
        }
    }
    *buffer = (struct buffer){0};
}

bool buffer_intact(const struct buffer *buffer)
{
    if (buffer->data == NULL || buffer->place != BUFFER_CANARIES) {
        return true;
    }
    const char *const start = buffer->map, *const data = buffer->data,
                      *const end = start + buffer->map_bytes;
    return holds(start, (size_t)(data - start), BUFFER_CANARY) &&
           holds(data + buffer->bytes, (size_t)(end - data) - buffer->bytes, BUFFER_CANARY);
}

/*
 * What guard_release() needs to know, away from the block: a kernel that runs wild must not reach
 * it.
 */
struct guard_block {
    void *data, *map;
    size_t map_bytes;
    struct guard_block *next;
};
static struct guard_block *guard_blocks;
static pthread_mutex_t guard_lock = PTHREAD_MUTEX_INITIALIZER;

void *guard_allocate(void *user, size_t size, size_t alignment)
{
    const enum buffer_place *place = user;
    struct guard_block *block = malloc(sizeof *block);
    /*
     * Sizes are rounded up so that a block can end at the page and still be aligned; both are
     * powers of two.
     */
    const size_t page = (size_t)sysconf(_SC_PAGESIZE),
                 rounded = (size + alignment - 1) / alignment * alignment;
    char *first = block != NULL && alignment <= page
                      ? map_guarded(rounded, &block->map, &block->map_bytes)
                      : NULL;
    if (first == NULL) {
        free(block);
        return NULL;
    }
    block->data =
        *place == BUFFER_GUARD_AFTER ? first + (block->map_bytes - 2 * page - rounded) : first;
    fill(block->data, size, BUFFER_UNWRITTEN);
    pthread_mutex_lock(&guard_lock);
    block->next = guard_blocks;
    guard_blocks = block;
    pthread_mutex_unlock(&guard_lock);
    return block->data;
}

void guard_release(void *user, void *memory)
{
    (void)user;
    pthread_mutex_lock(&guard_lock);
    struct guard_block **link = &guard_blocks;
    while (*link != NULL && (*link)->data != memory) {
        link = &(*link)->next;
    }
    struct guard_block *block = *link;
    if (block == NULL) {
        fprintf(stderr, "tests: release of %p, which was not allocated\n", memory);
        abort();
    }
    *link = block->next;
    pthread_mutex_unlock(&guard_lock);
    munmap(block->map, block->map_bytes);
    free(block);
}

static const int fault_signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
#define FAULT_SIGNALS (sizeof fault_signals / sizeof fault_signals[0])
static sigjmp_buf fault_return;
static pthread_t fault_thread;
static const void *volatile fault_address;

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (!pthread_equal(pthread_self(), fault_thread)) {
        /*
         * Another thread's stack can't be left from here: the default action ends the program when
         * the instruction runs again.
         */
        signal(number, SIG_DFL);
        return;
    }
    fault_address = info->si_addr;
    siglongjmp(fault_return, 1);
}

bool fault_catch(void (*body)(void *arg), void *arg, const void **address)
{
    struct sigaction previous[FAULT_SIGNALS], action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    fault_thread = pthread_self();
    for (size_t i = 0; i < FAULT_SIGNALS; i++) {
        sigaction(fault_signals[i], &action, &previous[i]);
    }
    volatile bool done = false;
    if (sigsetjmp(fault_return, 1) == 0) {
        body(arg);
        done = true;
    } else {
        *address = fault_address;
    }
    for (size_t i = 0; i < FAULT_SIGNALS; i++) {
        sigaction(fault_signals[i], &previous[i], NULL);
    }
    return done;
}
