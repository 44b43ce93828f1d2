/* SPDX-License-Identifier: MIT */
/*
 * The files of networks: their layers are those of network_layers.tsv, in that order and so often;
 * the graphs are whole; malformed files are refused with a message.
 *
 * usage: test_networks SOURCE_ROOT
 */
#define _DEFAULT_SOURCE /* strsep, mkstemps */
#include <unistd.h>

#include "api_support.h"
#include "network_list.h"

static const char *root;

static FILE *open_file(const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", root, name);
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        fail_msg("%s can't be read", path);
    }
    return file;
}

static struct network load(const char *name)
{
    struct network net;
    char error[256] = "";
    if (network_load(name, &net, error, sizeof error) != 0) {
        fail_msg("%s", error);
    }
    return net;
}

static struct network_graph load_graph(const char *name)
{
    struct network_graph graph;
    char error[256] = "";
    if (network_graph_load(name, &graph, error, sizeof error) != 0) {
        fail_msg("%s", error);
    }
    return graph;
}

static double gmac(const doconv_conv_desc *d)
{
    int64_t shape[4];
    expect_ok(doconv_conv_dst_shape(NULL, d, shape));
    return 1e-9 * (double)(shape[1] * shape[2] * shape[3]) * (double)(d->cin / d->groups) *
           (double)(d->kh * d->kw);
}

/* A layer's line in network_layers.tsv. */
static void format_layer(const struct network *net, int i, char *line, size_t size)
{
    const doconv_conv_desc *d = &net->layer[i].desc;
    const int64_t numbers[] = {d->cin,        d->h,          d->w,          d->cout,
                               d->kh,         d->kw,         d->stride_h,   d->stride_w,
                               d->pad_top,    d->pad_left,   d->pad_bottom, d->pad_right,
                               d->dilation_h, d->dilation_w, d->groups};
    int used = snprintf(line, size, "%s\t%d", net->name, net->layer[i].count);
    for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++) {
        used += snprintf(line + used, size - (size_t)used, "\t%" PRId64, numbers[k]);
    }
    snprintf(line + used, size - (size_t)used, "\n");
}

static void test_layers(void **state)
{
    (void)state;
    FILE *file = open_file("tests/network_layers.tsv");
    char expected[512], line[512];
    assert_non_null(fgets(expected, sizeof expected, file)); /* the header */
    char names[16][NETWORK_NAME_SIZE];
    const int networks = network_names(names, 16);
    assert_int_equal(networks, 7);
    for (int n = 0; n < networks; n++) {
        struct network net = load(names[n]);
        for (int i = 0; i < net.layers; i++) {
            const doconv_conv_desc *d = &net.layer[i].desc;
            assert_true(d->n == 1 && d->src_layout == DOCONV_NCHW && d->dst_layout == DOCONV_NCHW);
            assert_true(!d->has_bias && !d->residual && !d->relu && !d->clamp);
            format_layer(&net, i, line, sizeof line);
            assert_non_null(fgets(expected, sizeof expected, file));
            assert_string_equal(line, expected);
        }
        network_free(&net);
    }
    assert_null(fgets(expected, sizeof expected, file));
    fclose(file);
}

/* The table in networks/README.md: layers, distinct ones, 10^9 products. */
static void test_figures(void **state)
{
    (void)state;
    FILE *file = open_file("networks/README.md");
    int found = 0;
    for (char line[512]; fgets(line, sizeof line, file) != NULL;) {
        char name[64];
        int layers, unique;
        double figure;
        if (sscanf(line, "| %63s | %d | %d | %lf |", name, &layers, &unique, &figure) != 4) {
            continue;
        }
        struct network net = load(name);
        int count = 0;
        double sum = 0;
        for (int i = 0; i < net.layers; i++) {
            count += net.layer[i].count;
            sum += net.layer[i].count * gmac(&net.layer[i].desc);
        }
        assert_int_equal(count, layers);
        assert_int_equal(net.layers, unique);
        assert_true(sum > figure - 0.0005 && sum < figure + 0.0005);
        network_free(&net);
        found++;
    }
    fclose(file);
    assert_int_equal(found, 7);
}

/* ---- graphs ---- */

/* What every graph promises. */
static void check_graph(const struct network_graph *graph)
{
    assert_true(graph->nodes > 0);
    for (int i = 0; i < graph->nodes; i++) {
        const struct network_node *node = &graph->node[i];
        int64_t channels = 0, shape[4];
        assert_true(node->input_count > 0);
        for (int k = 0; k < node->input_count; k++) {
            const int input = node->inputs[k];
            assert_true(input < i && (input >= 0 || (input == -1 && node->input_count == 1)));
            channels += input >= 0 ? graph->node[input].desc.cout : node->desc.cin;
        }
        assert_int_equal(channels, node->desc.cin);
        assert_true(node->residual >= -1 && node->residual < i);
        assert_int_equal(node->desc.residual, node->residual >= 0);
        if (node->residual >= 0) {
            assert_int_equal(graph->node[node->residual].desc.cout, node->desc.cout);
        }
        expect_ok(doconv_conv_dst_shape(NULL, &node->desc, shape));
    }
}

