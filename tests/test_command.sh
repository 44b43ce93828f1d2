#!/bin/sh
# SPDX-License-Identifier: MIT
# The doconv command's options, tables and tuning: test_command.sh DOCONV TESTS_DIR [WRAPPER]
. "$(dirname "$0")/command_support.sh"

# ---- help and version
run 0 help
out 'usage: doconv VERB'
run 0 --help
for verb in info explain tune verify fold cache; do
    run 0 help $verb
    out "usage: doconv $verb"
    run 0 $verb --help
    out "usage: doconv $verb"
done
run 0 version
out 'doconv 0.'
usage 'a verb is missing'
usage 'no verb is called "convolve"' convolve
usage 'no verb is called "convolve"' help convolve
usage 'one word too many: "now"' version now

# ---- options
usage 'no option is called "--speed"' info --speed=9
usage 'no option is called "-q"' info -q
usage '--isa: "sse2" is not none, avx2, avx512 or neon' info --isa=sse2
usage '--isa needs a value' info --isa
usage '--threads: "0" is not a whole number in 1..4096' info --threads=0
usage '--threads: "99999999999999999999" is not' info --threads=99999999999999999999
usage '--threads: "-1" is not' info --threads=-1
usage '--threads: "" is not' info --threads=
usage '--measure takes no value' explain $small --measure=1
usage '--workspace: "1k" is not a whole number of bytes' explain $small --workspace=1k
usage '--packed: "1k" is not a whole number of bytes' explain $small --packed=1k
usage '--budget: "nan" is not a number of seconds' tune $small --budget=nan
usage '--budget: "0" is not a number of seconds' tune $small --budget=0
usage '--layout: "nchw,chwn" is not' tune $small --layout=nchw,chwn
usage '--accuracy: "exact" is not strict, default or fast' tune $small --accuracy=exact
usage '--batch: "two" is not a whole number' tune $small --batch=two
usage '--case needs a value' verify "$golden" --case

# ---- info
run 0 info
out 'reference'
out 'registry'
out "error: 1 is a direct kernel's"
out "$work/cache"
run 0 info --isa=none --threads=3
out 'isa       none'
out 'threads   3'
usage 'one word too many: "everything"' info everything

# ---- explain
usage 'a problem is missing' explain
usage 'one word too many' explain $small $small
usage 'no field is called' explain rhubarb
usage 'ic is missing' explain ih5oc3
usage 'sh' explain mb1ic8ih6oc8kh3sh0
usage 'is no attribute' explain $small:colour=red
run 0 explain $small --threads=1
out 'choice    '
out 'origin    estimate'
out 'reference'
no_out 'cached'
run 0 explain $small:clamp=0/6 --isa=none --workspace=1
out 'clamp=0/6'
out 'reference'

out 'accuracy  default: error 4 at most'
no_out '== '
no_out 'limit     packed'
run 0 explain $small --workspace=100000 --packed=3000
out 'limit     workspace of 100000 bytes'
out 'limit     packed weights of 3000 bytes'
run 1 explain $small --packed=1000
out 'packed KiB'
out 'its packed weights take more than the limit'
err 'no kernel takes this problem within packed weights of 1000 bytes'
run 0 explain $small:accuracy=strict --isa=none
out 'accuracy  strict: error 1 at most'
out 'error'

# An engine's plans take what is nearest to what the layers of a network were tuned as.
cat >"$work/two.tsv" <<'TSV'
count	ci	h	w	co	kh	kw	sh	sw	pt	pl	pb	pr	dh	dw	groups
1	4	6	6	8	3	3	1	1	1	1	1	1	1	1	1
1	8	6	6	8	1	1	1	1	0	0	0	0	1	1	1
TSV
DOCONV_CACHE=$work/engine
run 0 tune "$work/two.tsv" --layout=nhwc --threads=1 --budget=0.001
for problem in mb1_ic4ih6oc8kh3ph1 mb1_ic8ih6oc8kh1; do
    run 0 explain $problem:src=nhwc,dst=nhwc,bias,residual,relu --threads=1 --runner=caller \
        --cold --workspace=1000000
    out 'origin    nearest'
    out "runner=default workspace=0 weights=warm"
    out 'when      20'
    out 'against   '
    out 'sure      to '
