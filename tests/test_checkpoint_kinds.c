/* SPDX-License-Identifier: MIT */
/*
 * Checkpoints as users have them: other types, other modules' tensors, optimizers' state, wrappers'
 * names, shards. Each is folded right, left alone and told, or refused with the reason.
 */
#include <math.h>

#include "checkpoint_files.h"

/* What the callbacks were told. */
struct told {
    char layers[1024], notes[2048];
};

static void hear_layer(void *user, const doconv_folded_layer *layer)
{
    struct told *told = user;
    const doconv_fold_desc *d = layer->desc;
    sprintf(told->layers + strlen(told->layers), "%s>%s %s %dx%d%s m%d i%d;", layer->name,
            layer->weight, layer->type, (int)d->kh, (int)d->kw, layer->assumed_square ? "?" : "",
            (int)d->mapping, d->add_identity);
}

static void hear_note(void *user, const char *tensor, const char *why)
{
    struct told *told = user;
    sprintf(told->notes + strlen(told->notes), "%s: %s;", tensor, why);
}

struct fixture {
    doconv_context *context;
    struct builder b;
    struct told told;
    doconv_fold_checkpoint_options options;
    void *result;
    size_t size;
};

static void begin(struct fixture *f)
{
    f->context = open_context();
    f->options = fold_options();
    f->options.report = hear_layer;
    f->options.note = hear_note;
    f->options.report_user = &f->told;
    f->result = NULL;
    begin_file(&f->b, "");
}

/* Folds what was built; a result is freed by the next call, or end(). */
static doconv_status try_fold(struct fixture *f)
{
    doconv_checkpoint_free(f->context, f->result);
    f->told = (struct told){"", ""};
    struct builder *copy = malloc(sizeof *copy);
    memcpy(copy, &f->b, sizeof *copy);
    const struct bytes file = end_file(copy);
    const doconv_status status =
        doconv_fold_checkpoint(f->context, file.data, file.size, &f->options, &f->result, &f->size);
    free(file.data);
    free(copy);
    return status;
}

static struct view fold(struct fixture *f)
{
    expect_ok(try_fold(f));
    return look(f->result, f->size);
}

static void expect_refused(struct fixture *f, doconv_status status, const char *detail)
{
    expect_status(try_fold(f), status);
    expect_error(f->context, "checkpoint: ", detail);
    assert_null(f->result);
}

static void expect_has(const char *text, const char *part)
{
    if (strstr(text, part) == NULL) {
        print_error("\"%s\" lacks \"%s\"\n", text, part);
        fail();
    }
}

static void end(struct fixture *f)
{
    doconv_checkpoint_free(f->context, f->result);
    doconv_context_destroy(f->context);
}

/* A layer, 2 outputs, 1 input, 2x2; with an identity, as the official module writes it. */
static void add_layer(struct builder *b, const char *name, bool identity)
{
    char text[64];
    static const char *const parts[] = {"W", "D", "d_diag"};
    for (int i = 0; i < 2 + identity; i++) {
        snprintf(text, sizeof text, "%s.%s", name, parts[i]);
        add_tensor(b, text, "F32", i == 0 ? "[2,1,4]" : "[1,4,4]", i == 0 ? 32 : 64);
    }
}

/* ---- types ---- */

static void put(unsigned char *at, const char *type, double value)
{
    const float single = (float)value;
    uint32_t bits;
    memcpy(&bits, &single, sizeof bits);
    /* exact values only: the upper half of a float, and a half's bits by its exponent's change */
    const uint16_t upper = (uint16_t)(bits >> 16),
                   half = (uint16_t)((bits >> 16 & 0x8000) |
                                     (((bits >> 23 & 255) - 112) << 10 | (bits >> 13 & 1023)));
    if (strcmp(type, "F64") == 0) {
        memcpy(at, &value, 8);
    } else if (strcmp(type, "F32") == 0) {
        memcpy(at, &single, 4);
    } else {
        memcpy(at, strcmp(type, "F16") == 0 ? &half : &upper, 2);
    }
}