static int node_of(const struct network_graph *graph, const char *name)
{
    for (int i = 0; i < graph->nodes; i++) {
        if (strcmp(graph->node[i].name, name) == 0) {
            return i;
        }
    }
    fail_msg("%s has no layer %s", graph->name, name);
    return -1;
}

static void test_graphs(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int nodes, residuals, relus, relu6s;
    } expected[] = {{"deeplabv3_resnet50", 61, 16, 56, 0},
                    {"mobilenet_v2", 52, 10, 0, 35},
                    {"resnet18", 20, 8, 17, 0},
                    {"resnet50", 53, 16, 49, 0},
                    {"resnext50_32x4d", 53, 16, 49, 0},
                    {"vgg16", 13, 0, 13, 0}};
    for (size_t n = 0; n < sizeof expected / sizeof *expected; n++) {
        struct network_graph graph = load_graph(expected[n].name);
        assert_string_equal(graph.name, expected[n].name);
        check_graph(&graph);
        int residuals = 0, relus = 0, relu6s = 0;
        for (int i = 0; i < graph.nodes; i++) {
            const doconv_conv_desc *d = &graph.node[i].desc;
            assert_int_equal(d->has_bias, 1);
            residuals += d->residual;
            relus += d->relu;
            relu6s += d->clamp && d->clamp_lo == 0 && d->clamp_hi == 6;
        }
        assert_int_equal(graph.nodes, expected[n].nodes);
        assert_int_equal(residuals, expected[n].residuals);
        assert_int_equal(relus, expected[n].relus);
        assert_int_equal(relu6s, expected[n].relu6s);
        network_graph_free(&graph);
        assert_int_equal(graph.nodes, 0);
    }
}

static void test_edges(void **state)
{
    (void)state;
    struct network_graph graph = load_graph("resnet18");
    const struct network_node *down = &graph.node[node_of(&graph, "layer2.0.downsample.0")];
    assert_int_equal(down->inputs[0], node_of(&graph, "layer1.1.conv2"));
    assert_int_equal(down->residual, node_of(&graph, "layer2.0.conv2"));
    assert_true(down->desc.relu && !graph.node[down->residual].desc.relu);
    const struct network_node *next = &graph.node[node_of(&graph, "layer2.1.conv2")];
    assert_int_equal(next->residual, node_of(&graph, "layer2.0.downsample.0"));
    network_graph_free(&graph);

    graph = load_graph("deeplabv3_resnet50");
    const struct network_node *project = &graph.node[node_of(&graph, "classifier.0.project.0")];
    assert_int_equal(project->input_count, 5);
    assert_int_equal(project->inputs[4], node_of(&graph, "classifier.0.convs.4.1"));
    assert_int_equal(graph.node[project->inputs[4]].desc.h, 1);
    network_graph_free(&graph);
}

/* ---- files of all kinds ---- */

struct scratch {
    char path[64];
};

static int make_scratch(void **state)
{
    static struct scratch scratch;
    strcpy(scratch.path, "/tmp/doconv_networks_XXXXXX.tsv");
    const int file = mkstemps(scratch.path, 4);
    *state = &scratch;
    return file >= 0 ? close(file) : -1;
}

static int drop_scratch(void **state)
{
    const struct scratch *scratch = *state;
    return unlink(scratch->path);
}

