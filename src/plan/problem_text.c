/* SPDX-License-Identifier: MIT */
/*
 * Problems as text, as benchdnn writes and reads them, with attributes after a colon. Numbers don't
 * depend on the locale.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/versioned.h"
#include "plan/problem.h"

/* The field of a width comes right after its height's. */
enum field { G, MB, IC, IH, IW, OC, OH, OW, KH, KW, SH, SW, PH, PW, DH, DW, FIELDS };
static const char *const field_names[FIELDS] = {"g",  "mb", "ic", "ih", "iw", "oc", "oh", "ow",
                                                "kh", "kw", "sh", "sw", "ph", "pw", "dh", "dw"};

static const char *const compositions[] = {[DOCONV_COMPOSITION_NONE] = "",
                                           [DOCONV_COMPOSITION_KERNEL] = "kernel",
                                           [DOCONV_COMPOSITION_FEATURE] = "feature",
                                           [DOCONV_COMPOSITION_AUTO] = "auto"};
static const char *const mappings[] = {[DOCONV_MAPPING_PAPER] = "paper",
                                       [DOCONV_MAPPING_PYTORCH] = "pytorch",
                                       [DOCONV_MAPPING_TENSORFLOW] = "tensorflow"};

/* ---- writing ---- */

struct writer {
    char *text;
    size_t size, used;
    char separator[2]; /* before the next attribute */
};

static void put(struct writer *w, const char *text)
{
    const size_t length = strlen(text);
    if (w->used + length < w->size) {
        memcpy(w->text + w->used, text, length + 1);
    }
    w->used += length;
}

/* As printf() would, in a tenth of its time: plans spend most of theirs on keys. */
static void put_int(struct writer *w, int64_t value)
{
    char digits[24];
    size_t at = sizeof digits;
    digits[--at] = '\0';
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    put(w, digits + at);
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

/* An attribute and its value, which may be "". */
static void put_attribute(struct writer *w, const char *name, const char *value)
{
    put(w, w->separator);
    put(w, name);
    put(w, value);
    w->separator[0] = ',';
}

static void put_fields(struct writer *w, const struct dc_problem *p)
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
    for (int i = 0; i < FIELDS; i++) {
        if (i == G && values[i] == 1) {
            continue;
        }
        put(w, field_names[i]);
        put_int(w, values[i]);
        put(w, i == MB ? "_" : "");
    }
}

static void put_attributes(struct writer *w, const doconv_conv_desc *d)
{
    if (d->src_layout != DOCONV_NCHW) {
        put_attribute(w, "src=", doconv_layout_string(d->src_layout));
    }
    if (d->dst_layout != DOCONV_NCHW) {
        put_attribute(w, "dst=", doconv_layout_string(d->dst_layout));
    }
    if (d->has_bias) {
        put_attribute(w, "bias", "");
    }
    if (d->residual) {
        put_attribute(w, "residual", "");
    }
    if (d->relu) {
        put_attribute(w, "relu", "");
    }
    if (d->clamp) {
        put_attribute(w, "clamp=", "");
        put_float(w, d->clamp_lo);
        put(w, "/");
        put_float(w, d->clamp_hi);
    }
    if (d->accuracy != DOCONV_ACCURACY_DEFAULT) {
        put_attribute(w, "accuracy=", d->accuracy == DOCONV_ACCURACY_STRICT ? "strict" : "fast");
    }
    if (d->d_mul > 0) {
        char d_mul[24];
        snprintf(d_mul, sizeof d_mul, "%" PRId64, d->d_mul);
        put_attribute(w, "dmul=", d_mul);
        put_attribute(w, "composition=", compositions[d->composition]);
    }
    if (d->mapping != DOCONV_MAPPING_PAPER) {
        put_attribute(w, "mapping=", mappings[d->mapping]);
    }
    if (d->add_identity) {
        put_attribute(w, "identity", "");
    }
}

