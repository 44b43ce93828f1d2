/* SPDX-License-Identifier: MIT */
#include "compare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_PROBLEMS 4096

const char *const kind_names[] = {"layer", "plain step", "kernel step"};

static int out_of_memory(void)
{
    fprintf(stderr, "doconv-compare: out of memory\n");
    return -1;
}

/* The canonical text, and a name without layouts and padding. */
static doconv_status write_texts(struct problem *problem)
{
    problem_name(&problem->desc, problem->name);
    return doconv_conv_desc_format(NULL, &problem->desc, problem->text, sizeof problem->text);
}

/* Adds a problem to a group; one that is there already, from another network, counts there too. */
static int add_problem(struct problems *p, struct group *g, const struct problem *problem,
                       int count)
{
    int at = 0;
    while (at < p->count && (p->problem[at].kind != problem->kind ||
                             strcmp(p->problem[at].text, problem->text) != 0)) {
        at++;
    }
    if (at == MOST_PROBLEMS) {
        fprintf(stderr, "doconv-compare: more than %d problems\n", MOST_PROBLEMS);
        return -1;
    }
    if (at == p->count) {
        p->problem[p->count++] = *problem;
    }
    for (int i = 0; i < g->size; i++) {
        if (g->problem[i] == at) {
            g->count[i] += count;
            return 0;
        }
    }
    g->problem[g->size] = at;
    g->count[g->size++] = count;
    return 0;
}

static struct group *add_group(struct problems *p, const char *name, int most)
{
    struct group *g = &p->group[p->group_count++];
    snprintf(g->name, sizeof g->name, "%s", name);
    g->problem = malloc((size_t)most * sizeof *g->problem);
    g->count = malloc((size_t)most * sizeof *g->count);
    return g->problem != NULL && g->count != NULL ? g : NULL;
}

static int add_network(const struct options *o, const char *name, struct problems *p)
{
    struct network network;
    char error[600];
    if (network_load(name, &network, error, sizeof error) != 0) {
        fprintf(stderr, "doconv-compare: %s\n", error);
        return -1;
    }
    struct group *g = add_group(p, network.name, network.layers);
    int result = g != NULL ? 0 : out_of_memory();
    for (int i = 0; i < network.layers && result == 0; i++) {
        struct problem problem = {.kind = LAYER, .desc = network.layer[i].desc};
        problem.desc.src_layout = problem.desc.dst_layout = o->layout;
        const doconv_status status = write_texts(&problem);
        if (status != DOCONV_OK) {
            fprintf(stderr, "doconv-compare: %s, layer %d: %s\n", network.name, i + 1,
                    doconv_status_string(status));
            result = -1;
        } else {
            result = add_problem(p, g, &problem, network.layer[i].count);
        }
    }
    network_free(&network);
    return result;
}

/* A step's problem, in the layout of the options unless it has attributes of its own. */
static int read_step_problem(const struct options *o, const char *text, struct problem *problem)
{
    char whole[DOCONV_PROBLEM_TEXT_SIZE];
    const char *layout = doconv_layout_string(o->layout);
    const int length = strchr(text, ':') != NULL ? snprintf(whole, sizeof whole, "%s", text)
                                                 : snprintf(whole, sizeof whole, "%s:src=%s,dst=%s",
                                                            text, layout, layout);
    doconv_status status = (size_t)length < sizeof whole
                               ? doconv_conv_desc_parse(NULL, whole, &problem->desc)
                               : DOCONV_INVALID_ARGUMENT;
    if (status == DOCONV_OK) {
        status = write_texts(problem);
    }
    if (status != DOCONV_OK) {
        fprintf(stderr, "doconv-compare: --steps: \"%.200s\" is no problem: %s\n", text,
                doconv_status_string(status));
        return -1;
    }
    const doconv_conv_desc *d = &problem->desc;
    if (d->has_bias || d->residual || d->relu || d->clamp || d->d_mul != 0) {
        fprintf(stderr,
                "doconv-compare: --steps: \"%.200s\": steps are of plain convolutions, without "
                "bias and post-operations\n",
                text);
        return -1;
    }
    return 0;
}

static int add_steps(const struct options *o, struct problems *p)
{
    struct group *g = add_group(p, "steps", 2 * MOST_STEPS);
    int result = g != NULL ? 0 : out_of_memory();
    for (int i = 0; i < o->step_count && result == 0; i++) {
        struct problem problem = {.kind = PLAIN_STEP};
        result = read_step_problem(o, o->steps[i], &problem);
        if (result == 0) {
            result = add_problem(p, g, &problem, 1);
        }
        /* A 1x1 layer has no D. */
        problem.kind = KERNEL_STEP;
        problem.d_mul = (size_t)(problem.desc.kh * problem.desc.kw);
        if (result == 0 && problem.d_mul > 1) {
            result = add_problem(p, g, &problem, 1);
        }
    }
    return result;
}

int make_problems(const struct options *o, struct problems *p)
{
    *p = (struct problems){.problem = malloc(MOST_PROBLEMS * sizeof *p->problem)};
    if (p->problem == NULL) {
        return out_of_memory();
    }
    for (int i = 0; i < o->network_count; i++) {
        if (add_network(o, o->networks[i], p) != 0) {
            return -1;
        }
    }
    return o->step_count > 0 ? add_steps(o, p) : 0;
}

void free_problems(struct problems *p)
{
    for (int i = 0; i < p->group_count; i++) {
        free(p->group[i].problem);
        free(p->group[i].count);
    }
    free(p->problem);
}
