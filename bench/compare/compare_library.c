/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* memfd_create, RTLD_DEFAULT */
#include "compare.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/*
 * doconv_conv_desc of commit b85bd86, and of all before it, frozen: those libraries have no words
 * for D_mul and the composition in a problem's text, so both are written into what they parsed.
 * Versions that have the words never see this struct, whatever theirs looks like by now.
 */
struct descriptor_b85bd86 {
    size_t size;
    int64_t shape[16]; /* n, cin, h, w, cout, kh, kw, strides, paddings, dilations, groups */
    int src_layout, dst_layout;
    int has_bias, residual, relu, clamp;
    float clamp_lo, clamp_hi;
    int accuracy;
    int64_t d_mul;
    int composition;
};

struct symbol {
    const char *name;
    size_t offset; /* of its pointer in struct library */
    bool needed;
};

#define SYMBOL(function, needed)                                                                   \
    {                                                                                              \
        "doconv_" #function, offsetof(struct library, function), needed                            \
    }

static const struct symbol symbols[] = {SYMBOL(context_create, true),
                                        SYMBOL(context_destroy, true),
                                        SYMBOL(context_last_error, true),
                                        SYMBOL(context_get_info, true),
                                        SYMBOL(version_string, true),
                                        SYMBOL(conv_desc_parse, false),
                                        SYMBOL(conv_desc_parse_sized, false),
                                        SYMBOL(plan_create, true),
                                        SYMBOL(plan_destroy, true),
                                        SYMBOL(plan_variant, true),
                                        SYMBOL(plan_workspace_size, true),
                                        SYMBOL(weights_create, true),
                                        SYMBOL(weights_destroy, true),
                                        SYMBOL(execute, true),
                                        SYMBOL(tune, false),
                                        SYMBOL(tune_report_summary, false),
                                        SYMBOL(tune_report_destroy, false),
                                        SYMBOL(training_create, false),
                                        SYMBOL(training_destroy, false),
                                        SYMBOL(training_workspace_size, false),
                                        SYMBOL(training_saved_size, false),
                                        SYMBOL(training_forward, false),
                                        SYMBOL(training_backward, false)};

/* Copies a file into memory that has a descriptor; -1 (errno) if that fails. */
static int copy_file(const char *path)
{
    const int from = open(path, O_RDONLY | O_CLOEXEC), to = memfd_create("libdoconv", MFD_CLOEXEC);
    bool good = from >= 0 && to >= 0;
    char part[65536];
    ssize_t size;
    while (good && (size = read(from, part, sizeof part)) != 0) {
        good = size > 0 && write(to, part, (size_t)size) == size;
    }
    const int reason = errno;
    if (from >= 0) {
        close(from);
    }
    if (!good && to >= 0) {
        close(to);
    }
    errno = reason;
    return good ? to : -1;
}

/*
 * The loader gives a library that it has for a file, or a name, that it has: the copy's descriptor
 * stays open, so that no other has its name. dlerror() or errno tells why the handle is NULL.
 */
static void load_copy(const char *path, struct library *library)
{
    dlerror();
    library->file = copy_file(path);
    if (library->file >= 0) {
        char name[64];
        snprintf(name, sizeof name, "/proc/self/fd/%d", library->file);
        library->handle = dlopen(name, RTLD_LOCAL | RTLD_NOW);
    }
}

static int load(const char *path, struct library *library)
{
    /* A function of that name in the program would be called by the libraries for their own. */
    if (dlsym(RTLD_DEFAULT, "doconv_version_string") != NULL) {
        fprintf(stderr, "doconv-compare: a doconv library is loaded already (LD_PRELOAD?)\n");
        return -1;
    }
    load_copy(path, library);
    if (library->handle == NULL) {
        const char *reason = dlerror();
        fprintf(stderr, "doconv-compare: %s: \"%s\" can't be loaded: %s\n", library->name, path,
                reason != NULL ? reason : strerror(errno));
        return -1;
    }
    for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++) {
        void *address = dlsym(library->handle, symbols[i].name);
        if (address == NULL && symbols[i].needed) {
            fprintf(stderr, "doconv-compare: %s: \"%s\" has no %s()\n", library->name, path,
                    symbols[i].name);
            return -1;
        }
        memcpy((char *)library + symbols[i].offset, &address, sizeof address);
    }
    if (library->conv_desc_parse == NULL && library->conv_desc_parse_sized == NULL) {
        fprintf(stderr, "doconv-compare: %s: \"%s\" parses no problems\n", library->name, path);
        return -1;
    }
    return 0;
}

/*
 * Packed weights of both libraries begin where a large page does, so that they meet the same sets
 * of the caches; malloc's places differ from one run to the next, by percents of a layer's time.
 */
static void *allocate(void *user, size_t size, size_t alignment)
{
    (void)user;
    const size_t least = alignment > 64 ? alignment : 64;
    return size < 4096 ? aligned_alloc(least, (size + least - 1) / least * least)
                       : allocate_pages(size);
}

static void release(void *user, void *memory)
{
    (void)user;
    free(memory);
}

static void log_line(void *user, doconv_log_level level, const char *line)
{
    const struct library *library = user;
    if (level != DOCONV_LOG_VERBOSE) {
        fprintf(stderr, "doconv-compare: %s: %s\n", library->name, line);
    }
}

