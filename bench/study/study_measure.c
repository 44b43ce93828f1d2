/* SPDX-License-Identifier: MIT */
#include "study_bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLE_SECONDS 2e-3    /* a sample is as many calls as this takes, or one */
#define LONG_CALL_SECONDS 0.02 /* a call this long warms the caches by itself */
#define PATIENCE_SECONDS 20.0  /* of a call: slower ones are skipped */
#define FEWEST_ROUNDS 3
#define MOST_ROUNDS 101
#define DISTURBED 0.03 /* share of time off the core from which a sample is taken again */
#define ATTEMPTS 3
#define MOST_DEATHS 3 /* of PyTorch's process */

struct runner {
    enum engine engine;
    enum composition composition;
    enum pass pass;
    struct figure *figure;
    double guess, spent;
    double samples[MOST_ROUNDS];
    int count;
};

/* ---- samples ---- */

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, by_size);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/*
 * Seconds of a call. With one thread, time off the core shows as wall time without CPU time; of
 * several attempts the least disturbed counts.
 */
static double time_ours(struct bench *b, const struct runner *r, int calls)
{
    if (r->guess < LONG_CALL_SECONDS) {
        /* another was here before: the caches hold its data */
        run_ours(b, r->composition, r->pass);
    }
    double best = 0, best_lost = INFINITY;
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        const double cpu = cpu_seconds(), start = wall_seconds();
        for (int i = 0; i < calls; i++) {
            run_ours(b, r->composition, r->pass);
        }
        const double seconds = wall_seconds() - start, lost = seconds - (cpu_seconds() - cpu);
        if (lost < best_lost) {
            best = seconds;
            best_lost = lost;
        }
        if (b->options->threads > 1 || best_lost <= DISTURBED * best || seconds > 0.2) {
            break;
        }
    }
    return best / calls;
}

static int take_sample(struct bench *b, struct runner *r)
{
    const double wanted = ceil(SAMPLE_SECONDS / fmax(r->guess, 1e-7));
    const int calls = wanted > 1 ? (int)wanted : 1;
    double seconds;
    const double start = wall_seconds();
    if (r->engine == DOCONV) {
        seconds = time_ours(b, r, calls);
    } else if (pytorch_time(b->pytorch, r->composition, r->pass, r->figure->format, calls,
                            r->guess < LONG_CALL_SECONDS, &seconds, r->figure->why) != 0) {
        return -1;
    }
    r->samples[r->count++] = seconds;
    r->guess = seconds;
    r->spent += wall_seconds() - start;
    return 0;
}

/*
 * The runners take turns, another one first each time: what the one before leaves in the caches is
 * nobody's advantage. Very slow ones sit out once they have had their share.
 */
static void take_rounds(struct bench *b, struct runner *runners, int count)
{
    const double seconds = b->options->seconds, start = wall_seconds();
    for (int round = 0;
         round < MOST_ROUNDS &&
         (round < FEWEST_ROUNDS || wall_seconds() - start < seconds * (b->pytorch != NULL ? 2 : 1));
         round++) {
        for (int i = 0; i < count; i++) {
            struct runner *r = &runners[(i + round) % count];
            const bool share =
                r->count > 0 && r->spent + r->guess > 2 * seconds && r->guess > SAMPLE_SECONDS * 5;
            if (!share && r->figure->why[0] == '\0') {
                take_sample(b, r);
            }
        }
    }
    for (int i = 0; i < count; i++) {
        struct runner *r = &runners[i];
        if (r->count > 0 && r->figure->why[0] == '\0') {
            r->figure->seconds = median(r->samples, r->count);
            r->figure->rounds = r->count;
        }
    }
}

/* ---- a case ---- */

/*
 * About what PyTorch holds at its peak: src and dst in both memory formats with their gradients,
 * and the depthwise result of feature composition with its gradient, in the format that a caller
 * sees and in the one that a primitive wants.
 */
static double pytorch_bytes(const struct study_case *c, enum composition composition,
                            enum pass pass)
{
    const struct shape in = src_shape(c), out = dst_shape(c);
    const double base =
        sizeof(float) * 4.0 * ((double)shape_floats(&in) + (double)shape_floats(&out));
    const double depthwise =
        sizeof(float) * (double)c->desc.cin * (double)c->d_mul * (double)c->pixels;
    return base + (composition == FEATURE ? (pass == STEP ? 3.2 : 2.0) * depthwise : 0);
}

