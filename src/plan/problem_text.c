/* SPDX-License-Identifier: MIT */
/*
 * Problems as text, as benchdnn writes them, with attributes after a colon. Numbers don't depend on
 * the locale.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/versioned.h"
#include "plan/problem.h"

enum field { G, MB, IC, IH, IW, OC, OH, OW, KH, KW, SH, SW, PH, PW, DH, DW, FIELDS };
static const char *const field_names[FIELDS] = {"g",  "mb", "ic", "ih", "iw", "oc", "oh", "ow",
                                                "kh", "kw", "sh", "sw", "ph", "pw", "dh", "dw"};

static const char *const compositions[] = {[DOCONV_COMPOSITION_NONE] = "",
                                           [DOCONV_COMPOSITION_KERNEL] = "kernel",
                                           [DOCONV_COMPOSITION_FEATURE] = "feature"};
static const char *const mappings[] = {[DOCONV_MAPPING_PAPER] = "paper",
                                       [DOCONV_MAPPING_PYTORCH] = "pytorch",
                                       [DOCONV_MAPPING_TENSORFLOW] = "tensorflow"};

/* ---- writing ---- */

struct writer {
    char *text;
    size_t size, used;
};

static void put(struct writer *w, const char *text)
{
    const size_t length = strlen(text);
    if (w->used + length < w->size) {
        memcpy(w->text + w->used, text, length + 1);
    }
    w->used += length;
}

/* The shortest of %.9g in the C locale: nine digits give back every float. */
static void put_float(struct writer *w, float value)
{
    char text[32];
    if (isinf(value)) {
        put(w, value < 0 ? "-inf" : "inf");
        return;
    }
    snprintf(text, sizeof text, "%.9g", (double)value);
    for (char *c = text; *c != '\0'; c++) {
        if (strchr("0123456789+-e", *c) == NULL) {
            *c = '.';
        }
    }
    put(w, text);
}

void dc_problem_format(const struct dc_problem *p, char *text, size_t size)
{
    const doconv_conv_desc *d = &p->desc;
    const int64_t values[FIELDS] = {
        [G] = d->groups,
        [MB] = p->empty ? 0 : d->n,
        [IC] = d->cin,
        [IH] = d->h,
        [IW] = d->w,
        [OC] = d->cout,
        [OH] = p->hout,
        [OW] = p->wout,
        [KH] = d->kh,
        [KW] = d->kw,
        [SH] = d->stride_h,
        [SW] = d->stride_w,
        [PH] = d->pad_top,
        [PW] = d->pad_left,
        [DH] = d->dilation_h - 1,
        [DW] = d->dilation_w - 1,
    };
    struct writer w = {text, size, 0};
    for (int i = 0; i < FIELDS; i++) {
        if (i == G && values[i] == 1) {
            continue;
        }
        char field[32];
        snprintf(field, sizeof field, "%s%" PRId64 "%s", field_names[i], values[i],
                 i == MB ? "_" : "");
        put(&w, field);
    }
    char separator[2] = ":";
#define ATTRIBUTE(...)                                                                             \
    do {                                                                                           \
        const char *const parts[] = {separator, __VA_ARGS__};                                      \
        for (size_t part = 0; part < sizeof parts / sizeof parts[0]; part++) {                     \
            put(&w, parts[part]);                                                                  \
        }                                                                                          \
        separator[0] = ',';                                                                        \
    } while (0)
    if (d->src_layout != DOCONV_NCHW) {
        ATTRIBUTE("src=", doconv_layout_string(d->src_layout));
    }
    if (d->dst_layout != DOCONV_NCHW) {
        ATTRIBUTE("dst=", doconv_layout_string(d->dst_layout));
    }
    if (d->has_bias) {
        ATTRIBUTE("bias");
    }
    if (d->residual) {
        ATTRIBUTE("residual");
    }
    if (d->relu) {
        ATTRIBUTE("relu");
    }
    if (d->clamp) {
        ATTRIBUTE("clamp=");
        put_float(&w, d->clamp_lo);
        put(&w, "/");
        put_float(&w, d->clamp_hi);
    }
    if (d->accuracy != DOCONV_ACCURACY_DEFAULT) {
        ATTRIBUTE("accuracy=", d->accuracy == DOCONV_ACCURACY_STRICT ? "strict" : "fast");
    }
    if (d->d_mul > 0) {
        char d_mul[24];
        snprintf(d_mul, sizeof d_mul, "%" PRId64, d->d_mul);
        ATTRIBUTE("dmul=", d_mul);
        ATTRIBUTE("composition=", compositions[d->composition]);
    }
    if (d->mapping != DOCONV_MAPPING_PAPER) {
        ATTRIBUTE("mapping=", mappings[d->mapping]);
    }
    if (d->add_identity) {
        ATTRIBUTE("identity");
    }
#undef ATTRIBUTE
}