done
run 0 explain mb2_ic4ih6oc8kh3ph1:src=nhwc,dst=nhwc --threads=1
out 'origin    neighbour'
out 'sure      to '
run 0 tune mb1_ic4ih6oc8kh3ph1 --bias --residual --post=relu6 --runner=caller --threads=2 --cold \
    --workspace=1000000 --packed=1000000 --budget=0.001
out 'bias,residual,clamp=0/6'
run 0 explain mb1_ic4ih6oc8kh3ph1:bias,residual,clamp=0/6 --runner=caller --threads=2 --cold \
    --workspace=1000000 --packed=1000000
out 'origin    cache'
usage 'not for layers in training' tune mb1_ic4ih6oc8kh3ph1 --train --post=relu
usage 'do not go with --chain' tune resnet18 --chain --cold
usage '"gelu" is not none, relu or relu6' tune mb1_ic4ih6oc8kh3ph1 --post=gelu
usage '"both" is not own or caller' tune mb1_ic4ih6oc8kh3ph1 --runner=both
DOCONV_CACHE=$work/cache

# ---- explain of layers in training: every operation with its candidates
# section ROLE TEXT: the last run printed the text under the role's heading.
section() {
    if awk -v head="== $1 ==" '/^== / { on = $0 == head } on' "$work/out" | grep -qE -- "$2"; then
        pass
    else
        fail "doconv $last: under the heading $1 standard output lacks: $2"
    fi
}
# sections ROLE...: the last run explained these, each with estimates, a choice and its origin.
sections() {
    out "training  $# operations"
    for role in "$@"; do
        section "$role" '^problem   mb1_ic'
        section "$role" 'million multiply-adds$'
        section "$role" '^candidate .* error +estimate ms'
        section "$role" ' 1 +[0-9]+\.[0-9]{4}$'
        section "$role" '^choice    [a-z]+'
        section "$role" '^origin    estimate'
    done
}
run 0 explain $small:dmul=9 --threads=1
out 'accuracy  default: error 4 at most'
sections forward fold 'gradient of weight' 'gradient of fold' 'gradient of src'
section forward '^operation convolution, its weight new in each call'
section forward '^output    1 x 8 x 6 x 6, 0\.020736 million'
section forward '^refused +reason'
section fold '^operation fold$'
section fold '^weight    8 x 8 x 3 x 3, 0\.005184 million'
section fold 'compose:portable'
section 'gradient of weight' '^operation weight_gradient$'
section 'gradient of weight' '^gradient  of W 8 x 8 x 9, of D 8 x 9 x 9, 0\.020736 million'
section 'gradient of weight' 'loops:portable'
section 'gradient of fold' '^operation fold_gradient$'
section 'gradient of fold' '^gradient  of W 8 x 8 x 9, of D 8 x 9 x 9, 0\.010368 million'
section 'gradient of src' '^output    1 x 8 x 6 x 6'
run 0 explain $small:dmul=9 --isa=none
section 'gradient of src' 'this CPU or the ISA cap does not allow it$'
section fold '^choice    compose:portable'
run 0 explain $small:dmul=12,composition=feature,bias --threads=1
sections forward backward
section forward '^operation feature_forward$'
section forward '^problem   .*bias,dmul=12'
section forward '^output    1 x 8 x 6 x 6, 0\.058752 million'
section forward 'feature:portable'
section backward '^operation feature_backward$'
section backward '^gradient  of src 1 x 8 x 6 x 6$'
section backward '^gradient  of W 8 x 8 x 12, of D 8 x 9 x 12, 0\.117504 million'
section backward 'feature:portable'
# A layer whose composition is open: what either consists of, then the choice.
run 0 explain $small:dmul=9,composition=auto --threads=1
sections 'kernel: forward' 'kernel: fold' 'kernel: gradient of weight' 'kernel: gradient of fold' \
    'kernel: gradient of src' 'feature: forward' 'feature: backward' 'forward: composition' \
    'step: composition'