/* Each of W, D and the identity of each type: W's is the result's, or the option's. */
static void test_types(void **state)
{
    (void)state;
    static const char *const types[] = {"F32", "F16", "BF16", "F64"};
    static const size_t bytes[] = {4, 2, 2, 8};
    for (int at = 0; at < 4 * 4 * 4 * 5; at++) {
        const int w = at % 4, d = at / 4 % 4, identity = at / 16 % 4, chosen = at / 64;
        struct fixture f;
        begin(&f);
        f.options.type = chosen;
        unsigned char *data = add_tensor(&f.b, "a.W", types[w], "[1,1,2]", 2 * bytes[w]);
        put(data, types[w], 1.5);
        put(data + bytes[w], types[w], -0.25);
        data = add_tensor(&f.b, "a.D", types[d], "[1,1,2]", 2 * bytes[d]);
        put(data, types[d], 0.5);
        put(data + bytes[d], types[d], -3);
        data = add_tensor(&f.b, "a.d_diag", types[identity], "[1,1,2]", 2 * bytes[identity]);
        put(data, types[identity], 1);
        put(data + bytes[identity], types[identity], 2);
        const struct view view = fold(&f);
        const int out = chosen == 0 ? w : chosen - 1;
        unsigned char expected[8];
        put(expected, types[out], 1.5 * 1.5 + 0.25); /* 2.5 */
        assert_memory_equal(expect_tensor(&view, "a.weight", types[out], "[1,1,1,1]", bytes[out]),
                            expected, bytes[out]);
        free(view.header);
        end(&f);
    }
}

/* A 1x1 layer's W from one type to another: rounding, the ends of the range, no number. */
static void test_rounding(void **state)
{
    (void)state;
    static const struct {
        float from;
        uint16_t half, bfloat;
    } rows[] = {
        {1, 0x3c00, 0x3f80},
        {-2, 0xc000, 0xc000},
        {0, 0, 0},
        {-0.0f, 0x8000, 0x8000},
        {1.00048828125f, 0x3c00, 0x3f80}, /* half way: to the even one */
        {1.00146484375f, 0x3c02, 0x3f80},
        {1.0005f, 0x3c01, 0x3f80},
        {1.99999f, 0x4000, 0x4000},
        {0x1p-24f, 1, 0x3380},
        {0x1p-25f, 0, 0x3300},
        {0x1.8p-25f, 1, 0x3340},
        {0x1.ffcp-15f, 0x3ff + 1, 0x3880},
        {0x1.ff8p-15f, 0x3ff, 0x3880},
        {65504, 0x7bff, 0x4780},
        {65519, 0x7bff, 0x4780},
        {INFINITY, 0x7c00, 0x7f80},
        {-INFINITY, 0xfc00, 0xff80},
        {1.00390625f, 0x3c04, 0x3f80},
        {1.01171875f, 0x3c0c, 0x3f82},
    };
    struct fixture f;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        for (int type = DOCONV_FOLD_F16; type <= DOCONV_FOLD_BF16; type++) {
            static const char *const everything[] = {"*"};
            begin(&f);
            f.options.only = everything;
            f.options.only_count = 1;
            f.options.type = type;
            memcpy(add_tensor(&f.b, "a.W", "F32", "[1,1,1]", 4), &rows[i].from, 4);
            const struct view view = fold(&f);
            const bool is_half = type == DOCONV_FOLD_F16;
            uint16_t seen;
            memcpy(&seen,
                   expect_tensor(&view, "a.weight", is_half ? "F16" : "BF16", "[1,1,1,1]", 2), 2);
            assert_int_equal(seen, is_half ? rows[i].half : rows[i].bfloat);
            free(view.header);
            end(&f);
        }
    }
    /* Nothing becomes infinite without a word, and no number stays none. */
    static const double large[] = {65520, 1e39};
    static const int types[] = {DOCONV_FOLD_F16, DOCONV_FOLD_KEEP};
    for (int i = 0; i < 3; i++) {
        static const char *const everything[] = {"a*"};
        const double value = i < 2 ? large[i] : (double)NAN;
        begin(&f);
        f.options.only = everything;
        f.options.only_count = 1;
        f.options.type = types[i % 2];
        memcpy(add_tensor(&f.b, "a.W", "F64", "[1,1,1]", 8), &value, 8);
        if (i < 2) {
            expect_refused(&f, DOCONV_OVERFLOW, "too large");
        } else {
            const struct view view = fold(&f);
            uint16_t seen;
            memcpy(&seen, expect_tensor(&view, "a.weight", "F16", "[1,1,1,1]", 2), 2);
            assert_true((seen & 0x7c00) == 0x7c00 && (seen & 0x3ff) != 0);
            free(view.header);
        }
        end(&f);
    }
}