doconv_status doconv_conv_desc_format(doconv_context *context, const doconv_conv_desc *desc,
                                      char *text, size_t size)
{
    struct dc_problem problem;
    const doconv_status status = dc_problem_create(context, desc, &problem);
    if (status != DOCONV_OK) {
        return status;
    }
    char full[DOCONV_PROBLEM_TEXT_SIZE];
    dc_problem_format(&problem, full, sizeof full);
    if (text == NULL || size <= strlen(full)) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "text: %zu bytes are too few for %zu",
                       text == NULL ? 0 : size, strlen(full) + 1);
    }
    memcpy(text, full, strlen(full) + 1);
    return DOCONV_OK;
}

/* ---- reading ---- */

/*
 * Digits only; false if there are none or the number is over 2^31-1 (then *value is the number cut
 * at that).
 */
static bool read_int(const char **at, int64_t *value)
{
    const char *c = *at;
    *value = 0;
    while (*c >= '0' && *c <= '9') {
        *value = *value * 10 + (*c++ - '0');
        if (*value > INT32_MAX) {
            return false;
        }
    }
    const bool any = c != *at;
    *at = c;
    return any;
}

/* A decimal number, "inf" or "-inf". Exact to a float's rounding for up to 15 digits. */
static bool read_float(const char **at, float *value)
{
    const char *c = *at;
    const bool negative = *c == '-';
    c += *c == '-' || *c == '+';
    if (strncmp(c, "inf", 3) == 0) {
        *at = c + 3;
        *value = negative ? -INFINITY : INFINITY;
        return true;
    }
    double mantissa = 0;
    int exponent = 0, digits = 0;
    bool fraction = false;
    for (;; c++) {
        if (*c == '.' && !fraction) {
            fraction = true;
        } else if (*c >= '0' && *c <= '9' && digits < 40) {
            mantissa = mantissa * 10 + (*c - '0');
            exponent -= fraction;
            digits++;
        } else {
            break;
        }
    }
    if (digits == 0) {
        return false;
    }
    if (*c == 'e') {
        const bool minus = c[1] == '-';
        const char *start = c + 1 + (c[1] == '-' || c[1] == '+');
        c = start;
        int64_t power;
        if (!read_int(&c, &power) || power > 400) {
            return false;
        }
        exponent += (int)(minus ? -power : power);
    }
    for (; exponent > 0; exponent--) {
        mantissa *= 10;
    }
    double divisor = 1;
    for (; exponent < 0; exponent++) {
        divisor *= 10;
    }
    *value = (float)((negative ? -mantissa : mantissa) / divisor);
    *at = c;
    return true;
}

static bool take(const char **at, const char *word)
{
    const size_t length = strlen(word);
    if (strncmp(*at, word, length) != 0) {
        return false;
    }
    *at += length;
    return true;
}

static bool read_layout(const char **at, doconv_layout *layout)
{
    /* Longest first: no name is the start of a later one. */
    for (int l = DOCONV_NCHW16C; l >= 0; l--) {
        if (take(at, doconv_layout_string((doconv_layout)l))) {
            *layout = (doconv_layout)l;
            return true;
        }
    }
    return false;
}

/* The one of words[first] to words[last] that follows. */
static bool read_word(const char **at, const char *const *words, int first, int last, int *word)
{
    for (*word = first; *word <= last; ++*word) {
        if (take(at, words[*word])) {
            return true;
        }
    }
    return false;
}

/* What makes a layer a DO-Conv one. */
static bool read_doconv_attribute(const char **at, doconv_conv_desc *d)
{
    int word = 0;
    if (take(at, "dmul=")) {
        return read_int(at, &d->d_mul);
    }
    if (take(at, "composition=")) {
        const bool known = read_word(at, compositions, DOCONV_COMPOSITION_KERNEL,
                                     DOCONV_COMPOSITION_FEATURE, &word);
        d->composition = (doconv_composition)word;
        return known;
    }
    if (take(at, "mapping=")) {
        const bool known =
            read_word(at, mappings, DOCONV_MAPPING_PAPER, DOCONV_MAPPING_TENSORFLOW, &word);
        d->mapping = (doconv_mapping)word;
        return known;
    }
    if (take(at, "identity")) {
        d->add_identity = 1;
        return true;
    }
    return false;
}

static bool read_attribute(const char **at, doconv_conv_desc *d)
{
    if (take(at, "src=")) {
        return read_layout(at, &d->src_layout);
    }
    if (take(at, "dst=")) {
        return read_layout(at, &d->dst_layout);
    }
    if (take(at, "bias")) {
        d->has_bias = 1;
    } else if (take(at, "residual")) {
        d->residual = 1;
    } else if (take(at, "relu")) {
        d->relu = 1;
    } else if (take(at, "clamp=")) {
        d->clamp = 1;
        return read_float(at, &d->clamp_lo) && take(at, "/") && read_float(at, &d->clamp_hi);
    } else if (take(at, "accuracy=strict")) {
        d->accuracy = DOCONV_ACCURACY_STRICT;
    } else if (take(at, "accuracy=default")) {
        d->accuracy = DOCONV_ACCURACY_DEFAULT;
    } else if (take(at, "accuracy=fast")) {
        d->accuracy = DOCONV_ACCURACY_FAST;
    } else {
        return read_doconv_attribute(at, d);
    }
    return true;
}