section 'forward: composition' '^operation layer_forward$'
section 'step: composition' '^operation layer_step$'
section 'step: composition' '^kernel +- +- '
section 'step: composition' '^feature +- +- '
section 'step: composition' '^gradient  of W 8 x 8 x 9, of D 8 x 9 x 9, 0\.07776 million'
run 0 explain g2$small:dmul=9,composition=auto,mapping=pytorch --threads=1
section 'step: composition' '^feature +feature composition is defined for the paper'
section 'step: composition' '^choice    kernel'
# A layer that is its own gradient's convolution, and one with a class for each stride.
run 0 explain $small --train --threads=1
sections 'forward, gradient of src' 'gradient of weight'
section 'gradient of weight' '^gradient  of weight 8 x 8 x 3 x 3'
run 0 explain ${small}sh2 --train --threads=1
out 'training  6 operations'
section 'gradient of src' 'kh2kw1'
# What can't be trained, and what makes no sense.
for verb in explain tune; do
    run 1 $verb g2$small:dmul=9,composition=feature,mapping=pytorch
    err "mapping: feature composition is defined for the paper's only, and pytorch differs"
    run 1 $verb $small:relu --train
    err 'relu: post-operations are not part of a layer in training'
    usage 'composition: 2 does not go with d_mul = 0' $verb $small:composition=feature
    usage '"composition=magic" is no attribute' $verb $small:dmul=9,composition=magic
done
usage '--workspace: a layer in training has no limit' explain $small:dmul=9 --workspace=4096
usage '--packed: a layer in training has no limit' explain $small --train --packed=4096
usage '--train takes no value' tune $small --train=1
usage '--d-mul: "0" is not mn or a whole number' tune resnet18 --d-mul=0
usage '--d-mul: "nm" is not mn' tune resnet18 --d-mul=nm
usage '--composition: "both" is not kernel, feature or auto' \
    tune resnet18 --d-mul=mn --composition=both
usage '--composition needs --d-mul' tune resnet18 --composition=feature

# ---- tune: measured once, then from the cache, which explain knows too
run 0 tune $small --threads=1 --budget=0.05
out '1 problem: 1 measured'
err '1/1 '
run 0 explain $small --threads=1 --measure
out 'measured  '
# A busy machine may leave doubtful results, which are measured again; it gets a few tries.
tries=0
while :; do
    run 0 tune $small --threads=1
    if grep -q '0 measured (0 variants), 1 from the cache' "$work/out" || [ $tries -eq 5 ]; then
        break
    fi
    tries=$((tries + 1))
done
out '1 problem: 0 measured (0 variants), 1 from the cache'
run 0 explain $small --threads=1
out 'origin    cache'
out 'cached    '
run 0 tune $small --threads=1 --force --budget=0.05
out '1 problem: 1 measured'
run 0 tune $small $small --layout=nchw --layout=nhwc,blocked --threads=1 --budget=0.02
out '3 problems:'
out 'src=nhwc,dst=nhwc'
out 'src=nChw'
run 0 tune $small:src=nhwc,dst=nchw,accuracy=strict --layout=nchw --accuracy=fast --threads=1 \
    --budget=0.02
out ':src=nhwc,' # the rest may be on another line
out 'accuracy=strict'

# ---- tune of layers in training: every operation measured once, then from the cache
# cached COUNT ARGUMENT...: tunes until all operations are in the cache and none is doubtful; a busy
# machine gets a few tries.
cached() {
    count=$1
    shift
    tries=0
    while :; do
        run 0 tune "$@"
        if grep -q "^$count: 0 measured (0 variants)" "$work/out" || [ $tries -eq 8 ]; then
            break
        fi
        tries=$((tries + 1))
    done
    out "$count: 0 measured (0 variants), ${count% *} from the cache, 0 failed"
}
run 0 tune $small:dmul=9 --threads=1 --budget=0.02
out '5 operations: 5 measured'
out 'role'
for role in forward fold 'gradient of weight' 'gradient of fold' 'gradient of src'; do
    err ", $role: "
done
cached '5 operations' $small:dmul=9 --threads=1 --budget=0.02
run 0 explain $small:dmul=9 --threads=1
for role in forward fold 'gradient of weight' 'gradient of fold' 'gradient of src'; do
    section "$role" '^origin    cache'
    section "$role" '^cached    '
done
run 0 explain $small:dmul=9,composition=feature --threads=1 --measure
for role in forward backward; do
    section "$role" '^measured  feature:'
    section "$role" 'spread +clean( \(retaken\))? +rms( 1e-7)?$'