/* Would a call take too long, by what this layer's last case took? */
static bool too_slow(const struct bench *b, const struct study_case *c, enum engine engine,
                     enum composition composition, enum pass pass, struct figure *f)
{
    const double seconds = b->rate[engine][composition][pass] * c->macs[composition];
    if (seconds > PATIENCE_SECONDS) {
        explain(f->why, "a call would take about %.0f s", seconds);
        return true;
    }
    return false;
}

/* A tensor that a pass doesn't write must not look right. */
static void spoil_results(struct bench *b, const struct study_case *c, enum composition composition)
{
    const struct shape in = src_shape(c), out = dst_shape(c);
    memset(b->tensors.dst, 0xff, shape_floats(&out) * sizeof(float));
    memset(b->tensors.grad_src, 0xff, shape_floats(&in) * sizeof(float));
    memset(b->parameters.grad_w, 0xff,
           (composition == PLAIN ? weight_floats(c) : composed_floats(c)) * sizeof(float));
    memset(b->parameters.grad_d, 0xff, d_floats(c) * sizeof(float));
}

/* Runs, checks and first times both passes of a layer that is made. */
static void try_ours(struct bench *b, const struct study_case *c, enum composition composition,
                     struct figure *forward, struct figure *step, double guesses[PASSES])
{
    spoil_results(b, c, composition);
    if (run_ours(b, composition, FORWARD) == DOCONV_OK) {
        bind_team(b->options->threads);
    }
    double start = wall_seconds();
    doconv_status status = run_ours(b, composition, FORWARD);
    guesses[FORWARD] = wall_seconds() - start;
    if (status == DOCONV_OK && composition != PLAIN) {
        check_dst(b, c, forward);
    }
    start = wall_seconds();
    if (status == DOCONV_OK && !too_slow(b, c, DOCONV, composition, STEP, step)) {
        status = run_ours(b, composition, STEP);
        guesses[STEP] = wall_seconds() - start;
    }
    if (status != DOCONV_OK) {
        explain(step->why, "%s", doconv_status_string(status));
        explain(forward->why, "%s", doconv_status_string(status));
    } else if (composition == PLAIN) {
        check_plain(b, c, forward, step);
    } else if (step->why[0] == '\0') {
        check_composed(b, c, step);
    }
}

/* Creates, checks and first times doconv's. */
static int prepare_ours(struct bench *b, const struct study_case *c, struct result *r,
                        double guesses[COMPOSITIONS][PASSES], char *why)
{
    for (int k = 0; k < COMPOSITIONS; k++) {
        const enum composition composition = (enum composition)k;
        struct figure *forward = &r->figure[FORWARD][DOCONV][k],
                      *step = &r->figure[STEP][DOCONV][k];
        if (too_slow(b, c, DOCONV, composition, FORWARD, forward)) {
            explain(step->why, "%s", forward->why);
        } else if (make_ours(b, c, composition, FORWARD, forward->why) == 0 &&
                   make_ours(b, c, composition, STEP, forward->why) == 0) {
            try_ours(b, c, composition, forward, step, guesses[k]);
        } else if (composition == PLAIN) {
            return explain(why, "%s", forward->why); /* the others would have no reference */
        } else {
            explain(step->why, "%s", forward->why);
        }
    }
    return 0;
}

/*
 * Tries PyTorch's memory formats, and checks the result of each. The last one first, so that both
 * are warm when it counts.
 */
