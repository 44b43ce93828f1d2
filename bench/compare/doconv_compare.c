/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* sched_setaffinity */
#include "compare.h"
#include "help_texts.h"

#include <errno.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Rounding differs by less than this share of the largest result, also between algorithms. */
#define ALLOWED_DIFFERENCE 1e-3

/* Stays on the CPU that the system chose for the start, likely an idle one. */
static void pin(void)
{
    cpu_set_t set;
    const int cpu = sched_getcpu();
    CPU_ZERO(&set);
    if (cpu >= 0) {
        CPU_SET(cpu, &set);
    }
    if (cpu < 0 || sched_setaffinity(0, sizeof set, &set) != 0) {
        fprintf(stderr, "doconv-compare: not pinned to a core: %s\n", strerror(errno));
    }
}

/* The program's options alone decide. */
static void clear_settings(void)
{
    static const char *const variables[] = {"DOCONV_MAX_ISA", "DOCONV_TUNE", "DOCONV_CACHE",
                                            "DOCONV_SYSTEM_CACHE", "DOCONV_VERBOSE"};
    for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++) {
        unsetenv(variables[i]);
    }
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static int run_checked(const struct engine *e, const struct problem *p, struct buffers *b,
                       char *why)
{
    spoil_results(p, b);
    const doconv_status status = run_engine(e, b);
    return status == DOCONV_OK ? 0 : explain_failure(e->library, "the call", status, why);
}

static void compare_results(const struct problem *p, const struct buffers *b, struct result *r)
{
    r->same_bits = true;
    for (int t = 0; t < TENSORS; t++) {
        if (!is_result(p, (enum tensor)t) || b->floats[t] == 0) {
            continue;
        }
        const float *expected = b->expected[t], *got = b->tensor[t];
        r->same_bits = r->same_bits && memcmp(expected, got, b->floats[t] * sizeof(float)) == 0;
        double largest = 0, off = 0;
        for (size_t i = 0; i < b->floats[t]; i++) {
            const double difference = fabs((double)expected[i] - (double)got[i]);
            largest = fmax(largest, fabs((double)expected[i]));
            off = difference <= off ? off : difference; /* not a number is the largest */
        }
        const double share = off == 0 ? 0 : off / largest;
        r->difference = share <= r->difference ? r->difference : share;
    }
    r->wrong = !(r->difference <= ALLOWED_DIFFERENCE);
    if (r->wrong) {
        snprintf(r->why, sizeof r->why, "results differ by %.1e of the largest", r->difference);
    }
}

/* Runs both on the same tensors, and compares what they write. */
static int check_results(struct engines *e, const struct problem *p, struct buffers *b,
                         struct result *r)
{
    for (int s = 0; s < SIDES; s++) {
        if (ready_engine(&e->copy[0][s], p, b, r->why) != 0 ||
            run_checked(&e->copy[0][s], p, b, r->why) != 0) {
            return -1;
        }
        for (int t = 0; t < TENSORS && s == REV; t++) {
            if (b->expected[t] != NULL) {
                memcpy(b->expected[t], b->tensor[t], b->floats[t] * sizeof(float));
            }
        }
    }
    compare_results(p, b, r);
    return 0;
}

/* The first copies' engines, and what both run. */
static int create_engines(struct library libraries[SIDES][COPIES], const struct problem *p,
                          const struct options *o, struct engines *e, struct result *r)
{
    struct engine *rev = &e->copy[0][REV], *this = &e->copy[0][THIS];
    e->copies = 1;
    if (create_engine(&libraries[REV][0], p, o->tuned, NULL, rev, r->why) != 0) {
        return -1;
    }
    const char *variant = p->kind == LAYER ? rev->variant : NULL;
    int result = create_engine(&libraries[THIS][0], p, o->tuned, variant, this, r->why);
    if (result == 1) {
        r->own_choice = true;
        result = create_engine(&libraries[THIS][0], p, o->tuned, NULL, this, r->why);
    }
    if (result == 0) {
        r->why[0] = '\0';
    }
    memcpy(r->variant[REV], rev->variant, sizeof rev->variant);
    memcpy(r->variant[THIS], this->variant, sizeof this->variant);
    return result;
}

static int add_copies(struct library libraries[SIDES][COPIES], const struct problem *p,
                      const struct buffers *b, int copies, struct engines *e, char *why)
{
    while (e->copies < copies) {
        const int copy = e->copies++;
        for (int s = 0; s < SIDES; s++) {
            if (create_engine(&libraries[s][copy], p, false, e->copy[0][s].variant,
                              &e->copy[copy][s], why) != 0 ||
                ready_engine(&e->copy[copy][s], p, b, why) != 0) {
                return -1;
            }
        }
    }
    return 0;
}