/* ---- what is no layer ---- */

static void test_left_alone(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f);
    add_layer(&f.b, "conv", true);
    const void *moe = add_tensor(&f.b, "moe.W", "F32", "[8,16,32]", 16384),
               *gat = add_tensor(&f.b, "gat.W", "F32", "[2,3,1]", 24);
    add_tensor(&f.b, "attn.D", "F32", "[2,2,2]", 32);
    add_tensor(&f.b, "rnn.W", "F32", "[2,2,3]", 48);
    add_tensor(&f.b, "rnn.D", "F32", "[2,2,2]", 32);
    add_tensor(&f.b, "codes.W", "I64", "[1,1,1]", 8);
    add_tensor(&f.b, "codes.D", "I64", "[1,1,1]", 8);
    add_layer(&f.b, "exp_avg.conv", false);
    add_layer(&f.b, "slot7.conv", false);
    add_layer(&f.b, "optimizer.x", true);
    struct view view = fold(&f);
    assert_string_equal(f.told.layers, "conv>conv.weight F32 2x2? m1 i0;");
    assert_memory_equal(expect_tensor(&view, "moe.W", "F32", "[8,16,32]", 16384), moe, 16384);
    assert_memory_equal(expect_tensor(&view, "gat.W", "F32", "[2,3,1]", 24), gat, 24);
    expect_tensor(&view, "exp_avg.conv.D", "F32", "[1,4,4]", 64);
    expect_tensor(&view, "optimizer.x.d_diag", "F32", "[1,4,4]", 64);
    static const char *const notes[] = {"moe.W: it has no D, and is no 1x1 layer's W;",
                                        "gat.W: it has no D: only if it is named",
                                        "attn.D: it has no W;",
                                        "rnn.W: its D_mul is 2, and W's 3;",
                                        "codes.W: type I64, only F32",
                                        "exp_avg.conv.W: an optimizer's state",
                                        "slot7.conv.W: an optimizer's state",
                                        "optimizer.x.W: an optimizer's state"};
    for (size_t i = 0; i < sizeof notes / sizeof notes[0]; i++) {
        expect_has(f.told.notes, notes[i]);
    }
    free(view.header);
    /* One is said to be a layer. */
    static const char *const only[] = {"gat", "conv"}, *const exclude[] = {"*v"};
    f.options.only = only;
    f.options.only_count = 2;
    view = fold(&f);
    assert_memory_equal(expect_tensor(&view, "gat.weight", "F32", "[2,3,1,1]", 24), gat, 24);
    expect_tensor(&view, "conv.weight", "F32", "[2,1,2,2]", 32);
    expect_has(f.told.notes, "moe.W: it is not among the layers that were asked for;");
    free(view.header);
    f.options.exclude = exclude;
    f.options.exclude_count = 1;
    view = fold(&f);
    expect_tensor(&view, "conv.d_diag", "F32", "[1,4,4]", 64);
    expect_has(f.told.notes, "conv.W: it was excluded;");
    free(view.header);
    /* Said to be one, it must be one. */
    static const char *const wrong[] = {"rnn"};
    f.options.only = wrong;
    f.options.only_count = 1;
    expect_refused(&f, DOCONV_INVALID_FILE, "tensor rnn.D: its D_mul is 2, and W's 3");
    end(&f);
}

static void test_patterns(void **state)
{
    (void)state;
    static const struct {
        const char *pattern;
        bool matches;
    } rows[] = {{"net.0.conv", true}, {"*", true},      {"net.?.conv", true},
                {"net.?conv", false}, {"*conv", true},  {"*con", false},
                {"net*", true},       {"*.0.*", true},  {"**v*", true},
                {"", false},          {"?", false},     {"n*t*c*v", true},
                {"net.0.con", false}, {"*.1.*", false}, {"net.0.convs", false},
                {"*n?", true},        {"[n]et*", false}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct fixture f;
        begin(&f);
        f.options.only = &rows[i].pattern;
        f.options.only_count = 1;
        add_layer(&f.b, "net.0.conv", true);
        expect_status(try_fold(&f), rows[i].matches ? DOCONV_OK : DOCONV_NOT_FOUND);
        end(&f);
    }
}