static int prepare_pytorch(struct bench *b, const struct study_case *c,
                           enum composition composition, enum pass pass, struct figure *f,
                           double *guess)
{
    const double bytes = own_bytes(c) + (double)b->ours[composition][STEP].workspace_size +
                         pytorch_bytes(c, composition, pass);
    if (bytes > b->memory) {
        return explain(f->why, "it would hold about %.1f GiB; the limit is %.1f (--memory)",
                       gib(bytes), gib(b->memory));
    }
    if (too_slow(b, c, PYTORCH, composition, pass, f)) {
        return -1;
    }
    double best = INFINITY;
    for (enum format format = CONTIGUOUS; format <= CHANNELS_LAST; format++) {
        double seconds;
        if (pytorch_time(b->pytorch, composition, pass, format, 1, false, &seconds, f->why) != 0) {
            return -1;
        }
        if (seconds < 0.3) {
            const int calls = seconds < SAMPLE_SECONDS ? 5 : 1;
            double again[3];
            for (int i = 0; i < 3; i++) {
                if (pytorch_time(b->pytorch, composition, pass, format, calls, true, &again[i],
                                 f->why) != 0) {
                    return -1;
                }
            }
            seconds = median(again, 3);
        }
        if (check_pytorch(b, c, composition, pass, f) != 0 || f->wrong) {
            return -1;
        }
        if (seconds < best) {
            best = seconds;
            f->format = format;
        }
    }
    *guess = best;
    return 0;
}

/* Sees after a PyTorch that died: a new one for the next case, a few times. */
static void revive(struct bench *b)
{
    if (b->pytorch == NULL || pytorch_alive(b->pytorch)) {
        return;
    }
    pytorch_stop(b->pytorch);
    b->pytorch = NULL;
    char why[WHY_SIZE];
    if (++b->deaths >= MOST_DEATHS) {
        explain(b->lost, "PyTorch's process was lost %d times: given up", b->deaths);
    } else if ((b->pytorch = pytorch_start(b->options->pytorch, b->options->threads, why)) ==
               NULL) {
        explain(b->lost, "%.250s", why);
    } else {
        explain(b->lost, "PyTorch's process was lost, and started anew");
    }
}

static void time_pass(struct bench *b, const struct study_case *c, enum pass pass, struct result *r,
                      double guesses[COMPOSITIONS][PASSES])
{
    struct runner runners[ENGINES * COMPOSITIONS];
    int count = 0;
    for (int e = 0; e < ENGINES; e++) {
        for (int k = 0; k < (e == DOCONV ? COMPOSITIONS : AUTO); k++) {
            struct figure *f = &r->figure[pass][e][k];
            double guess = guesses[k][pass];
            if (e == PYTORCH && f->why[0] == '\0') {
                prepare_pytorch(b, c, (enum composition)k, pass, f, &guess);
            }
            if (f->why[0] == '\0') {
                runners[count++] = (struct runner){.engine = (enum engine)e,
                                                   .composition = (enum composition)k,
                                                   .pass = pass,
                                                   .figure = f,
                                                   .guess = guess};
            }
        }
    }
    take_rounds(b, runners, count);
    for (int i = 0; i < count; i++) {
        const struct runner *done = &runners[i];
        if (done->figure->seconds > 0) {
            b->rate[done->engine][done->composition][pass] =
                done->figure->seconds / c->macs[done->composition];
        }
    }
}

int bench_case(struct bench *b, const struct study_case *c, struct result *r, char *why)
{
    *r = (struct result){0};
    if (b->timed != c->layer) {
        memset(b->rate, 0, sizeof b->rate);
        b->timed = c->layer;
    }
    if (own_bytes(c) > b->memory) {
        return explain(why, "it would hold %.1f GiB; the limit is %.1f (--memory)",
                       gib(own_bytes(c)), gib(b->memory));
    }
    revive(b);
    double guesses[COMPOSITIONS][PASSES] = {{0}};
    int result = make_tensors(b, c, why);
    result = result == 0 ? make_parameters(b, c, why) : result;
    result = result == 0 ? prepare_ours(b, c, r, guesses, why) : result;
    if (result == 0) {
        char no_pytorch[WHY_SIZE] = "";
        if (b->pytorch == NULL) {
            explain(no_pytorch, "%s", b->lost[0] != '\0' ? "PyTorch is gone" : "not asked for");
        } else {
            pytorch_case(b->pytorch, c, no_pytorch);
        }
        for (int p = 0; p < PASSES; p++) {
            for (int k = 0; k < AUTO; k++) {
                explain(r->figure[p][PYTORCH][k].why, "%s", no_pytorch);
            }
            struct figure *open = &r->figure[p][DOCONV][AUTO];
            snprintf(open->choice, sizeof open->choice, "%s", choice_of(b, (enum pass)p));
            time_pass(b, c, (enum pass)p, r, guesses);
        }
        r->done = true;
    }
    free_case(b);
    return result;
}