done
cached '2 operations' $small:dmul=9,composition=feature --threads=1 --budget=0.02
cached '2 operations' $small --train --threads=1 --budget=0.02
run 0 tune $small:dmul=9,composition=auto --threads=1 --budget=0.02
out '9 operations: '
err ', step: composition: '
run 0 explain $small:dmul=9,composition=auto --threads=1 --measure
for role in 'forward: composition' 'step: composition'; do
    section "$role" '^measured  (kernel|feature)'
    section "$role" 'variants measured'
done
# A plan's entry is another than that of the same convolution in training.
run 0 tune $small $small:dmul=9 --threads=1 --budget=0.02
out '6 operations: '
err "pw1dh0dw0: "

# ---- networks
header=$(head -n 1 "$networks/restoration.tsv")
network() {
    { printf '%s\n' "$header"; printf "$1"; } >"$work/net.tsv"
}
network '3\t8\t6\t6\t8\t3\t3\t1\t1\t1\t1\t1\t1\t1\t1\t1\n'
run 0 tune "$work/net.tsv" --threads=1 --batch=2 --budget=0.02
out 'mb2_ic8ih6'
run 0 tune "$work/net.tsv" --threads=1 --train --budget=0.02
out '2 operations: '
pointwise='1\t8\t6\t6\t8\t1\t1\t1\t1\t0\t0\t0\t0\t1\t1\t1\n'
network '3\t8\t6\t6\t8\t3\t3\t1\t1\t1\t1\t1\t1\t1\t1\t1\n'"$pointwise"
run 0 tune "$work/net.tsv" --threads=1 --d-mul=mn --composition=feature --budget=0.02
out '4 operations: '
err ':dmul=9,composition=feature, backward: '
err 'kh1kw1sh1sw1ph0pw0dh0dw0, forward, gradient of src: '
network '3\t8\t6\t6\t8\t3\t3\t1\t1\t1\t1\t1\t1\t1\t1\t1\n'
DOCONV_NETWORKS=$work
export DOCONV_NETWORKS
run 0 tune net --threads=1 --batch=2 --budget=0.02
out 'mb2_ic8ih6'
run 0 info
out 'net, '
unset DOCONV_NETWORKS

