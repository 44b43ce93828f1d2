/* SPDX-License-Identifier: MIT */
#include "compare.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void print_problems(const struct problems *p)
{
    for (int g = 0; g < p->group_count; g++) {
        printf("%s\n", p->group[g].name);
        for (int i = 0; i < p->group[g].size; i++) {
            const struct problem *problem = &p->problem[p->group[g].problem[i]];
            printf("  %2d x  %-11s  %s\n", p->group[g].count[i], kind_names[problem->kind],
                   problem->text);
        }
    }
}

/* What ran: the variant, both if they differ, or which step it is. */
static void describe_variant(const struct problem *p, const struct result *r, char *text,
                             size_t size)
{
    if (p->kind == KERNEL_STEP) {
        snprintf(text, size, "step, kernel composition, D_mul %zu", p->d_mul);
    } else if (p->kind == PLAIN_STEP) {
        snprintf(text, size, "step, plain");
    } else if (r->own_choice) {
        snprintf(text, size, "%s * %s", r->variant[REV], r->variant[THIS]);
    } else {
        snprintf(text, size, "%s", r->variant[REV]);
    }
}

static void describe_difference(const struct result *r, char *text, size_t size)
{
    if (r->same_bits) {
        snprintf(text, size, "same bits");
    } else {
        snprintf(text, size, "%.1e%s", r->difference, r->wrong ? " WRONG" : "");
    }
}

static void print_row(const struct problem *p, const struct result *r, int width, int variant_width)
{
    char variant[2 * DOCONV_VARIANT_TEXT_SIZE + 8], difference[32];
    if (r->figures.pairs == 0) {
        printf("%-*s  %s\n", width, p->name, r->why);
        return;
    }
    const struct figures *f = &r->figures;
    describe_variant(p, r, variant, sizeof variant);
    describe_difference(r, difference, sizeof difference);
    printf("%-*s  %-*s  %9.4f  %9.4f  %6.3f  %6.3f..%.3f  %4d  %s\n", width, p->name, variant_width,
           variant, 1e3 * f->seconds[REV], 1e3 * f->seconds[THIS], f->ratio, f->low, f->high,
           f->pairs, difference);
}

/* Sums over rows; the first library's time is this one's by the ratio, which is less noisy. */
struct sum {
    double seconds[SIDES], logarithms;
    int rows, worst; /* the row of the lowest ratio */
};

static void add_row(struct sum *sum, const struct result *results, int row, int count, bool is_new)
{
    const struct figures *f = &results[row].figures;
    if (f->pairs == 0) {
        return;
    }
    sum->seconds[REV] += count * f->seconds[THIS] * f->ratio;
    sum->seconds[THIS] += count * f->seconds[THIS];
    if (is_new) {
        sum->logarithms += log(f->ratio);
        if (sum->rows == 0 || f->ratio < results[sum->worst].figures.ratio) {
            sum->worst = row;
        }
        sum->rows++;
    }
}

static void print_sum(const char *title, const struct sum *sum, const struct problems *p,
                      const struct result *results)
{
    if (sum->rows == 0) {
        printf("%-20s  nothing was measured\n", title);
        return;
    }
    const struct problem *worst = &p->problem[sum->worst];
    printf("%-20s  %9.3f  %9.3f  %6.4f  %14.4f  %6.3f  %s%s%s\n", title, 1e3 * sum->seconds[REV],
           1e3 * sum->seconds[THIS], sum->seconds[REV] / sum->seconds[THIS],
           exp(sum->logarithms / sum->rows), results[sum->worst].figures.ratio, worst->name,
           worst->kind == LAYER ? "" : ", ", worst->kind == LAYER ? "" : kind_names[worst->kind]);
}

void print_table(const struct problems *p, const struct result *results, const char *name)
{
    char heading[64], text[2 * DOCONV_VARIANT_TEXT_SIZE + 8];
    int width = 7, variant_width = 7;
    bool marked = false;
    for (int i = 0; i < p->count; i++) {
        describe_variant(&p->problem[i], &results[i], text, sizeof text);
        const int length = (int)strlen(p->problem[i].name), variant_length = (int)strlen(text);
        width = length > width ? length : width;
        variant_width = variant_length > variant_width ? variant_length : variant_width;
        marked = marked || results[i].own_choice;
    }
    snprintf(heading, sizeof heading, "ms %.12s", name);
    printf("%-*s  %-*s  %9s  %9s  %6s  %14s  %4s  difference\n", width, "problem", variant_width,
           "variant", heading, "ms this", "ratio", "quartiles", "n");
    for (int i = 0; i < p->count; i++) {
        print_row(&p->problem[i], &results[i], width, variant_width);
    }
    if (marked) {
        printf("* this tree doesn't know %s's variant: its own choice stands behind\n", name);
    }
    printf("\n%-20s  %9s  %9s  %6s  %14s  %6s\n", "sums", heading, "ms this", "ratio",
           "geometric mean", "worst");
    struct sum all = {.rows = 0};
    for (int g = 0; g < p->group_count; g++) {
        struct sum sum = {.rows = 0};
        for (int i = 0; i < p->group[g].size; i++) {
            add_row(&sum, results, p->group[g].problem[i], p->group[g].count[i], true);
            add_row(&all, results, p->group[g].problem[i], p->group[g].count[i], false);
        }
        print_sum(p->group[g].name, &sum, p, results);
    }
    for (int i = 0; i < p->count; i++) {
        add_row(&all, results, i, 0, true); /* a row of two networks once */
    }
    print_sum("all", &all, p, results);
}

int write_tsv(const char *path, const struct problems *p, const struct result *results)
{
    FILE *file = fopen(path, "w");
    if (file == NULL) {
        return -1;
    }
    fprintf(file, "problem\tkind\tvariant_rev\tvariant_this\tms_rev\tms_this\tratio\tlow_quartile\t"
                  "high_quartile\tsamples\tmax_rel_difference\tsame_bits\tfailure\n");
    for (int i = 0; i < p->count; i++) {
        const struct result *r = &results[i];
        const struct figures *f = &r->figures;
        fprintf(file, "%s\t%s\t%s\t%s\t", p->problem[i].text, kind_names[p->problem[i].kind],
                r->variant[REV], r->variant[THIS]);
        if (f->pairs > 0) {
            fprintf(file, "%.6f\t%.6f\t%.5f\t%.5f\t%.5f\t%d\t%.3e\t%d\t%s\n", 1e3 * f->seconds[REV],
                    1e3 * f->seconds[THIS], f->ratio, f->low, f->high, f->pairs, r->difference,
                    r->same_bits, r->why);
        } else {
            fprintf(file, "\t\t\t\t\t0\t\t\t%s\n", r->why);
        }
    }
    const bool failed = ferror(file) != 0;
    return (fclose(file) != 0) | failed ? -1 : 0;
}

void print_progress(int done, int count, const struct problem *p, const struct result *r)
{
    fprintf(stderr, "compare  %3d/%d  %s  ", done, count, p->text);
    if (r->figures.pairs > 0) {
        fprintf(stderr, "%.3f\n", r->figures.ratio);
    } else {
        fprintf(stderr, "nothing: %s\n", r->why);
    }
}
