/* SPDX-License-Identifier: MIT */
#include "bench_options.h"

#include <cctype>
#include <cmath>
#include <cstdlib>

namespace bench
{

namespace
{

template <class T> struct choice {
    const char *name;
    T value;
};

constexpr choice<layout_choice> layouts[] = {{"nchw", layout_choice::nchw},
                                             {"nhwc", layout_choice::nhwc},
                                             {"blocked", layout_choice::blocked},
                                             {"best", layout_choice::best}};
constexpr choice<tune_choice> tunes[] = {{"off", tune_choice::off},
                                         {"read", tune_choice::read},
                                         {"tune", tune_choice::tune},
                                         {"force", tune_choice::force}};
constexpr choice<doconv_isa> isas[] = {{"default", DOCONV_ISA_DEFAULT},
                                       {"none", DOCONV_ISA_NONE},
                                       {"avx2", DOCONV_ISA_AVX2},
                                       {"avx512", DOCONV_ISA_AVX512},
                                       {"neon", DOCONV_ISA_NEON}};
constexpr choice<doconv_accuracy> accuracies[] = {{"strict", DOCONV_ACCURACY_STRICT},
                                                  {"default", DOCONV_ACCURACY_DEFAULT},
                                                  {"fast", DOCONV_ACCURACY_FAST}};
constexpr choice<bool> booleans[] = {{"true", true},   {"1", true},  {"yes", true},
                                     {"false", false}, {"0", false}, {"no", false}};
constexpr choice<int> formats[] = {{"console", 0}, {"json", 1}, {"csv", 2}};

template <class T, size_t N>
T choose(const std::string &flag, const std::string &value, const choice<T> (&choices)[N])
{
    std::string names;
    for (const choice<T> &c : choices) {
        if (value == c.name) {
            return c.value;
        }
        names += (names.empty() ? "" : ", ") + std::string(c.name);
    }
    throw usage_error(flag + ": \"" + value + "\" is not one of " + names);
}

int read_count(const std::string &flag, const std::string &value, int most)
{
    long number = 0;
    bool good = !value.empty() && value.size() <= 9;
    for (const char c : value) {
        good = good && std::isdigit(static_cast<unsigned char>(c));
        number = good ? number * 10 + (c - '0') : 0;
    }
    if (!good || number < 1 || number > most) {
        throw usage_error(flag + ": \"" + value + "\" is not a number from 1 to " +
                          std::to_string(most));
    }
    return static_cast<int>(number);
}

double read_seconds(const std::string &flag, const std::string &value)
{
    char *end = nullptr;
    const double seconds = std::strtod(value.c_str(), &end);
    if (value.empty() || *end != '\0' || !std::isfinite(seconds) || seconds < 0 || seconds > 3600) {
        throw usage_error(flag + ": \"" + value + "\" is not a number of seconds from 0 to 3600");
    }
    return seconds;
}

std::vector<std::string> split_names(const std::string &flag, const std::string &text)
{
    std::vector<std::string> names;
    size_t start = 0;
    while (start <= text.size()) {
        const size_t comma = text.find(',', start);
        const size_t end = comma == std::string::npos ? text.size() : comma;
        if (end == start) {
            throw usage_error(flag + ": an empty name in \"" + text + "\"");
        }
        names.push_back(text.substr(start, end - start));
        start = end + 1;
    }
    return names;
}

/* Whether a problem starts here: [g#][mb#]ic#, with optional '_'. */
bool starts_problem(const std::string &text, size_t at)
{
    for (const char *field : {"g", "mb", "ic"}) {
        const std::string name(field);
        if (text.compare(at, name.size(), name) == 0 && at + name.size() < text.size() &&
            std::isdigit(static_cast<unsigned char>(text[at + name.size()]))) {
            if (name == "ic") {
                return true;
            }
            at += name.size();
            while (at < text.size() && std::isdigit(static_cast<unsigned char>(text[at]))) {
                at++;
            }
            at += at < text.size() && text[at] == '_';
        }
    }
    return false;
}

void read_benchmark_flag(options &o, const std::string &flag, const std::string &value,
                         bool has_value)
{
    if (flag == "--benchmark_list_tests") {
        o.list_only = !has_value || choose(flag, value, booleans);
    } else if (flag == "--benchmark_filter") {
        o.filter = value;
    } else if (flag == "--benchmark_format") {
        choose(flag, value, formats);
        o.display_format = value;
    } else if (flag == "--benchmark_out") {
        o.out = value;
    } else if (flag == "--benchmark_out_format") {
        choose(flag, value, formats);
        o.out_format = value;
    } else if (flag == "--benchmark_min_time") {
        o.min_seconds = read_seconds(flag, value);
    } else if (flag == "--benchmark_repetitions") {
        read_count(flag, value, 1000);
    }
}

} // namespace

std::vector<std::string> split_problems(const std::string &text)
{
    std::vector<std::string> problems;
    std::string current;
    for (size_t i = 0; i <= text.size(); i++) {
        const char c = i < text.size() ? text[i] : ';';
        if (c == ';' || std::isspace(static_cast<unsigned char>(c)) ||
            (c == ',' && starts_problem(text, i + 1))) {
            if (!current.empty()) {
                problems.push_back(current);
            }
            current.clear();
        } else {
            current += c;
        }
    }
    return problems;
}

options parse_options(int argc, char **argv)
{
    options o;
    for (int i = 1; i < argc; i++) {
        const std::string argument = argv[i];
        if (argument == "--help" || argument == "-h") {
            o.help = true;
            return o;
        }
        const size_t equal = argument.find('=');
        const bool has_value = equal != std::string::npos;
        const std::string flag = argument.substr(0, equal);
        const std::string value = has_value ? argument.substr(equal + 1) : "";
        if (flag.rfind("--benchmark_", 0) == 0) {
            read_benchmark_flag(o, flag, value, has_value);
            if (flag != "--benchmark_filter" && flag != "--benchmark_list_tests") {
                o.benchmark_flags.push_back(argument);
            }
            continue;
        }
        if (argument == "--cold") {
            o.cold = true;
            continue;
        }
        if (flag == "--cold") {
            throw usage_error("--cold: \"" + value + "\": it takes no value (see --help)");
        }
        const bool known = flag == "--networks" || flag == "--problems" || flag == "--engines" ||
                           flag == "--isa" || flag == "--threads" || flag == "--batch" ||
                           flag == "--layout" || flag == "--accuracy" || flag == "--tune" ||
                           flag == "--json" || flag == "--tsv";
        if (!known) {
            throw usage_error("unknown option \"" + argument + "\" (see --help)");
        }
        if (value.empty()) {
            throw usage_error(flag + ": a value is missing, as in " + flag + "=VALUE (see --help)");
        }
        if (flag == "--networks") {
            for (std::string &name : split_names(flag, value)) {
                o.networks.push_back(std::move(name));
            }
        } else if (flag == "--problems") {
            std::vector<std::string> problems = split_problems(value);
            if (problems.empty()) {
                throw usage_error(flag + ": \"" + value + "\" holds no problem");
            }
            for (std::string &problem : problems) {
                o.problems.push_back(std::move(problem));
            }
        } else if (flag == "--engines") {
            o.engines = split_names(flag, value);
        } else if (flag == "--isa") {
            o.isa = choose(flag, value, isas);
        } else if (flag == "--threads") {
            o.threads = read_count(flag, value, 1024);
        } else if (flag == "--batch") {
            o.batch = read_count(flag, value, 65536);
        } else if (flag == "--layout") {
            o.layout = choose(flag, value, layouts);
        } else if (flag == "--accuracy") {
            o.accuracy = choose(flag, value, accuracies);
        } else if (flag == "--tune") {
            o.tune = choose(flag, value, tunes);
        } else if (flag == "--json") {
            o.json = value;
        } else {
            o.tsv = value;
        }
    }
    if (!o.json.empty()) {
        if (!o.out.empty()) {
            throw usage_error("--json and --benchmark_out both name a file: give one");
        }
        o.out = o.json;
        o.out_format = "json";
        o.benchmark_flags.push_back("--benchmark_out=" + o.json);
        o.benchmark_flags.push_back("--benchmark_out_format=json");
    }
    if (o.networks.empty() && o.problems.empty()) {
        o.networks.push_back("resnet50");
    }
    return o;
}

const char *layout_choice_name(layout_choice choice)
{
    return layouts[static_cast<int>(choice)].name;
}

const char *accuracy_name(doconv_accuracy accuracy)
{
    for (const choice<doconv_accuracy> &c : accuracies) {
        if (c.value == accuracy) {
            return c.name;
        }
    }
    return "?";
}

const char *tune_choice_name(tune_choice choice)
{
    return tunes[static_cast<int>(choice)].name;
}

const char *help_text()
{
    return "usage: doconv-bench [OPTION=VALUE ...]\n"
           "\n"
           "Times the convolutions of networks, engine beside engine, and checks every result.\n"
           "\n"
           "  --networks=NAME,...   networks by name or TSV files by path (default: resnet50, if "
           "no problem is given)\n"
           "  --problems=TEXT,...   problems as benchdnn writes them: "
           "mb1_ic64ih56oc64kh3ph1[:src=nhwc,dst=nhwc,bias,relu];\n"
           "                        several are cut at ',' or ';'. A problem that names a layout "
           "keeps it against --layout\n"
           "  --engines=NAME,...    doconv; direct, which is doconv's best variant that sums "
           "directly; onednn (default: all of\n"
           "                        this build; with --accuracy=strict without direct, which is "
           "the same)\n"
           "  --isa=NAME            cap for all engines: none, avx2, avx512, neon (default: the "
           "best of this CPU)\n"
           "  --threads=N           threads of every engine, each on a core of its own (default: "
           "1)\n"
           "  --batch=N             images of the networks' layers (default: 1)\n"
           "  --layout=NAME         of source and destination: nchw, nhwc, blocked (nChw16c on "
           "AVX-512, else nChw8c), or\n"
           "                        best (default): each engine its fastest, NCHW among them\n"
           "  --accuracy=NAME       class of doconv's variants: strict (direct ones alone), "
           "default "
           "(algorithms of a few times\n"
           "                        their error too: best against best), fast\n"
           "  --tune=NAME           off: the estimate chooses; read: the cache; tune (default): "
           "measure what the cache lacks;\n"
           "                        force: measure all anew\n"
           "  --cold                weights come from memory: each call executes with another of "
           "so many copies that no cache holds\n"
           "                        them, while source and destination stay warm. Tuned so too, "
           "with a cache key of its own\n"
           "  --json=FILE           results in Google Benchmark's JSON\n"
           "  --tsv=FILE            a row a layer, a total and the geometric means of the ratios\n"
           "  --benchmark_...       Google Benchmark's own flags. --benchmark_filter takes "
           "ENGINE/PROBLEM,\n"
           "                        --benchmark_min_time the seconds of samples of an engine and "
           "problem,\n"
           "                        --benchmark_repetitions whole measurements; the table shows "
           "their median\n"
           "\n"
           "A figure is the median of at least 15 samples; the engines, a loop of FMAs, whose rate "
           "is the peak, and a copy of as\n"
           "many bytes as the layer's tensors have (half of them read, half written) take turns. "
           "% copy, in TSV and JSON and for\n"
           "networks with depthwise layers in the table, is the copy's time / doconv's; of cold "
           "weights the copy only reads their\n"
           "bytes.\n"
           "The ratio is oneDNN's time / doconv's, and beside it / that of doconv's best direct "
           "variant: over 1, doconv is faster.\n"
           "oneDNN's weights are reordered and its primitives created beforehand; with "
           "--layout=best it has its fastest layout and\n"
           "implementation. The error is the largest |y - ref| of the sampled outputs over their "
           "largest |ref|, ref being sums in\n"
           "double. The table has the columns that its width allows (120 where there is no "
           "terminal), TSV and JSON have all.\n"
           "\n"
           "exit status: 0 done; 1 a wrong result, or nothing measured; 2 bad usage\n";
}

} // namespace bench
