/* SPDX-License-Identifier: MIT */
#include "chain_network.h"

#include <chrono>
#include <cmath>
#include <random>

#include "network_list.h"

namespace bench
{

namespace
{

/* Uniform in [-most, most). */
void fill(std::vector<float> &v, int64_t count, double most, std::minstd_rand &random)
{
    v.resize(static_cast<size_t>(count));
    for (float &x : v) {
        x = static_cast<float>(most / 0x800000) *
            static_cast<float>(static_cast<int>(random() >> 7 & 0xffffff) - 0x800000);
    }
}

/* The variance of a sum of so many products stays its inputs', half of which a ReLU drops. */
double weight_range(const doconv_conv_desc &d)
{
    const double products = static_cast<double>(d.cin / d.groups * d.kh * d.kw);
    return std::sqrt((d.relu || d.clamp ? 6 : 3) / products);
}

/* The bridge to an image of channels that are those of the inputs, new if there is none yet. */
int find_bridge(chain &net, const std::vector<int> &inputs, int64_t channels, int64_t h, int64_t w)
{
    size_t i = 0;
    while (i < net.bridges.size() &&
           !(net.bridges[i].inputs == inputs && net.bridges[i].h == h && net.bridges[i].w == w)) {
        i++;
    }
    if (i == net.bridges.size()) {
        net.bridges.push_back({inputs, channels, h, w});
    }
    return static_cast<int>(i);
}

/* Whether an output, or the network's input, is an image of that size. */
bool has_image(const chain &net, int layer, int64_t h, int64_t w)
{
    if (layer < 0) {
        const doconv_conv_desc &first = net.layers[0].plain.desc;
        return first.h == h && first.w == w;
    }
    const problem &p = net.layers[static_cast<size_t>(layer)].plain;
    return p.hout == h && p.wout == w;
}

void add_layer(doconv_context *context, chain &net, const network_node &node, int batch,
               std::minstd_rand &random)
{
    doconv_conv_desc d = node.desc;
    d.n = batch;
    chain_layer layer = {
        node.name,
        make_problem(context, d, false, "network \"" + net.name + "\", layer " + node.name),
        std::vector<int>(node.inputs, node.inputs + node.input_count),
        node.residual,
        -1,
        -1,
        {},
        {}};
    fill(layer.weight, layer.plain.weight_count(), weight_range(d), random);
    if (d.has_bias) {
        fill(layer.bias, d.cout, 0.1, random);
    }
    net.layers.push_back(std::move(layer));
    chain_layer &own = net.layers.back();
    if (own.inputs.size() > 1 || !has_image(net, own.inputs[0], d.h, d.w)) {
        own.src_bridge = find_bridge(net, own.inputs, d.cin, d.h, d.w);
    }
    if (own.residual >= 0 && !has_image(net, own.residual, own.plain.hout, own.plain.wout)) {
        own.residual_bridge =
            find_bridge(net, {own.residual}, d.cout, own.plain.hout, own.plain.wout);
    }
}

/* NCHW: the nearest pixel of an image of another size. */
void resize(const std::vector<float> &from, int64_t planes, int64_t h, int64_t w, float *to,
            int64_t to_h, int64_t to_w)
{
    for (int64_t plane = 0; plane < planes; plane++) {
        for (int64_t y = 0; y < to_h; y++) {
            for (int64_t x = 0; x < to_w; x++) {
                *to++ = from[static_cast<size_t>((plane * h + y * h / to_h) * w + x * w / to_w)];
            }
        }
    }
}

double now()
{
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

} // namespace

double chain::flops() const
{
    double sum = 0;
    for (const chain_layer &layer : layers) {
        sum += layer.plain.flops();
    }
    return sum;
}

size_t chain::last_reader(size_t layer) const
{
    if (layer + 1 == layers.size()) {
        return layers.size();
    }
    size_t last = layer;
    for (size_t i = layer + 1; i < layers.size(); i++) {
        const std::vector<int> &inputs = layers[i].inputs;
        const int wanted = static_cast<int>(layer);
        if (layers[i].residual == wanted ||
            std::find(inputs.begin(), inputs.end(), wanted) != inputs.end()) {
            last = i;
        }
    }
    return last;
}

bool chain::adds_in_place(size_t layer) const
{
    const chain_layer &l = layers[layer];
    return l.residual >= 0 && l.residual_bridge < 0 &&
           last_reader(static_cast<size_t>(l.residual)) == layer &&
           std::find(l.inputs.begin(), l.inputs.end(), l.residual) == l.inputs.end();
}

chain load_chain(doconv_context *context, const std::string &name, int batch)
{
    network_graph graph = {};
    const std::unique_ptr<network_graph, void (*)(network_graph *)> own(&graph, network_graph_free);
    char error[256] = "";
    if (network_graph_load(name.c_str(), &graph, error, sizeof error) != 0) {
        throw usage_error("network \"" + name + "\": " + error);
    }
    chain net = {graph.name, {}, {}, {}};
    std::minstd_rand random(20260u);
    for (int i = 0; i < graph.nodes; i++) {
        add_layer(context, net, graph.node[i], batch, random);
    }
    fill(net.input, net.layers[0].plain.src_count(), 1, random);
    return net;
}

problem place_layer(doconv_context *context, const chain_layer &layer, doconv_layout layout,
                    doconv_accuracy accuracy)
{
    doconv_conv_desc desc = layer.plain.desc;
    const bool blocked = layout == DOCONV_NCHW8C || layout == DOCONV_NCHW16C;
    desc.src_layout = blocked && layer.inputs[0] < 0 ? DOCONV_NCHW : layout;
    desc.dst_layout = layout;
    desc.accuracy = accuracy;
    return make_problem(context, desc, false, layer.name);
}

chain_places place_outputs(const chain &net, const std::vector<size_t> &dst_bytes)
{
    chain_places all;
    std::vector<size_t> free_after; /* of each place: the last reader of what is in it */
    for (size_t i = 0; i < net.layers.size(); i++) {
        size_t chosen = all.bytes.size();
        if (net.adds_in_place(i)) {
            chosen = all.place[static_cast<size_t>(net.layers[i].residual)];
        } else {
            /* The one whose size is nearest. */
            size_t least = SIZE_MAX;
            for (size_t p = 0; p < all.bytes.size(); p++) {
                const size_t distance =
                    std::max(all.bytes[p], dst_bytes[i]) - std::min(all.bytes[p], dst_bytes[i]);
                if (free_after[p] < i && distance < least) {
                    chosen = p;
                    least = distance;
                }
            }
        }
        if (chosen == all.bytes.size()) {
            all.bytes.push_back(0);
            free_after.push_back(0);
        }
        all.bytes[chosen] = std::max(all.bytes[chosen], dst_bytes[i]);
        free_after[chosen] = net.last_reader(i);
        all.place.push_back(chosen);
    }
    return all;
}

void chain_runner::run()
{
    for (size_t i = 0; i < net_.layers.size(); i++) {
        run_layer(i);
    }
}

void chain_runner::run_timed(std::vector<std::vector<double>> &seconds)
{
    seconds.resize(net_.layers.size());
    double start = now();
    for (size_t i = 0; i < net_.layers.size(); i++) {
        run_layer(i);
        const double end = now();
        seconds[i].push_back(end - start);
        start = end;
    }
}

void chain_runner::cross(size_t bridge)
{
    const chain_bridge &b = net_.bridges[bridge];
    const problem &first = net_.layers[0].plain;
    const int64_t n = first.desc.n;
    std::vector<std::vector<float>> parts;
    for (const int input : b.inputs) {
        const problem &p = net_.layers[static_cast<size_t>(std::max(input, 0))].plain;
        const int64_t c = input < 0 ? p.desc.cin : p.desc.cout;
        parts.emplace_back(static_cast<size_t>(n * c * b.h * b.w));
        if (input < 0) {
            resize(net_.input, n * c, first.desc.h, first.desc.w, parts.back().data(), b.h, b.w);
        } else {
            resize(read(static_cast<size_t>(input)), n * c, p.hout, p.wout, parts.back().data(),
                   b.h, b.w);
        }
    }
    std::vector<float> all;
    all.reserve(static_cast<size_t>(n * b.channels * b.h * b.w));
    for (size_t image = 0; image < static_cast<size_t>(n); image++) {
        for (const std::vector<float> &part : parts) {
            const size_t size = part.size() / static_cast<size_t>(n);
            all.insert(all.end(), part.data() + image * size, part.data() + (image + 1) * size);
        }
    }
    write(bridge, all);
}

std::vector<float> chain_runner::run_whole()
{
    std::vector<bool> crossed(net_.bridges.size());
    for (size_t i = 0; i < net_.layers.size(); i++) {
        for (const int bridge : {net_.layers[i].src_bridge, net_.layers[i].residual_bridge}) {
            if (bridge >= 0 && !crossed[static_cast<size_t>(bridge)]) {
                crossed[static_cast<size_t>(bridge)] = true;
                cross(static_cast<size_t>(bridge));
            }
        }
        run_layer(i);
    }
    return read(net_.layers.size() - 1);
}

} // namespace bench
