/* SPDX-License-Identifier: MIT */
#include <stdexcept>

#include "chain_network.h"

#include <doconv/doconv_tune.h>

namespace bench
{

namespace
{

size_t bytes_of(doconv_layout layout, int64_t n, int64_t c, int64_t h, int64_t w)
{
    size_t bytes = 0;
    if (doconv_tensor_bytes(layout, n, c, h, w, &bytes) != DOCONV_OK) {
        throw std::bad_alloc();
    }
    return bytes;
}

size_t src_bytes(const doconv_conv_desc &d)
{
    return bytes_of(d.src_layout, d.n, d.cin, d.h, d.w);
}

size_t dst_bytes(const problem &p)
{
    return bytes_of(p.desc.dst_layout, p.desc.n, p.desc.cout, p.hout, p.wout);
}

using plan_pointer = std::unique_ptr<doconv_plan, void (*)(doconv_plan *)>;
using network_pointer = std::unique_ptr<doconv_network_plan, void (*)(doconv_network_plan *)>;

/* Each layer as it is to run: the problem with its layouts, a plan, seconds (0: unknown). */
struct placed {
    problem p;
    plan_pointer plan{nullptr, doconv_plan_destroy};
    double seconds = 0;
};

class doconv_chain : public chain_runner
{
  public:
    /* copies: those between layouts. */
    doconv_chain(const chain &net, std::vector<placed> layers,
                 const std::vector<doconv_network_reorder> &copies, const char *layout_name)
        : chain_runner(net)
    {
        size_t workspace = 0;
        std::vector<size_t> bytes;
        for (size_t i = 0; i < layers.size(); i++) {
            const chain_layer &layer = net.layers[i];
            steps_.push_back(std::make_unique<step>());
            step &s = *steps_.back();
            s.p = std::move(layers[i].p);
            s.plan = std::move(layers[i].plan);
            doconv_weights *weights = nullptr;
            if (doconv_weights_create(s.plan.get(), layer.weight.data(),
                                      s.p.desc.has_bias ? layer.bias.data() : nullptr,
                                      &weights) != DOCONV_OK) {
                throw std::runtime_error(layer.name + ": weights");
            }
            s.weights.reset(weights);
            workspace = std::max(workspace, doconv_plan_workspace_size(s.plan.get()));
            bytes.push_back(dst_bytes(s.p));
            labels.push_back(doconv_plan_variant(s.plan.get()));
            predicted.push_back(layers[i].seconds);
        }
        for (const doconv_network_reorder &c : copies) {
            if (static_cast<size_t>(c.consumer) < steps_.size()) {
                predicted[static_cast<size_t>(c.consumer)] += c.seconds;
            }
        }
        if (std::any_of(predicted.begin(), predicted.end(), [](double s) { return s <= 0; })) {
            predicted.clear();
        }
        layout = layout_name;
        workspace_ = buffer(workspace, buffer::use::weights);
        connect(bytes);
        for (const doconv_network_reorder &c : copies) {
            if (static_cast<size_t>(c.consumer) < steps_.size()) {
                add_copy(c);
            }
        }
    }

  protected:
    void run_layer(size_t i) override
    {
        const step &s = *steps_[i];
        for (const copy &c : s.copies) {
            doconv_reorder(c.what.from, c.what.to, c.what.n, c.what.c, c.what.h, c.what.w, c.src,
                           c.dst);
        }
        const doconv_status status =
            doconv_execute(s.plan.get(), s.weights.get(), s.src, s.residual, s.dst,
                           workspace_.data(), workspace_.bytes());
        if (status != DOCONV_OK) {
            throw std::runtime_error(labels[i] + ": " + doconv_status_string(status));
        }
    }

    std::vector<float> read(size_t i) override
    {
        const problem &p = steps_[i]->p;
        std::vector<float> y(static_cast<size_t>(p.dst_count()));
        doconv_reorder(p.desc.dst_layout, DOCONV_NCHW, p.desc.n, p.desc.cout, p.hout, p.wout,
                       steps_[i]->dst, y.data());
        return y;
    }

    void write(size_t bridge, const std::vector<float> &from) override
    {
        const chain_bridge &b = net_.bridges[bridge];
        doconv_reorder(DOCONV_NCHW, bridge_layout(b), steps_[0]->p.desc.n, b.channels, b.h, b.w,
                       from.data(), bridges_[bridge].data());
    }

  private:
    struct copy {
        doconv_network_reorder what;
        const float *src;
        float *dst;
    };
    struct step {
        problem p;
        plan_pointer plan{nullptr, doconv_plan_destroy};
        std::unique_ptr<doconv_weights, void (*)(doconv_weights *)> weights{nullptr,
                                                                            doconv_weights_destroy};
        const float *src = nullptr, *residual = nullptr;
        float *dst = nullptr;
        std::vector<copy> copies; /* before it runs */
    };

    /* What stands between layers keeps their layout. */
    doconv_layout bridge_layout(const chain_bridge &b) const
    {
        const int producer = b.inputs[0];
        return producer < 0 ? steps_[0]->p.desc.src_layout
                            : steps_[static_cast<size_t>(producer)]->p.desc.dst_layout;
    }

    /* A layer reads a copy of its own; one that is reused is made anew, in memory that it has. */
    void add_copy(const doconv_network_reorder &c)
    {
        step &s = *steps_[static_cast<size_t>(c.consumer)];
        const float *&reads = c.input < 0 ? s.residual : s.src;
        for (size_t i = 0; i < copied_.size() && c.reused; i++) {
            if (copied_[i].from == reads && copied_[i].to == c.to) {
                reads = copied_[i].data;
                return;
            }
        }
        copies_.emplace_back(bytes_of(c.to, c.n, c.c, c.h, c.w), buffer::use::weights);
        s.copies.push_back({c, reads, copies_.back().data()});
        copied_.push_back({reads, c.to, copies_.back().data()});
        reads = copies_.back().data();
    }