# ---- a network whole
row='\t8\t6\t6\t8\t3\t3\t1\t1\t1\t1\t1\t1\t1\t1\t1\n'
{
    printf 'name\tinput\tresidual\tpost\tbias\tci\th\tw\tco\tkh\tkw\t'
    printf 'sh\tsw\tpt\tpl\tpb\tpr\tdh\tdw\tgroups\n'
    printf "first\t-\t-\trelu\t1$row"
    printf "second\tfirst\t-\trelu\t1$row"
    printf "third\tsecond\tfirst\trelu\t1$row"
} >"$work/graph.tsv"
run 0 tune "$work/graph.tsv" --chain --threads=1 --budget=0.02 --output="$work/graph.plan"
out 'third '
out 'nhwc alone: '
out 'problems measured, 0 times estimated'
grep -q '^doconv-network-plan 1$' "$work/graph.plan" || fail 'no plan was written'
grep -q '^layer third$' "$work/graph.plan" || fail 'the plan lacks a layer'
run 0 tune "$work/graph.tsv" --chain --threads=1 --layout=nchw --deadline=0.001
out 'nchw alone: '
run 1 tune "$work/graph.tsv" --chain --threads=1 --output="$work/absent/graph.plan"
usage '--chain takes one network' tune resnet18 vgg16 --chain
usage '--output and --deadline need --chain' tune resnet18 --output="$work/x"
usage '--chain is for networks that are not in training' tune resnet18 --chain --train
usage 'restoration' tune restoration --chain
usage 'is neither a network nor a problem' tune resnet51
usage 'No such file' tune "$work/absent.tsv"
usage 'not a regular file' tune "$work/"
network ''
usage 'no layer follows the header' tune "$work/net.tsv"
network '1\t8\t6\t6\t8\t3\t3\t0\t1\t1\t1\t1\t1\t1\t1\t1\n'
usage 'line 2, column "sh": "0" is no whole number' tune "$work/net.tsv"
network '1\t8\t6\t6\t8\t3\t3\t1\t1\t1\t1\t1\t1\t1\t1\t1\n\n1\t8\t6\t6\t8\t3\t3\n'
usage 'line 4: column "sh" is missing' tune "$work/net.tsv"
network '1\t8\t6\t6\t8\t3\t3\t1\t1\t1\t1\t1\t1\t1\t1\t1\t1\n'
usage 'line 2: more than 16 columns' tune "$work/net.tsv"
network '1\t8\t6\t 6\t8\t3\t3\t1\t1\t1\t1\t1\t1\t1\t1\t1\n'
usage 'line 2, column "w": " 6" is no whole number' tune "$work/net.tsv"
network '1\t8\t6\t99999999999\t8\t3\t3\t1\t1\t1\t1\t1\t1\t1\t1\t1\n'
usage 'line 2, column "w": "99999999999" is no' tune "$work/net.tsv"
network '1\t8\t6\t6\t9\t3\t3\t1\t1\t1\t1\t1\t1\t1\t1\t2\n'
usage 'line 2, column "groups": 2 does not divide' tune "$work/net.tsv"
network '1\t8\t6\t6\t8\t9\t3\t1\t1\t1\t1\t1\t1\t1\t1\t1\n'
usage 'line 2: no convolution' tune "$work/net.tsv"
printf 'count\tci\tspeed\n' >"$work/net.tsv"
usage 'line 1, column 3: no column is called "speed"' tune "$work/net.tsv"
printf 'count\tci\tci\n' >"$work/net.tsv"
usage 'line 1, column 3: "ci" is there twice' tune "$work/net.tsv"
printf 'count\tci\n' >"$work/net.tsv"
usage 'line 1: column "h" is missing' tune "$work/net.tsv"
for file in "$networks"/*.tsv; do
    name=$(basename "$file" .tsv)
    run 0 info
    out "$name"
done

# ---- tables fit the output, and lose nothing there
attributes=src=nchw,dst=nChw16c,bias,residual,clamp=0/6,accuracy=strict
long=mb1ic16ih11iw112oc16kh3kw3sh2sw2ph1pw1:$attributes
# Those of standard input, sorted: the same for the same text, however it is broken into lines.
characters() {
    tr -d ' \r\n' | fold -w 1 | LC_ALL=C sort | uniq -c
}
# LINES of at most WIDTH characters: fits WIDTH FILE
fits() {
    widest=$(tr -d '\r' <"$2" |
        awk '{ if (length($0) > most) most = length($0) } END { print most + 0 }')
    if [ "$widest" -le "$1" ] && [ "$widest" -gt 0 ]; then
        pass
    else
        fail "doconv $last: a line of $widest characters, over $1"
    fi
}
run 0 tune $long --budget=0.001 --force
grep -v '^problem ' "$work/out" >"$work/table"
fits 120 "$work/table"
if [ -z "$wrapper" ] && command -v script >/dev/null &&
    script -qec true /dev/null >/dev/null 2>&1 </dev/null; then
    terminal() { # COLUMNS ARGUMENT...: the last run's output on a terminal
        columns=$1
        shift
        script -qec "stty cols $columns; '$doconv' $*" /dev/null >"$work/terminal" 2>&1 </dev/null
        last="$* on $columns columns"
    }
    run 0 explain $small --measure # more columns
    for columns in 80 100 132; do
        terminal $columns explain $small
        tr -d '\r' <"$work/terminal" |
            awk '/^candidate/ { table = 1 } /^$/ { table = 0 } table' >"$work/table"
        fits $columns "$work/table"
        characters <"$work/terminal" >"$work/narrow"
        terminal 400 explain $small
        characters <"$work/terminal" >"$work/wide"
        if cmp -s "$work/narrow" "$work/wide"; then
            pass
        else
            fail "doconv $last: a table of $columns columns lost text"
        fi
    done
else
    echo "skipped: tables on a terminal, for script is missing"
fi

# ---- cache
old=$work/cache/0123456789abcdef
mkdir -p "$old"
echo winner >"$old/fedcba9876543210.txt"
usage 'what to do is missing: list, show' cache
usage 'nothing is called "dirty" (list, show' cache dirty
usage 'clean: one word too many: "now"' cache clean now
usage 'list has no option --all' cache list --all
usage 'clean has no option --environment' cache clean --environment=own
usage 'export has no option --output' cache export x --output=y
usage 'show: PROBLEM or pattern is missing' cache show
usage 'export: FILE is missing' cache export
usage 'merge: FILE ... is missing' cache merge
usage 'import: one word too many: "b"' cache import a b
usage 'merge has no option --name' cache merge a --name=x
usage '"conv" is no problem, nor a pattern' cache forget conv
usage '"mine" is not own, all or 16 digits' cache list --environment=mine
run 0 cache clean
out "cache     $work/cache"
out '0 removed, 0 bytes'
touch -t 202001010000 "$old/fedcba9876543210.txt" "$old"
run 0 cache clean
out 'removed   0123456789abcdef/fedcba9876543210.txt'
out '2 removed, 7 bytes'
mkdir -p "$old"
run 0 cache clean --all
out 'removed   0123456789abcdef'
if [ -z "$(ls -A "$work/cache")" ]; then pass; else fail "cache clean --all left something"; fi
run 0 cache list
out '0 entries of 0 environments'

# ---- winners from one cache to another
cached '1 problem' $small --threads=1 --budget=0.02
cached '1 problem' mb1ic5ih7oc6kh3ph1 --threads=1 --budget=0.02
run 0 cache list
out '(own)'
out '  cpu '
out '2 entries of 1 environment'
if awk 'length > 120 { exit 1 }' "$work/out"; then pass; else fail 'cache list: lines are long'; fi
run 0 cache show $small # as any text that means it
out 'problem   mb1_ic8ih6iw6oc8'
out 'for       threads=1 runner=default'
out '100.0%'
no_out 'ic5ih7'
run 0 cache show '*_ic?ih*'
out 'ic5ih7'
run 1 cache show 'mb7*'
err 'no entry'
run 0 cache export "$work/one.txt"
out 'one.txt: 2 entries of 1 environment exported'
run 0 cache export -
if cmp -s "$work/out" "$work/one.txt"; then pass; else fail 'exports differ'; fi
run 0 cache forget 'mb1_ic8*'
out '1 entry forgotten'
run 0 cache export "$work/two.txt"
run 0 explain $small --threads=1
out 'origin    estimate'
run 0 cache import "$work/one.txt"
out '1 of 2 entries stored'
run 0 explain $small --threads=1
out 'origin    cache'
run 0 cache merge "$work/two.txt" "$work/one.txt"
if cmp -s "$work/out" "$work/one.txt"; then pass; else fail 'a merge is not the larger'; fi
run 0 cache merge "$work/two.txt" "$work/one.txt" --output="$work/merged.txt"
if cmp -s "$work/merged.txt" "$work/one.txt"; then pass; else fail 'a merged file differs'; fi
run 0 cache merge "$work/one.txt" --environment=0123456789abcdef
no_out 'environment'
run 0 cache to-c "$work/table.c"
out 'table.c: 2 entries of 1 environment written as a table'
run 0 cache to-c - "$work/one.txt" "$work/two.txt" --name=mine
out 'const doconv_table mine = '
sed 's/mine/tuned_table/' "$work/out" | cmp -s - "$work/table.c"
if [ $? -eq 0 ]; then pass; else fail 'tables of cache and export differ'; fi
run 1 cache regret "$work/one.txt"
err 'two environments, not of 1'
cached '1 problem' $small --threads=1 --budget=0.02 --isa=none
run 0 cache export "$work/both.txt"
out '3 entries of 2 environments'
run 0 cache regret "$work/both.txt" "$work/one.txt"
out 'choices  on  problems  measured  loss'
out 'all'
run 0 cache forget '*' --environment=own
run 0 cache import "$work/one.txt"
run 1 cache to-c - "$work/one.txt" --name=9
err 'no identifier'
run 1 cache to-c - "$work/one.txt" --environment=0123456789abcdef
err 'no entries'
sed 's/^workspace ./workspace 7/' "$work/one.txt" >"$work/damaged.txt"
run 0 cache clean --all
run 2 cache import "$work/damaged.txt"
err 'damaged.txt: malformed or inconsistent file: line 13: the entry is refused: its checksum'
run 2 cache import "$work"
err 'not a regular file'
run 2 cache import "$work/nonesuch"
run 1 cache export "$work/nonesuch/file"
run 0 cache list
out '0 entries'
home=$HOME
DOCONV_CACHE=
HOME=
run 1 cache export -
err 'there is no directory'
DOCONV_CACHE=$work/cache
HOME=$home

# ---- output that can't be written is no success
if [ -w /dev/full ]; then
    $wrapper "$doconv" help >/dev/full 2>"$work/err"
    if [ $? -eq 1 ]; then pass; else fail "a full disk went unnoticed"; fi
fi

summary