static doconv_status create_context(const struct options *o, struct library *library,
                                    const char *cache)
{
    union sized s = {{0}};
    doconv_context_options *options = &s.context_options;
    options->threads = 1;
    options->allocate = allocate;
    options->release = release;
    options->log = log_line;
    options->log_user = library;
    options->max_isa = o->isa;
    options->tune = o->tuned ? DOCONV_TUNE_TUNE : DOCONV_TUNE_OFF;
    options->cache_directory = cache;
    s.size = size_to_try(library, CONTEXT_OPTIONS);
    doconv_status status;
    do {
        status = library->context_create(&s, &library->context);
    } while (try_smaller(library, CONTEXT_OPTIONS, status, &s.size));
    return status;
}

static int open_copy(const struct options *o, enum side side, struct library *library)
{
    library->file = -1;
    library->name = side == REV ? o->name : "this tree";
    if (load(o->library[side], library) != 0) {
        return -1;
    }
    if (o->tuned && (library->tune == NULL || library->tune_report_summary == NULL ||
                     library->tune_report_destroy == NULL)) {
        fprintf(stderr, "doconv-compare: --tuned: %s has no tuner\n", library->name);
        return -1;
    }
    char cache[4096];
    const int length = snprintf(cache, sizeof cache, "%s/%s", o->cache != NULL ? o->cache : ".",
                                side == REV ? "rev" : "this");
    if ((size_t)length >= sizeof cache) {
        fprintf(stderr, "doconv-compare: --cache: the path is too long\n");
        return -1;
    }
    const doconv_status status = create_context(o, library, cache);
    if (status != DOCONV_OK) {
        fprintf(stderr, "doconv-compare: %s: no context: %s%s\n", library->name,
                doconv_status_string(status),
                o->isa != DOCONV_ISA_DEFAULT ? " (--isa: of this architecture?)" : "");
        return -1;
    }
    return 0;
}

int open_library(const struct options *o, enum side side, struct library copies[COPIES])
{
    memset(copies, 0, COPIES * sizeof *copies);
    for (int i = 0; i < COPIES; i++) {
        if (open_copy(o, side, &copies[i]) != 0) {
            return -1;
        }
    }
    return 0;
}

void close_library(struct library copies[COPIES])
{
    for (int i = 0; i < COPIES; i++) {
        if (copies[i].context != NULL) {
            copies[i].context_destroy(copies[i].context);
        }
        if (copies[i].handle != NULL) {
            dlclose(copies[i].handle);
        }
        if (copies[i].file > 0) {
            close(copies[i].file);
        }
    }
}

bool all_apart(struct library libraries[SIDES][COPIES])
{
    for (int i = 0; i < SIDES * COPIES; i++) {
        for (int k = 0; k < i; k++) {
            if (libraries[i / COPIES][i % COPIES].execute ==
                libraries[k / COPIES][k % COPIES].execute) {
                return false;
            }
        }
    }
    return true;
}

doconv_isa library_isa(struct library *library)
{
    union sized s = {{0}};
    s.size = size_to_try(library, CONTEXT_INFO);
    doconv_status status;
    do {
        status = library->context_get_info(library->context, &s);
    } while (try_smaller(library, CONTEXT_INFO, status, &s.size));
    return status == DOCONV_OK ? s.context_info.isa : DOCONV_ISA_DEFAULT;
}

size_t size_to_try(const struct library *library, enum sized_struct which)
{
    return library->size_known[which] ? library->size[which] : STRUCT_ROOM;
}

bool try_smaller(struct library *library, enum sized_struct which, doconv_status status,
                 size_t *size)
{
    if (status == DOCONV_MISMATCH && !library->size_known[which] && *size > sizeof(size_t)) {
        *size -= sizeof(size_t);
        return true;
    }
    library->size_known[which] = status != DOCONV_MISMATCH;
    library->size[which] = *size;
    return false;
}

int explain_failure(const struct library *library, const char *what, doconv_status status,
                    char *why)
{
    char detail[WHY_SIZE / 2] = "";
    library->context_last_error(library->context, detail, sizeof detail);
    snprintf(why, WHY_SIZE, "%s: %s: %s%s%s", library->name, what, doconv_status_string(status),
             detail[0] != '\0' ? ": " : "", detail);
    return -1;
}

/* Later libraries are told how large the descriptor is; bytes that they do not know stay zero. */
static doconv_status parse(const struct library *library, const char *text, union descriptor *desc)
{
    memset(desc, 0, sizeof *desc);
    return library->conv_desc_parse_sized != NULL
               ? library->conv_desc_parse_sized(library->context, text, desc, sizeof *desc)
               : library->conv_desc_parse(library->context, text, desc);
}

int describe_problem(struct library *library, const struct problem *p, union descriptor *desc,
                     char *why)
{
    memset(desc, 0, sizeof *desc);
    if (p->kind == KERNEL_STEP) {
        char text[DOCONV_PROBLEM_TEXT_SIZE + 64];
        snprintf(text, sizeof text, "%s%sdmul=%zu,composition=kernel", p->text,
                 strchr(p->text, ':') != NULL ? "," : ":", p->d_mul);
        if (parse(library, text, desc) == DOCONV_OK) {
            return 0;
        }
        memset(desc, 0, sizeof *desc);
    }
    const doconv_status status = parse(library, p->text, desc);
    if (status != DOCONV_OK) {
        return explain_failure(library, "the problem's text", status, why);
    }
    if (p->kind == KERNEL_STEP) {
        struct descriptor_b85bd86 frozen;
        if (desc->size != sizeof frozen) {
            snprintf(why, WHY_SIZE, "%s: neither a problem's text nor the old descriptor has D_mul",
                     library->name);
            return -1;
        }
        memcpy(&frozen, desc, sizeof frozen);
        frozen.d_mul = (int64_t)p->d_mul;
        frozen.composition = DOCONV_COMPOSITION_KERNEL;
        memcpy(desc, &frozen, sizeof frozen);
    }
    return 0;
}