    void connect(const std::vector<size_t> &bytes)
    {
        const chain_places at = place_outputs(net_, bytes);
        for (const size_t size : at.bytes) {
            places_.emplace_back(size, buffer::use::weights);
        }
        const doconv_conv_desc &first = steps_[0]->p.desc;
        input_ = buffer(src_bytes(first), buffer::use::weights);
        doconv_reorder(DOCONV_NCHW, first.src_layout, first.n, first.cin, first.h, first.w,
                       net_.input.data(), input_.data());
        for (const chain_bridge &b : net_.bridges) {
            bridges_.emplace_back(bytes_of(bridge_layout(b), first.n, b.channels, b.h, b.w),
                                  buffer::use::weights);
        }
        const auto data = [&](int layer, int bridge) {
            return bridge >= 0 ? bridges_[static_cast<size_t>(bridge)].data()
                   : layer < 0 ? input_.data()
                               : places_[at.place[static_cast<size_t>(layer)]].data();
        };
        for (size_t i = 0; i < steps_.size(); i++) {
            const chain_layer &layer = net_.layers[i];
            step &s = *steps_[i];
            s.src = data(layer.inputs[0], layer.src_bridge);
            s.residual =
                layer.residual >= 0 ? data(layer.residual, layer.residual_bridge) : nullptr;
            s.dst = data(static_cast<int>(i), -1);
        }
    }

    std::vector<std::unique_ptr<step>> steps_;
    struct known_copy {
        const float *from;
        doconv_layout to;
        float *data;
    };
    std::vector<known_copy> copied_;
    std::vector<buffer> places_, bridges_, copies_;
    buffer input_, workspace_;
};

/* The plan of the whole network. Throws runtime_error. */
network_pointer plan_network(const doconv_engine &engine, const chain &net,
                             doconv_accuracy accuracy, bool tuned)
{
    std::vector<doconv_conv_desc> descs;
    std::vector<doconv_network_layer> layers;
    for (const chain_layer &layer : net.layers) {
        descs.push_back(layer.plain.desc);
        descs.back().accuracy = accuracy;
    }
    for (size_t i = 0; i < descs.size(); i++) {
        doconv_network_layer layer = {};
        layer.size = sizeof layer;
        layer.name = net.layers[i].name.c_str();
        layer.desc = &descs[i];
        layer.inputs = net.layers[i].inputs.data();
        layer.input_count = static_cast<int>(net.layers[i].inputs.size());
        layer.residual = net.layers[i].residual;
        layers.push_back(layer);
    }
    doconv_network_options options = {};
    options.size = sizeof options;
    options.mode = tuned ? DOCONV_TUNE_TUNE : DOCONV_TUNE_READ;
    doconv_network_plan *plan = nullptr;
    const doconv_status status = doconv_tune_network(
        engine.context(), layers.data(), static_cast<int>(layers.size()), &options, &plan);
    if (status != DOCONV_OK) {
        throw std::runtime_error(std::string("its plan: ") + doconv_status_string(status));
    }
    return network_pointer(plan, doconv_network_plan_destroy);
}

placed place_choice(doconv_context *context, const doconv_network_plan *network, int index)
{
    doconv_network_choice choice = {};
    choice.size = sizeof choice;
    doconv_network_plan_get(network, index, &choice);
    placed result;
    result.p = make_problem(context, *choice.desc, false, choice.name);
    doconv_plan_options options = {};
    options.size = sizeof options;
    options.variant = choice.variant;
    options.cold_weights = 1;
    doconv_plan *plan = nullptr;
    if (doconv_plan_create(context, &result.p.desc, &options, &plan) != DOCONV_OK) {
        throw std::runtime_error(std::string(choice.name) + ": " + choice.variant);
    }
    result.plan.reset(plan);
    result.seconds = choice.seconds;
    return result;
}

} // namespace

std::unique_ptr<chain_runner> make_planned_chain(const doconv_engine &engine, const chain &net,
                                                 doconv_accuracy accuracy, bool tuned,
                                                 std::string &why)
{
    try {
        const network_pointer network = plan_network(engine, net, accuracy, tuned);
        std::vector<placed> layers;
        for (int i = 0; i < doconv_network_plan_count(network.get()); i++) {
            layers.push_back(place_choice(engine.context(), network.get(), i));
        }
        std::vector<doconv_network_reorder> copies;
        for (int i = 0; i < doconv_network_plan_reorder_count(network.get()); i++) {
            doconv_network_reorder reorder = {};
            reorder.size = sizeof reorder;
            doconv_network_plan_get_reorder(network.get(), i, &reorder);
            copies.push_back(reorder);
        }
        return std::make_unique<doconv_chain>(net, std::move(layers), copies, "mixed");
    } catch (const std::runtime_error &error) {
        why = error.what();
        return nullptr;
    }
}

std::unique_ptr<chain_runner> make_doconv_chain(const doconv_engine &engine, const chain &net,
                                                doconv_layout layout, doconv_accuracy accuracy,
                                                std::string &why)
{
    try {
        std::vector<placed> layers;
        for (const chain_layer &layer : net.layers) {
            placed own;
            own.p = place_layer(engine.context(), layer, layout, accuracy);
            own.plan.reset(engine.plan(own.p, own.seconds));
            layers.push_back(std::move(own));
        }
        return std::make_unique<doconv_chain>(net, std::move(layers),
                                              std::vector<doconv_network_reorder>(),
                                              doconv_layout_string(layout));
    } catch (const std::runtime_error &error) {
        why = error.what();
        return nullptr;
    }
}

} // namespace bench
