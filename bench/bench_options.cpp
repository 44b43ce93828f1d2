/* SPDX-License-Identifier: MIT */
#include "bench_options.h"

#include <algorithm>
#include <cctype>
#include <iterator>
#include <set>

#include "network_list.h"
#include "option_values.h"

namespace bench
{

namespace
{

constexpr option_choice layouts[] = {{"nchw", static_cast<int>(layout_choice::nchw)},
                                     {"nhwc", static_cast<int>(layout_choice::nhwc)},
                                     {"blocked", static_cast<int>(layout_choice::blocked)},
                                     {"best", static_cast<int>(layout_choice::best)},
                                     {nullptr, 0}};
/* What --tune takes: the library's modes, and ours. */
constexpr int audit_mode = -1;
constexpr option_choice tunes[] = {{"off", DOCONV_TUNE_OFF},   {"read", DOCONV_TUNE_READ},
                                   {"tune", DOCONV_TUNE_TUNE}, {"force", DOCONV_TUNE_FORCE},
                                   {"audit", audit_mode},      {nullptr, 0}};
constexpr option_choice booleans[] = {{"true", 1}, {"1", 1},  {"yes", 1},  {"false", 0},
                                      {"0", 0},    {"no", 0}, {nullptr, 0}};
constexpr option_choice formats[] = {{"console", 0}, {"json", 1}, {"csv", 2}, {nullptr, 0}};

/* Throws what one of the option_...() said. */
void expect(int result, const char *why)
{
    if (result != 0) {
        throw usage_error(why);
    }
}

template <class T>
T choose(const std::string &flag, const std::string &value, const option_choice *choices)
{
    int chosen = 0;
    char why[OPTION_WHY_SIZE];
    expect(option_choose(flag.c_str(), value.c_str(), choices, &chosen, why), why);
    return static_cast<T>(chosen);
}

int read_count(const std::string &flag, const std::string &value, int most)
{
    int count = 0;
    char why[OPTION_WHY_SIZE];
    expect(option_count(flag.c_str(), value.c_str(), most, &count, why), why);
    return count;
}

double read_seconds(const std::string &flag, const std::string &value, bool zero)
{
    double seconds = 0;
    char why[OPTION_WHY_SIZE];
    expect(option_amount(flag.c_str(), value.c_str(), "seconds", zero, 3600, &seconds, why), why);
    return seconds;
}

size_t read_bytes(const std::string &flag, const std::string &value)
{
    double bytes = 0;
    char why[OPTION_WHY_SIZE];
    expect(option_amount(flag.c_str(), value.c_str(), "bytes", false, 1e15, &bytes, why), why);
    return static_cast<size_t>(bytes);
}

std::vector<std::string> split_names(const std::string &flag, std::string text)
{
    char *parts[64];
    int count = 0;
    char why[OPTION_WHY_SIZE];
    expect(option_split(flag.c_str(), text.data(), parts, 64, &count, why), why);
    return std::vector<std::string>(parts, parts + count);
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
        o.list_only = !has_value || choose<bool>(flag, value, booleans);
    } else if (flag == "--benchmark_filter") {
        o.filter = value;
    } else if (flag == "--benchmark_format") {
        choose<int>(flag, value, formats);
        o.display_format = value;
    } else if (flag == "--benchmark_out") {
        o.out = value;
    } else if (flag == "--benchmark_out_format") {
        choose<int>(flag, value, formats);
        o.out_format = value;
    } else if (flag == "--benchmark_min_time") {
        o.min_seconds = read_seconds(flag, value, true);
    } else if (flag == "--benchmark_repetitions") {
        read_count(flag, value, 1000);
    }
}

/* An option that takes a value; argument: all of it. */
void read_value(options &o, const std::string &argument, const std::string &flag,
                const std::string &value)
{
    const char *const takers[] = {"--networks", "--problems", "--engines",  "--isa",  "--threads",
                                  "--batch",    "--layout",   "--accuracy", "--tune", "--packed",
                                  "--seconds",  "--cache",    "--json",     "--tsv"};
    if (std::find(std::begin(takers), std::end(takers), flag) == std::end(takers)) {
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
        o.isa = choose<doconv_isa>(flag, value, option_isas);
    } else if (flag == "--threads") {
        o.threads = read_count(flag, value, 1024);
    } else if (flag == "--batch") {
        o.batch = read_count(flag, value, 65536);
    } else if (flag == "--layout") {
        o.layout = choose<layout_choice>(flag, value, layouts);
    } else if (flag == "--accuracy") {
        o.accuracy = choose<doconv_accuracy>(flag, value, option_accuracies);
    } else if (flag == "--tune") {
        const int mode = choose<int>(flag, value, tunes);
        o.audit = mode == audit_mode;
        o.tune = o.audit ? DOCONV_TUNE_TUNE : static_cast<doconv_tune_mode>(mode);
    } else if (flag == "--packed") {
        o.packed_as_direct = value == "direct";
        o.packed = o.packed_as_direct ? 0 : read_bytes(flag, value);
    } else if (flag == "--seconds") {
        o.audit_seconds = read_seconds(flag, value, false);
    } else if (flag == "--cache") {
        o.audit_cache = value;
    } else if (flag == "--json") {
        o.json = value;
    } else {
        o.tsv = value;
    }
}

/* Throws usage_error if options were given that don't go together. */
void expect_compatible(const options &o, const std::set<std::string> &given)
{
    if (o.plans && !o.tsv.empty()) {
        throw usage_error("--plans and --tsv: plans have no TSV, only --json");
    }
    for (const char *flag : {"--engines", "--cold", "--packed", "--plans", "--chain"}) {
        if (o.audit && given.count(flag) != 0) {
            throw usage_error(std::string("--tune=audit and ") + flag + ": give one");
        }
    }
    for (const char *flag : {"--seconds", "--cache"}) {
        if (!o.audit && given.count(flag) != 0) {
            throw usage_error(std::string(flag) + ": only with --tune=audit");
        }
    }
}

/* A chain is of networks, and its layers have no rows to choose from. */
void check_chain(const options &o)
{
    const std::pair<bool, const char *> against[] = {{!o.problems.empty(), "--problems"},
                                                     {o.cold, "--cold"},
                                                     {o.plans, "--plans"},
                                                     {!o.filter.empty(), "--benchmark_filter"},
                                                     {o.list_only, "--benchmark_list_tests"}};
    for (const auto &[given, flag] : against) {
        if (given) {
            throw usage_error(std::string("--chain and ") + flag + " don't go together");
        }
    }
}

/* What was not given and isn't the same in every mode. */
void set_defaults(options &o, const std::set<std::string> &given)
{
    if (o.audit && given.count("--layout") == 0) {
        o.layout = layout_choice::nhwc;
    }
    if (!o.networks.empty() || !o.problems.empty()) {
        return;
    }
    if (!o.audit) {
        o.networks.push_back("resnet50");
        return;
    }
    char names[64][NETWORK_NAME_SIZE];
    const int count = network_names(names, 64);
    o.networks.assign(names, names + count);
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
    std::set<std::string> given;
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
        given.insert(flag);
        if (flag.rfind("--benchmark_", 0) == 0) {
            read_benchmark_flag(o, flag, value, has_value);
            if (flag != "--benchmark_filter" && flag != "--benchmark_list_tests") {
                o.benchmark_flags.push_back(argument);
            }
        } else if (flag == "--cold" || flag == "--plans" || flag == "--chain") {
            if (has_value) {
                throw usage_error(flag + ": \"" + value + "\": it takes no value (see --help)");
            }
            (flag == "--cold" ? o.cold : flag == "--plans" ? o.plans : o.chain) = true;
        } else {
            read_value(o, argument, flag, value);
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
    expect_compatible(o, given);
    if (o.chain) {
        check_chain(o);
        o.cold = true;
    }
    set_defaults(o, given);
    return o;
}

const char *layout_choice_name(layout_choice choice)
{
    return option_name(layouts, static_cast<int>(choice));
}

const char *accuracy_name(doconv_accuracy accuracy)
{
    return option_name(option_accuracies, accuracy);
}

} // namespace bench