/* ---- what a file does not tell ---- */

static void test_identity_and_mapping(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f);
    add_layer(&f.b, "a", false);
    expect_refused(&f, DOCONV_INVALID_ARGUMENT, "layer a: no d_diag is stored with its D");
    f.options.add_identity = DOCONV_FOLD_IDENTITY_ADD;
    free(fold(&f).header);
    assert_string_equal(f.told.layers, "a>a.weight F32 2x2? m1 i1;");
    f.options.add_identity = DOCONV_FOLD_IDENTITY_NONE;
    free(fold(&f).header);
    assert_string_equal(f.told.layers, "a>a.weight F32 2x2? m1 i0;");
    end(&f);
    /* 4 -> 8 channels in 2 groups: the mappings differ, and only the official module's is known. */
    for (int identity = 0; identity < 2; identity++) {
        begin(&f);
        add_tensor(&f.b, "g.W", "F32", "[8,2,1]", 64);
        add_tensor(&f.b, "g.D", "F32", "[4,1,1]", 16);
        if (identity) {
            add_tensor(&f.b, "g.d_diag", "F32", "[4,1,1]", 16);
        }
        f.options.add_identity = DOCONV_FOLD_IDENTITY_ADD;
        if (identity) {
            free(fold(&f).header);
            expect_has(f.told.layers, "m1 i0");
        } else {
            expect_refused(&f, DOCONV_INVALID_ARGUMENT, "layer g: 2 groups, and no d_diag");
        }
        const doconv_mapping mapping = DOCONV_MAPPING_PAPER;
        f.options.mapping = &mapping;
        free(fold(&f).header);
        expect_has(f.told.layers, "m0");
        end(&f);
    }
    /* Depthwise layers of one output a channel have one mapping. */
    begin(&f);
    add_tensor(&f.b, "g.W", "F32", "[4,1,1]", 16);
    add_tensor(&f.b, "g.D", "F32", "[4,1,1]", 16);
    f.options.add_identity = DOCONV_FOLD_IDENTITY_ADD;
    free(fold(&f).header);
    end(&f);
}

static void test_kernel_patterns(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f);
    static const char *const names[] = {"m.a.h17", "m.b.h17", "m.v71", "m.c"};
    for (int i = 0; i < 4; i++) {
        char text[32];
        sprintf(text, "%s.W", names[i]);
        add_tensor(&f.b, text, "F32", i < 3 ? "[1,1,7]" : "[1,1,9]", i < 3 ? 28 : 36);
        sprintf(text, "%s.D", names[i]);
        add_tensor(&f.b, text, "F32", i < 3 ? "[1,7,7]" : "[1,9,9]", i < 3 ? 196 : 324);
        sprintf(text, "%s.d_diag", names[i]);
        add_tensor(&f.b, text, "F32", i < 3 ? "[1,7,7]" : "[1,9,9]", i < 3 ? 196 : 324);
    }
    expect_refused(&f, DOCONV_INVALID_ARGUMENT, "layer m.a.h17: its 7 taps are no square");
    /* The whole name before patterns, and of those the first that fits. */
    doconv_fold_kernel kernels[] = {{"*", 7, 1}, {"m.b.h17", 1, 7}, {"*", 1, 9}};
    f.options.kernels = kernels;
    f.options.kernel_count = 2;
    free(fold(&f).header);
    assert_string_equal(f.told.layers,
                        "m.a.h17>m.a.h17.weight F32 7x1 m1 i0;m.b.h17>m.b.h17.weight F32 1x7 m1 i0;"
                        "m.v71>m.v71.weight F32 7x1 m1 i0;m.c>m.c.weight F32 3x3? m1 i0;");
    f.options.kernel_count = 3;
    free(fold(&f).header);
    expect_has(f.told.layers, "m.c>m.c.weight F32 1x9 m1");
    kernels[2] = (doconv_fold_kernel){"*.c", 1, 8};
    expect_refused(&f, DOCONV_INVALID_ARGUMENT, "\"*.c\": no D of its layers has the rows of 1x8");
    kernels[2] = (doconv_fold_kernel){"x*", 3, 3};
    expect_refused(&f, DOCONV_INVALID_ARGUMENT, "no DO-Conv layer is called \"x*\"");
    end(&f);
}