static int run_engines(struct library libraries[SIDES][COPIES], const struct problem *p,
                       const struct options *o, struct engines *e, struct buffers *b,
                       struct result *r)
{
    if (check_results(e, p, b, r) != 0) {
        return -1;
    }
    const double call = quick_look(e, b);
    if (add_copies(libraries, p, b, copies_for(p, call), e, r->why) != 0) {
        return -1;
    }
    if (call == 0 || take_samples(e, b, call, o->seconds, &r->figures) != 0) {
        snprintf(r->why, sizeof r->why, "the samples failed");
        return -1;
    }
    return 0;
}

static int compare_problem(struct library libraries[SIDES][COPIES], const struct problem *p,
                           const struct options *o, struct result *r)
{
    for (int s = 0; s < SIDES && p->kind != LAYER; s++) {
        if (!can_train(&libraries[s][0])) {
            snprintf(r->why, sizeof r->why, "%s can't train", libraries[s][0].name);
            return 0; /* nothing to compare, and nobody's failure */
        }
    }
    struct engines e;
    memset(&e, 0, sizeof e);
    int result = create_engines(libraries, p, o, &e, r);
    if (result == 0) {
        const struct engine *rev = &e.copy[0][REV], *this = &e.copy[0][THIS];
        struct buffers b;
        if (make_buffers(p, larger(rev->workspace_size, this->workspace_size),
                         larger(rev->saved_size, this->saved_size), &b) == 0) {
            result = run_engines(libraries, p, o, &e, &b, r);
        } else {
            snprintf(r->why, sizeof r->why, "out of memory");
            result = -1;
        }
        free_buffers(&b);
    }
    for (int copy = 0; copy < e.copies; copy++) {
        destroy_engine(&e.copy[copy][REV]);
        destroy_engine(&e.copy[copy][THIS]);
    }
    return result;
}

static int compare_all(const struct problems *p, const struct options *o,
                       struct library libraries[SIDES][COPIES])
{
    struct result *results = calloc((size_t)p->count, sizeof *results);
    if (results == NULL) {
        fprintf(stderr, "doconv-compare: out of memory\n");
        return 1;
    }
    fprintf(stderr, "doconv-compare: %s (%s, %s) and this tree (%s, %s), %d problems, %s\n",
            o->name, libraries[REV][0].version_string(),
            doconv_isa_string(library_isa(&libraries[REV][0])), libraries[THIS][0].version_string(),
            doconv_isa_string(library_isa(&libraries[THIS][0])), p->count,
            doconv_layout_string(o->layout));
    int status = 0;
    for (int i = 0; i < p->count; i++) {
        if (compare_problem(libraries, &p->problem[i], o, &results[i]) != 0 || results[i].wrong) {
            status = 1;
        }
        print_progress(i + 1, p->count, &p->problem[i], &results[i]);
    }
    print_table(p, results, o->name);
    if (o->tsv != NULL && write_tsv(o->tsv, p, results) != 0) {
        fprintf(stderr, "doconv-compare: --tsv: \"%s\" can't be written: %s\n", o->tsv,
                strerror(errno));
        status = 1;
    }
    free(results);
    return status;
}

static int run(const struct options *o, const struct problems *p)
{
    clear_settings();
    pin();
    static struct library libraries[SIDES][COPIES];
    int status = 1;
    if (open_library(o, REV, libraries[REV]) == 0 && open_library(o, THIS, libraries[THIS]) == 0) {
        if (all_apart(libraries)) {
            status = compare_all(p, o, libraries);
        } else {
            fprintf(stderr, "doconv-compare: the loader gave one library for two\n");
        }
    }
    close_library(libraries[REV]);
    close_library(libraries[THIS]);
    return status;
}

int main(int argc, char **argv)
{
    struct options o;
    struct problems p = {0};
    int status = 2;
    if (read_options(argc, argv, &o) == 0) {
        if (o.help) {
            fputs(COMPARE_HELP, stdout);
            status = 0;
        } else if (make_problems(&o, &p) == 0) {
            if (o.list) {
                print_problems(&p);
                status = 0;
            } else {
                status = run(&o, &p);
            }
        }
        free_problems(&p);
    }
    free_options(&o);
    return status;
}
