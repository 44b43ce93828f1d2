/* SPDX-License-Identifier: MIT */
/*
 * Networks that run whole: their layers with data, where the layers' outputs lie, and what an
 * engine's runner of a network is.
 */
#ifndef DOCONV_BENCH_CHAIN_NETWORK_H
#define DOCONV_BENCH_CHAIN_NETWORK_H

#include <memory>
#include <string>
#include <vector>

#include "bench_engine.h"

namespace bench
{

/*
 * What something that isn't a convolution makes of outputs, such as a pooling: a tensor of its own,
 * which runs that are timed find as it was.
 */
struct chain_bridge {
    std::vector<int> inputs; /* as a layer's */
    int64_t channels, h, w;
};

struct chain_layer {
    std::string name;
    problem plain;                   /* NCHW, class default, with its bias, residual and post-ops */
    std::vector<int> inputs;         /* layers; -1: the network's input */
    int residual;                    /* a layer; -1: none */
    int src_bridge, residual_bridge; /* of the chain, what it reads or adds instead; -1: none */
    std::vector<float> weight, bias;
};

struct chain {
    std::string name;
    std::vector<chain_layer> layers;
    std::vector<chain_bridge> bridges;
    std::vector<float> input; /* NCHW, as the first layer reads it */

    double flops() const;
    /* The last layer that reads the output of one; itself, if none; the number of layers, if it is
     * the last. */
    size_t last_reader(size_t layer) const;
    /* Whether a layer adds to what its dst holds: nobody reads its residual later. */
    bool adds_in_place(size_t layer) const;
};

/*
 * A network with data: the same in every run, scaled so that values stay near one from the first to
 * the last layer. Throws usage_error.
 */
chain load_chain(doconv_context *context, const std::string &name, int batch);

/*
 * A layer in the layouts of a chain: all in one, but the network's input, which is NCHW in a chain
 * of blocks.
 */
problem place_layer(doconv_context *context, const chain_layer &layer, doconv_layout layout,
                    doconv_accuracy accuracy);

/*
 * The outputs' places in memory that is used again when the last reader is done, as an engine does:
 * the tensor of each layer, by index, and the bytes of each.
 */
struct chain_places {
    std::vector<size_t> place, bytes;
};
chain_places place_outputs(const chain &net, const std::vector<size_t> &dst_bytes);

/* A network as an engine runs it: a call a layer. */
class chain_runner : public runner
{
  public:
    explicit chain_runner(const chain &net) : net_(net)
    {
    }
    void run() override;
    void hold_copies(size_t) override
    {
    }
    size_t copies() const override
    {
        return 1;
    }
    /*
     * Runs it with all that stands between the layers, which fills the bridges; returns the last
     * output, NCHW. What stands between is the nearest pixel, and channels one
     * after the other.
     */
    std::vector<float> run_whole();
    /* Runs it, and adds the seconds of each layer to its samples. */
    void run_timed(std::vector<std::vector<double>> &seconds);

    std::vector<std::string> labels; /* of the layers */
    std::vector<double> predicted;   /* their seconds by the tuner; empty: unknown */

  protected:
    virtual void run_layer(size_t layer) = 0;
    /* A layer's output, NCHW. */
    virtual std::vector<float> read(size_t layer) = 0;
    /* Fills a bridge from NCHW. */
    virtual void write(size_t bridge, const std::vector<float> &from) = 0;

    const chain &net_;

  private:
    void cross(size_t bridge);
};

/* doconv's, of the variants that the engine tuned (if it did). why is set if it can't be. */
std::unique_ptr<chain_runner> make_doconv_chain(const doconv_engine &engine, const chain &net,
                                                doconv_layout layout, doconv_accuracy accuracy,
                                                std::string &why);

/*
 * doconv's by the plan of the whole network, which chooses the layout of each tensor; tuned: what
 * the cache lacks is measured.
 */
std::unique_ptr<chain_runner> make_planned_chain(const doconv_engine &engine, const chain &net,
                                                 doconv_accuracy accuracy, bool tuned,
                                                 std::string &why);

/* oneDNN's; create_onednn_engine() was called before. */
std::unique_ptr<chain_runner> make_onednn_chain(doconv_context *context, const chain &net,
                                                doconv_layout layout, std::string &why);

} // namespace bench

#endif