/*
 * Padding after the image that gives the stated output; the size is checked by the validation that
 * follows.
 */
static int64_t pad_after(int64_t out, int64_t stride, int64_t kernel, int64_t dilation,
                         int64_t size, int64_t pad)
{
    const int64_t needed = (out - 1) * stride + (kernel - 1) * dilation + 1 - size - pad;
    return needed > 0 ? needed : 0;
}

doconv_status doconv_conv_desc_parse_sized(doconv_context *context, const char *text,
                                           doconv_conv_desc *desc, size_t size)
{
    if (text == NULL || desc == NULL) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "%s: NULL",
                       text == NULL ? "text" : "desc");
    }
    int64_t value[FIELDS] = {0};
    bool given[FIELDS] = {false};
    const char *at = text;
    while (*at != '\0' && *at != ':') {
        if (*at == '_') {
            at++;
            continue;
        }
        if (take(&at, "n\"")) { /* benchdnn's names of problems */
            const char *end = strchr(at, '"');
            if (end == NULL) {
                return dc_fail(context, DOCONV_INVALID_ARGUMENT,
                               "problem: the name after n\" has no end");
            }
            at = end + 1;
            continue;
        }
        int field = FIELDS - 1;
        while (field >= 0 && !take(&at, field_names[field])) {
            field--;
        }
        if (field < 0) {
            return dc_fail(context, DOCONV_INVALID_ARGUMENT,
                           "problem: no field is called \"%.16s\"", at);
        }
        if (given[field]) {
            return dc_fail(context, DOCONV_INVALID_ARGUMENT, "problem: %s is given twice",
                           field_names[field]);
        }
        const char *number = at;
        if (!read_int(&at, &value[field])) {
            return dc_fail(context, DOCONV_INVALID_ARGUMENT,
                           "problem: %s: \"%.16s\" is no number in 0..%d", field_names[field],
                           number, INT32_MAX);
        }
        given[field] = true;
    }
    for (int field = IC; field <= OC; field++) {
        if (!given[field] && field != IW) {
            return dc_fail(context, DOCONV_INVALID_ARGUMENT, "problem: %s is missing",
                           field_names[field]);
        }
    }
    static const int width_follows[][2] = {{IW, IH}, {OW, OH}, {KW, KH},
                                           {SW, SH}, {PW, PH}, {DW, DH}};
    for (size_t i = 0; i < sizeof width_follows / sizeof width_follows[0]; i++) {
        const int w = width_follows[i][0], h = width_follows[i][1];
        if (!given[w] && given[h]) {
            given[w] = true;
            value[w] = value[h];
        }
    }
    doconv_conv_desc d;
    doconv_conv_desc_init(&d);
    d.groups = given[G] ? value[G] : 1;
    d.n = given[MB] ? value[MB] : 1;
    d.cin = value[IC];
    d.h = value[IH];
    d.w = value[IW];
    d.cout = value[OC];
    d.kh = given[KH] ? value[KH] : 1;
    d.kw = given[KW] ? value[KW] : 1;
    d.stride_h = given[SH] ? value[SH] : 1;
    d.stride_w = given[SW] ? value[SW] : 1;
    d.pad_top = d.pad_bottom = value[PH];
    d.pad_left = d.pad_right = value[PW];
    d.dilation_h = value[DH] + 1;
    d.dilation_w = value[DW] + 1;
    if (given[OH]) {
        d.pad_bottom = pad_after(value[OH], d.stride_h, d.kh, d.dilation_h, d.h, d.pad_top);
    }
    if (given[OW]) {
        d.pad_right = pad_after(value[OW], d.stride_w, d.kw, d.dilation_w, d.w, d.pad_left);
    }
    if (*at == ':') {
        do {
            at++;
            const char *attribute = at;
            if (!read_attribute(&at, &d) || (*at != ',' && *at != '\0')) {
                return dc_fail(context, DOCONV_INVALID_ARGUMENT,
                               "problem: \"%.24s\" is no attribute", attribute);
            }
        } while (*at == ',');
    }
    if (d.d_mul > 0 && d.composition == DOCONV_COMPOSITION_NONE) {
        d.composition = DOCONV_COMPOSITION_KERNEL;
    }
    struct dc_problem problem;
    const doconv_status status = dc_problem_create(context, &d, &problem);
    if (status != DOCONV_OK) {
        return status;
    }
    if ((given[OH] && problem.hout != value[OH]) || (given[OW] && problem.wout != value[OW])) {
        const bool h = given[OH] && problem.hout != value[OH];
        return dc_fail(context, DOCONV_INVALID_PROBLEM,
                       "%s: %" PRId64 " disagrees with the input, which gives %" PRId64,
                       h ? "oh" : "ow", h ? value[OH] : value[OW], h ? problem.hout : problem.wout);
    }
    problem.desc.n = d.n;
    return dc_write_struct(context, DC_STRUCT(doconv_conv_desc), &problem.desc, desc, size);
}