static void write_scratch(const struct scratch *scratch, const void *bytes, size_t size)
{
    FILE *file = fopen(scratch->path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

#define SHAPE "ci\th\tw\tco\tkh\tkw\tsh\tsw\tpt\tpl\tpb\tpr\tdh\tdw\tgroups"
#define EDGES "name\tinput\tresidual\tpost\tbias\t" SHAPE "\n"
#define TAIL "\t3\t3\t1\t1\t1\t1\t1\t1\t1\t1\t1\n"
#define FIRST "a\t-\t-\trelu\t1\t4\t9\t9\t8" TAIL

static const struct {
    const char *text, *message; /* NULL: a graph */
} files[] = {
    {EDGES FIRST, NULL},
    {EDGES FIRST "b\ta\t-\tnone\t0\t8\t5\t4\t8" TAIL, NULL}, /* a pooling between */
    {EDGES FIRST "b\ta,a\ta\trelu6\t0\t16\t9\t9\t8" TAIL, NULL},
    {EDGES FIRST "b\t-\ta\tnone\t0\t4\t9\t9\t8" TAIL, NULL},
    {"input\tname\t" SHAPE "\r\n-\ta\t4\t9\t9\t8" TAIL, NULL},
    {"count\t" SHAPE "\n2\t4\t9\t9\t8" TAIL, "without edges (columns \"name\" and \"input\")"},
    {"name\tinput\tcount\t" SHAPE "\n", "column \"count\" can't be beside \"name\""},
    {"count\tbias\t" SHAPE "\n", "column \"bias\" needs \"name\" and \"input\""},
    {"count\tresidual\t" SHAPE "\n", "column \"residual\" needs \"name\" and \"input\""},
    {"name\t" SHAPE "\n", "column \"input\" is missing"},
    {"input\t" SHAPE "\n", "column \"name\" is missing"},
    {SHAPE "\n", "column \"count\" is missing"},
    {EDGES, "no layer follows"},
    {EDGES "\t-\t-\trelu\t1\t4\t9\t9\t8" TAIL, "column \"name\": \"\" is no name"},
    {EDGES "-\t-\t-\trelu\t1\t4\t9\t9\t8" TAIL, "column \"name\": \"-\" is no name"},
    {EDGES "a b\t-\t-\trelu\t1\t4\t9\t9\t8" TAIL, "column \"name\": \"a b\" is no name"},
    {EDGES "a,b\t-\t-\trelu\t1\t4\t9\t9\t8" TAIL, "column \"name\": \"a,b\" is no name"},
    {EDGES FIRST "\n" FIRST, "line 4, column \"name\": \"a\" is line 2's already"},
    {EDGES "a\ta\t-\trelu\t1\t4\t9\t9\t4" TAIL, "column \"input\": \"a\" does not come before"},
    {EDGES "a\tb\t-\trelu\t1\t8\t9\t9\t8" TAIL "b\t-\t-\tnone\t0\t4\t9\t9\t8" TAIL,
     "line 2, column \"input\": \"b\" does not come before"},
    {EDGES "a\t-\tb\trelu\t1\t4\t9\t9\t8" TAIL "b\t-\t-\tnone\t0\t4\t9\t9\t8" TAIL,
     "line 2, column \"residual\": \"b\" does not come before"},
    {EDGES "a\t\t-\trelu\t1\t4\t9\t9\t8" TAIL, "column \"input\": no layer is called \"\""},
    {EDGES FIRST "b\ta,\t-\tnone\t0\t8\t9\t9\t8" TAIL, "no layer is called \"\""},
    {EDGES FIRST "b\ta,-\t-\tnone\t0\t12\t9\t9\t8" TAIL, "no layer is called \"-\""},
    {EDGES FIRST "b\tc\t-\tnone\t0\t8\t9\t9\t8" TAIL, "no layer is called \"c\""},
    {EDGES FIRST "b\ta\tc\tnone\t0\t8\t9\t9\t8" TAIL,
     "column \"residual\": no layer is called \"c\""},
    {EDGES FIRST "b\ta\t-\tnone\t0\t7\t9\t9\t8" TAIL, "column \"ci\": 7, but what it reads has 8"},
    {EDGES FIRST "b\ta,a\t-\tnone\t0\t8\t9\t9\t8" TAIL, "8, but what it reads has 16"},
    {EDGES FIRST "b\t-\t-\tnone\t0\t3\t9\t9\t8" TAIL, "3, but the network's input has 4"},
    {EDGES FIRST "b\ta\ta\tnone\t0\t8\t9\t9\t4" TAIL, "\"a\" has 8 channels, not 4"},
    {EDGES "a\t-\t-\telu\t1\t4\t9\t9\t8" TAIL, "\"elu\" is none of none, relu, relu6"},
    {EDGES "a\t-\t-\trelu\t2\t4\t9\t9\t8" TAIL,
     "column \"bias\": \"2\" is no whole number in 0..1"},
    {EDGES "a\t-\t-\trelu\t1\t4\t9\t9\t8\t3\n", "column \"kw\" is missing"},
    {EDGES "a\t-\t-\trelu\t1\t4\t9\t9\t8\t3\t3\t1\t1\t1\t1\t1\t1\t1\t1\t1\t1\n",
     "more than 20 columns"},
};

static void test_files(void **state)
{
    const struct scratch *scratch = *state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        write_scratch(scratch, files[i].text, strlen(files[i].text));
        struct network_graph graph;
        char error[512] = "";
        const int result = network_graph_load(scratch->path, &graph, error, sizeof error);
        if (files[i].message == NULL) {
            assert_string_equal(error, "");
            assert_int_equal(result, 0);
            check_graph(&graph);
        } else if (result == 0 || strstr(error, files[i].message) == NULL) {
            fail_msg("file %zu: \"%s\", not \"%s\"", i, error, files[i].message);
        }
        network_graph_free(&graph);
    }
}

/* Layers of one shape are one, whatever follows them; of a file without edges they stay apart. */
static void test_unique(void **state)
{
    const struct scratch *scratch = *state;
    const char edges[] =
        EDGES FIRST "b\t-\ta\tnone\t0\t4\t9\t9\t8" TAIL "c\tb\t-\tnone\t0\t8\t9\t9\t8" TAIL
                    "d\t-\t-\trelu6\t0\t4\t9\t9\t8" TAIL;
    write_scratch(scratch, edges, sizeof edges - 1);
    struct network net = load(scratch->path);
    assert_int_equal(net.layers, 2);
    assert_true(net.layer[0].count == 3 && net.layer[0].desc.cin == 4);
    assert_true(net.layer[1].count == 1 && net.layer[1].desc.cin == 8);
    network_free(&net);

    const char plain[] = "count\t" SHAPE "\n2\t4\t9\t9\t8" TAIL "3\t4\t9\t9\t8" TAIL;
    write_scratch(scratch, plain, sizeof plain - 1);
    net = load(scratch->path);
    assert_int_equal(net.layers, 2);
    assert_true(net.layer[0].count == 2 && net.layer[1].count == 3);
    network_free(&net);
}

static uint32_t random_state = 1;

static uint32_t draw(uint32_t below)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)random_state * below >> 32);
}