/* ---- names ---- */

static void test_names(void **state)
{
    (void)state;
    static const struct {
        const char *strip, *rename, *layer, *bias;
    } rows[] = {
        {NULL, NULL, "module._orig_mod.ema.c.weight", "module.bias"},
        {"", NULL, "c.weight", "bias"},
        {"", "{name}.W", "c.W", "bias"},
        {"module.", "net.{name}.kernel", "net._orig_mod.ema.c.kernel", "bias"},
        {"module", "{name}", "._orig_mod.ema.c", ".bias"},
        {"mod.", NULL, "module._orig_mod.ema.c.weight", "module.bias"},
    };
    struct fixture f;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        begin(&f);
        add_layer(&f.b, "module._orig_mod.ema.c", true);
        add_tensor(&f.b, "module.bias", "F32", "[2]", 8);
        f.options.strip_prefix = rows[i].strip;
        f.options.rename = rows[i].rename;
        const struct view view = fold(&f);
        expect_tensor(&view, rows[i].layer, "F32", "[2,1,2,2]", 32);
        expect_tensor(&view, rows[i].bias, "F32", "[2]", 8);
        free(view.header);
        end(&f);
    }
    /* Two would be one: a model and its average. */
    begin(&f);
    add_layer(&f.b, "c", true);
    add_layer(&f.b, "ema.c", true);
    free(fold(&f).header);
    f.options.strip_prefix = "";
    expect_refused(&f, DOCONV_INVALID_FILE, "it is there already");
    end(&f);
    /* A module saved by itself. */
    begin(&f);
    add_tensor(&f.b, "W", "F32", "[1,1,1]", 4);
    add_tensor(&f.b, "D", "F32", "[1,1,1]", 4);
    add_tensor(&f.b, "D_diag", "F32", "[1,1,1]", 4);
    f.options.rename = "{name}.W";
    const struct view view = fold(&f);
    expect_tensor(&view, "W", "F32", "[1,1,1,1]", 4);
    free(view.header);
    end(&f);
}

/* What safetensors reads too. */
static void test_metadata(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"\"__metadata__\":null", "{\"a.weight\""},
        {"\"__metadata__\":{\"k\":\"x\\u0000y\"}", "{\"__metadata__\":{\"k\":\"x\\u0000y\"},"}};
    for (int i = 0; i < 2; i++) {
        struct fixture f;
        begin(&f);
        begin_file(&f.b, rows[i][0]);
        add_layer(&f.b, "a", true);
        const struct view view = fold(&f);
        assert_ptr_equal(strstr(view.header, rows[i][1]), view.header);
        free(view.header);
        end(&f);
    }
    struct fixture f;
    begin(&f);
    add_tensor(&f.b, "a", "F32\\u0000", "[1]", 4);
    expect_refused(&f, DOCONV_INVALID_FILE, "a dtype that is no text");
    end(&f);
}

/* ---- shards ---- */

struct shards {
    struct bytes file[2];
    int opened;
};

static doconv_status open_shard(void *user, const char *name, const void **data, size_t *size)
{
    struct shards *shards = user;
    shards->opened++;
    const int i = strcmp(name, "one") == 0 ? 0 : strcmp(name, "two") == 0 ? 1 : -1;
    if (i < 0) {
        return DOCONV_NOT_FOUND;
    }
    *data = shards->file[i].data;
    *size = shards->file[i].size;
    return DOCONV_OK;
}