void dc_problem_format(const struct dc_problem *p, char *text, size_t size)
{
    struct writer w = {.text = text, .size = size, .separator = ":"};
    put_fields(&w, p);
    put_attributes(&w, &p->desc);
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

/* ---- reading words and numbers ---- */

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

/* ---- reading attributes ---- */

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
        const bool known =
            read_word(at, compositions, DOCONV_COMPOSITION_KERNEL, DOCONV_COMPOSITION_AUTO, &word);
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

/* The attributes after each colon or comma, to the end of the text. */
static doconv_status read_attributes(doconv_context *context, const char *at, bool bare_name,
                                     doconv_conv_desc *d)
{
    while (*at != '\0') {
        const char *attribute = ++at;
        if (!read_attribute(&at, d) || (*at != ',' && *at != '\0')) {
            return dc_fail(context, DOCONV_INVALID_ARGUMENT, "problem: \"%.24s\" is no attribute%s",
                           attribute, bare_name ? " (a name with a colon needs quotes)" : "");
        }
    }
    if (d->d_mul > 0 && d->composition == DOCONV_COMPOSITION_NONE) {
        d->composition = DOCONV_COMPOSITION_KERNEL;
    }
    return DOCONV_OK;
}

/* ---- reading fields ---- */

struct fields {
    int64_t value[FIELDS];
    bool given[FIELDS];
    bool bare_name; /* there is a name, without quotes */
};

/*
 * The name after n, and how often its network has the problem: "NAME", "NAME"*4, or without quotes,
 * where it ends at a colon. It is the last of a problem before the attributes.
 */
static doconv_status read_name(doconv_context *context, const char **at, struct fields *f)
{
    const char *c = *at;
    f->bare_name = *c != '"';
    if (f->bare_name) {
        *at = c + strcspn(c, ":");
        return DOCONV_OK;
    }
    c = strchr(c + 1, '"');
    if (c == NULL) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "problem: the name after n\" has no end");
    }
    const char *end = ++c;
    int64_t count;
    bool valid = true;
    if (*c == '*') {
        c++;
        valid = read_int(&c, &count);
    }
    if (!valid || (*c != '\0' && *c != ':')) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT,
                       "problem: \"%.16s\" stands after the name, which is the last field", end);
    }
    *at = c;
    return DOCONV_OK;
}

static doconv_status read_field(doconv_context *context, const char **at, struct fields *f)
{
    static const char *const depths[] = {"id", "od", "kd", "sd", "pd", "dd"};
    const char *start = *at;
    int field = FIELDS - 1;
    while (field >= 0 && !take(at, field_names[field])) {
        field--;
    }
    if (field < 0) {
        for (size_t i = 0; i < sizeof depths / sizeof depths[0]; i++) {
            if (take(at, depths[i])) {
                return dc_fail(context, DOCONV_UNSUPPORTED,
                               "problem: %s: 3-D convolution is not supported", depths[i]);
            }
        }
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "problem: no field is called \"%.16s\"",
                       start);
    }
    if (f->given[field]) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "problem: %s is given twice",
                       field_names[field]);
    }
    const char *number = *at;
    if (!read_int(at, &f->value[field])) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT,
                       "problem: %s: \"%.16s\" is no number in 0..%d", field_names[field], number,
                       INT32_MAX);
    }
    f->given[field] = true;
    return DOCONV_OK;
}

/* Up to the colon or the end of the text. */
static doconv_status read_fields(doconv_context *context, const char **at, struct fields *f)
{
    doconv_status status = DOCONV_OK;
    while (status == DOCONV_OK && **at != '\0' && **at != ':') {
        if (**at == '_') {
            ++*at;
        } else if (take(at, "n")) {
            status = read_name(context, at, f);
        } else {
            status = read_field(context, at, f);
        }
    }
    return status;
}

static void give(struct fields *f, int field, int64_t value)
{
    f->given[field] = true;
    f->value[field] = value;
}

/*
 * Gives the fields of an axis that has none: widths are the heights, and a problem of widths alone
 * is one-dimensional, of height 1. Where both axes have a field, each must have all that it needs:
 * whatever were taken from the other could be another problem than benchdnn's.
 */