/* Changes some bytes: to any, or to one that means something here; cuts, or doubles a stretch. */
static size_t spoil(char *text, size_t size, size_t capacity)
{
    static const char telling[] = "\t\n\r,-0123456789ab\0";
    for (uint32_t changes = 1 + draw(4); changes > 0 && size > 0; changes--) {
        const size_t at = draw((uint32_t)size);
        const size_t length = 1 + draw(80);
        switch (draw(5)) {
        case 0:
            text[at] = (char)draw(256);
            break;
        case 1:
            text[at] = telling[draw(sizeof telling)];
            break;
        case 2:
            size = at;
            break;
        case 3:
            if (at + length < size) {
                memmove(text + at, text + at + length, size - at - length);
                size -= length;
            }
            break;
        default:
            if (at + length <= size && size + length <= capacity) {
                memmove(text + at + length, text + at, size - at);
                size += length;
            }
        }
    }
    return size;
}

static void test_spoiled(void **state)
{
    const struct scratch *scratch = *state;
    static const char *const names[] = {"networks/deeplabv3_resnet50.tsv",
                                        "networks/restoration.tsv", "networks/mobilenet_v2.tsv"};
    static char whole[1 << 15], text[1 << 16];
    for (int round = 0; round < 2000; round++) {
        size_t size;
        if (round % 8 == 0) {
            size = draw(300);
            for (size_t i = 0; i < size; i++) {
                text[i] = (char)draw(256);
            }
        } else {
            FILE *file = open_file(names[round % 3]);
            size = fread(whole, 1, sizeof whole, file);
            fclose(file);
            memcpy(text, whole, size);
            size = spoil(text, size, sizeof text);
        }
        write_scratch(scratch, text, size);
        struct network net;
        struct network_graph graph;
        char error[256] = "", graph_error[256] = "";
        const int result = network_load(scratch->path, &net, error, sizeof error);
        const int graph_result =
            network_graph_load(scratch->path, &graph, graph_error, sizeof graph_error);
        assert_int_equal(result == 0, error[0] == '\0');
        assert_int_equal(graph_result == 0, graph_error[0] == '\0');
        assert_true((result == 0) == (net.layers > 0) && (graph_result == 0) == (graph.nodes > 0));
        if (graph_result == 0) {
            check_graph(&graph);
            assert_int_equal(result, 0);
        } else if (result == 0) {
            assert_non_null(strstr(graph_error, "without edges"));
        }
        network_free(&net);
        network_graph_free(&graph);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fputs("usage: test_networks SOURCE_ROOT\n", stderr);
        return 2;
    }
    root = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layers),
        cmocka_unit_test(test_figures),
        cmocka_unit_test(test_graphs),
        cmocka_unit_test(test_edges),
        cmocka_unit_test_setup_teardown(test_files, make_scratch, drop_scratch),
        cmocka_unit_test_setup_teardown(test_unique, make_scratch, drop_scratch),
        cmocka_unit_test_setup_teardown(test_spoiled, make_scratch, drop_scratch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