static void test_shards(void **state)
{
    (void)state;
    static const struct {
        const char *index;
        doconv_status status;
        const char *detail;
    } rows[] = {
        {"{\"metadata\":{\"total_size\":1},\"weight_map\":{\"a.W\":\"one\",\"a.D\":\"two\","
         "\"a.d_diag\":\"two\",\"b\":\"one\"}}",
         DOCONV_OK, ""},
        {"{\"weight_map\":{\"a.W\":\"one\",\"c\":\"two\"}}", DOCONV_INVALID_FILE,
         "tensor c: the index has it in two, which hasn't"},
        {"{\"weight_map\":{\"a.W\":\"none\"}}", DOCONV_NOT_FOUND, "shard none: it can't be read"},
        {"{\"weight_map\":{\"a.W\":\"../one\"}}", DOCONV_INVALID_FILE, "its weight_map"},
        {"{\"weight_map\":{\"a.W\":\"..\"}}", DOCONV_INVALID_FILE, "its weight_map"},
        {"{\"weight_map\":{\"a.W\":\"\"}}", DOCONV_INVALID_FILE, "its weight_map"},
        {"{\"weight_map\":{\"a.W\":\"one\\u0000\"}}", DOCONV_INVALID_FILE, "its weight_map"},
        {"{\"weight_map\":{\"a.W\":1}}", DOCONV_INVALID_FILE, "its weight_map"},
        {"{\"weight_map\":[]}", DOCONV_INVALID_FILE, "its weight_map"},
        {"{\"other\":{}}", DOCONV_INVALID_FILE, "its weight_map"},
        {"{\"weight_map\":{\"a\":", DOCONV_INVALID_FILE, "the index, byte"},
        {"{\"weight_map\":{}}", DOCONV_NOT_FOUND, "no DO-Conv layer"},
    };
    struct fixture f;
    begin(&f);
    static struct builder b;
    struct shards shards;
    begin_file(&b, "\"__metadata__\":{\"format\":\"pt\"}");
    add_tensor(&b, "b", "U8", "[3]", 3);
    const float w[] = {2, 3};
    memcpy(add_tensor(&b, "a.W", "F32", "[1,1,2]", 8), w, 8);
    shards.file[0] = end_file(&b);
    begin_file(&b, "\"__metadata__\":{\"format\":\"pt\"}");
    const float d[] = {1, 5}, identity[] = {1, 0};
    memcpy(add_tensor(&b, "a.D", "F32", "[1,1,2]", 8), d, 8);
    memcpy(add_tensor(&b, "a.d_diag", "F32", "[1,1,2]", 8), identity, 8);
    shards.file[1] = end_file(&b);
    f.options.open = open_shard;
    f.options.open_user = &shards;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        shards.opened = 0;
        void *result = NULL;
        size_t size;
        expect_status(doconv_fold_checkpoint(f.context, rows[i].index, strlen(rows[i].index),
                                             &f.options, &result, &size),
                      rows[i].status);
        if (rows[i].status != DOCONV_OK) {
            expect_error(f.context, "checkpoint: ", rows[i].detail);
            continue;
        }
        assert_int_equal(shards.opened, 2);
        const struct view view = look(result, size);
        assert_true(float_at(expect_tensor(&view, "a.weight", "F32", "[1,1,1,1]", 4), 0) == 19);
        expect_tensor(&view, "b", "U8", "[3]", 3);
        expect_has(view.header, "{\"__metadata__\":{\"format\":\"pt\"},");
        free(view.header);
        doconv_checkpoint_free(f.context, result);
    }
    /* A tensor twice, and a shard that is damaged. */
    void *result = NULL;
    size_t size;
    const struct bytes second = shards.file[1];
    shards.file[1] = shards.file[0];
    expect_status(doconv_fold_checkpoint(f.context, rows[0].index, strlen(rows[0].index),
                                         &f.options, &result, &size),
                  DOCONV_INVALID_FILE);
    expect_error(f.context, "two shards have it", NULL);
    shards.file[1] = (struct bytes){second.data, second.size - 1};
    expect_status(doconv_fold_checkpoint(f.context, rows[0].index, strlen(rows[0].index),
                                         &f.options, &result, &size),
                  DOCONV_INVALID_FILE);
    expect_error(f.context, "shard two: tensor a.d_diag", NULL);
    free(shards.file[0].data);
    free(second.data);
    end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_left_alone),
        cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_identity_and_mapping),
        cmocka_unit_test(test_kernel_patterns),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_metadata),
        cmocka_unit_test(test_shards),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