static doconv_status complete_fields(doconv_context *context, struct fields *f)
{
    static const int heights[] = {IH, OH, KH, SH, PH, DH};
    static const int needed[] = {IC, IH, IW, OC};
    const size_t count = sizeof heights / sizeof heights[0];
    bool any_height = false, any_width = false;
    for (size_t i = 0; i < count; i++) {
        any_height = any_height || f->given[heights[i]];
        any_width = any_width || f->given[heights[i] + 1];
    }
    for (size_t i = 0; i < count && !any_width; i++) {
        if (f->given[heights[i]]) {
            give(f, heights[i] + 1, f->value[heights[i]]);
        }
    }
    if (!any_height && any_width) {
        give(f, IH, 1);
    }
    int missing = -1;
    for (int i = 0; i < 4 && missing < 0; i++) {
        missing = f->given[needed[i]] ? -1 : needed[i];
    }
    if (missing < 0 && any_height && f->given[KH] != f->given[KW]) {
        missing = f->given[KH] ? KW : KH;
    }
    if (missing < 0) {
        return DOCONV_OK;
    }
    return dc_fail(context, DOCONV_INVALID_ARGUMENT, "problem: %s is missing%s",
                   field_names[missing],
                   any_height && (missing == IW || missing == KW)
                       ? ": widths are the heights only where none is given"
                       : "");
}

/*
 * The padding of one axis. An output decides what comes after the image, and in the absence of
 * padding half of the whole comes before it; its size is checked by the validation that follows.
 */
static void set_padding(const struct fields *f, int out, int pad, int64_t reach, int64_t stride,
                        int64_t size, int64_t *before, int64_t *after)
{
    *before = *after = f->value[pad];
    if (f->given[out]) {
        const int64_t whole = (f->value[out] - 1) * stride + reach - size;
        if (!f->given[pad]) {
            *before = whole > 0 ? whole / 2 : 0;
        }
        *after = whole > *before ? whole - *before : 0;
    }
}

static void describe_fields(const struct fields *f, doconv_conv_desc *d)
{
    doconv_conv_desc_init(d);
    const struct {
        int field;
        int64_t *member;
    } dimensions[] = {{G, &d->groups},    {MB, &d->n},       {IC, &d->cin}, {IH, &d->h},
                      {IW, &d->w},        {OC, &d->cout},    {KH, &d->kh},  {KW, &d->kw},
                      {SH, &d->stride_h}, {SW, &d->stride_w}};
    for (size_t i = 0; i < sizeof dimensions / sizeof dimensions[0]; i++) {
        if (f->given[dimensions[i].field]) {
            *dimensions[i].member = f->value[dimensions[i].field];
        }
    }
    d->dilation_h = f->value[DH] + 1;
    d->dilation_w = f->value[DW] + 1;
    set_padding(f, OH, PH, (d->kh - 1) * d->dilation_h + 1, d->stride_h, d->h, &d->pad_top,
                &d->pad_bottom);
    set_padding(f, OW, PW, (d->kw - 1) * d->dilation_w + 1, d->stride_w, d->w, &d->pad_left,
                &d->pad_right);
}

static doconv_status check_output(doconv_context *context, const struct fields *f, int field,
                                  int64_t output)
{
    if (!f->given[field] || f->value[field] == output) {
        return DOCONV_OK;
    }
    return dc_fail(context, DOCONV_INVALID_PROBLEM,
                   "%s: %" PRId64 " disagrees with the input, which gives %" PRId64,
                   field_names[field], f->value[field], output);
}

doconv_status doconv_conv_desc_parse_sized(doconv_context *context, const char *text,
                                           doconv_conv_desc *desc, size_t size)
{
    if (text == NULL || desc == NULL) {
        return dc_fail(context, DOCONV_INVALID_ARGUMENT, "%s: NULL",
                       text == NULL ? "text" : "desc");
    }
    struct fields fields = {.bare_name = false};
    doconv_conv_desc d;
    struct dc_problem problem;
    doconv_status status = read_fields(context, &text, &fields);
    if (status == DOCONV_OK) {
        status = complete_fields(context, &fields);
    }
    if (status == DOCONV_OK) {
        describe_fields(&fields, &d);
        status = read_attributes(context, text, fields.bare_name, &d);
    }
    if (status == DOCONV_OK) {
        status = dc_problem_create(context, &d, &problem);
    }
    if (status == DOCONV_OK) {
        status = check_output(context, &fields, OH, problem.hout);
    }
    if (status == DOCONV_OK) {
        status = check_output(context, &fields, OW, problem.wout);
    }
    if (status != DOCONV_OK) {
        return status;
    }
    problem.desc.n = d.n;
    return dc_write_struct(context, DC_STRUCT(doconv_conv_desc), &problem.desc, desc, size);
}
