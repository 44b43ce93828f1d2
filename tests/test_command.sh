#!/bin/sh
# SPDX-License-Identifier: MIT
# Tests of the doconv command: test_command.sh DOCONV TESTS_DIR [WRAPPER]
# DOCONV is the program, TESTS_DIR the source directory of the tests (with golden/), WRAPPER what
# runs a foreign program, with its arguments (default: what Meson names in a cross build).
set -u

if [ $# -lt 2 ] || [ $# -gt 3 ]; then
    echo "usage: test_command.sh DOCONV TESTS_DIR [WRAPPER]" >&2
    exit 2
fi
doconv=$1
golden=$2/golden
networks=$2/../networks
wrapper=${3:-${MESON_EXE_WRAPPER:-}}
if [ ! -f "$golden/cases.tsv" ]; then
    echo "test_command.sh: $golden has no golden cases" >&2
    exit 2
fi
tab=$(printf '\t')

work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
trap 'exit 2' HUP INT TERM
# The caller's settings and cache must not change an outcome.
unset DOCONV_MAX_ISA DOCONV_TUNE DOCONV_VERBOSE DOCONV_NETWORKS XDG_CACHE_HOME
DOCONV_CACHE=$work/cache
OMP_NUM_THREADS=1
export DOCONV_CACHE OMP_NUM_THREADS

passed=0
failed=0

pass() {
    passed=$((passed + 1))
}

fail() {
    failed=$((failed + 1))
    echo "FAIL: $*"
    sed 's/^/    /' "$work/out" "$work/err" | head -n 30
}

# run STATUS ARGUMENT...: runs the command and checks its exit status.
run() {
    expected=$1
    shift
    # Unquoted on purpose: the wrapper may have arguments.
    $wrapper "$doconv" "$@" >"$work/out" 2>"$work/err"
    status=$?
    if [ $status -eq "$expected" ]; then
        pass
    else
        fail "doconv $*: exit status $status, expected $expected"
    fi
    last=$*
}

# out TEXT, err TEXT: the last run printed it. no_out TEXT: it didn't.
out() {
    if grep -qF -- "$1" "$work/out"; then
        pass
    else
        fail "doconv $last: standard output lacks: $1"
    fi
}
err() {
    if grep -qF -- "$1" "$work/err"; then
        pass
    else
        fail "doconv $last: standard error lacks: $1"
    fi
}
no_out() {
    if grep -qF -- "$1" "$work/out"; then
        fail "doconv $last: standard output has: $1"
    else
        pass
    fi
}

# usage TEXT ARGUMENT...: bad usage: exit status 2, the text on standard error, nothing on standard
# output.
usage() {
    text=$1
    shift
    run 2 "$@"
    err "$text"
    if [ -s "$work/out" ]; then
        fail "doconv $last: bad usage, but standard output is not empty"
    else
        pass
    fi
}

small=mb1ic8ih6oc8kh3ph1

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
        section "$role" '^choice    [a-z]+:'
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
usage '--composition: "both" is not kernel or feature' tune resnet18 --d-mul=mn --composition=both
usage '--composition needs --d-mul' tune resnet18 --composition=feature

# ---- tune: measured once, then from the cache, which explain knows too
run 0 tune $small --threads=1 --budget=0.05
out '1 problem: 1 measured'
err '1/1 '
run 0 explain $small --threads=1 --measure
out 'measured  '
# A noisy machine may refuse to store; it gets a few tries.
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
out ':src=nhwc,accuracy=strict'

# ---- tune of layers in training: every operation measured once, then from the cache
# cached COUNT ARGUMENT...: tunes until all operations are in the cache; a noisy machine gets a few
# tries.
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
    section "$role" 'spread +rms( 1e-7)?$'
done
cached '2 operations' $small:dmul=9,composition=feature --threads=1 --budget=0.02
cached '2 operations' $small --train --threads=1 --budget=0.02
# A plan's entry is another than that of the same convolution in training.
run 0 tune $small $small:dmul=9 --threads=1 --budget=0.02
out '6 operations: '
err "pw1dh0dw0: "

# ---- networks
header=$(head -n 1 "$networks/resnet18.tsv")
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

# ---- verify
usage 'a directory is missing' verify
usage 'one word too many' verify "$golden" "$golden"
usage 'has no case called "conv9x9"' verify "$golden" --case=conv9x9
run 0 verify "$golden" --case=conv3x3_relu
out '1 run, 0 of them failed'
out 'PASS'
run 0 verify "$golden" --case=conv1x1_s2 --isa=none --verbose --threads=2
out 'ok   conv1x1_s2, nchw to nchw, reference'
run 0 verify "$golden" --case=dogconv_grad_pytorch --isa=none --verbose
out 'ok   dogconv_grad_pytorch, folding: '
out 'ok   dogconv_grad_pytorch, nchw to nchw, reference'
out 'training  1 case, 16 steps, 0 failures'
out 'folding   1 case, 0 failed'
for mapping in paper tensorflow; do
    run 0 verify "$golden" --case=dogconv_$mapping --isa=none
done

mkdir "$work/empty"
run 2 verify "$work/empty"
err 'cases.tsv: No such file'
run 2 verify "$work/nowhere"
run 2 verify "$golden/cases.tsv"
err 'Not a directory'
: >"$work/empty/cases.tsv"
: >"$work/empty/data.f32"
run 1 verify "$work/empty"
err 'nothing ran'

# fresh: a copy of the golden cases in $bad, to be doctored.
bad=$work/bad
fresh() {
    rm -rf "$bad"
    mkdir "$bad"
    cat "$golden/cases.tsv" >"$bad/cases.tsv"
    cat "$golden/data.f32" >"$bad/data.f32"
}
# poke FLOAT BYTES: writes bytes (printf's escapes) at the end of a float of data.f32.
poke() {
    bytes=$(printf "$2" | wc -c)
    printf "$2" | dd of="$bad/data.f32" bs=1 seek=$(($1 * 4 + 4 - bytes)) conv=notrunc 2>"$work/dd"
}
place() {
    awk -F "$tab" -v c="$1" -v t="$2" '$1 == c && $2 == "tensor" && $3 == t { print $5 }' \
        "$golden/cases.tsv"
}
# malformed TEXT SED_PROGRAM: a copy with cases.tsv edited is refused with the text.
malformed() {
    fresh
    sed "$2" "$golden/cases.tsv" >"$bad/cases.tsv"
    run 2 verify "$bad"
    err "$1"
}

fresh
poke $(($(place conv3x3 y) + 100)) '\104'
run 1 verify "$bad" --case=conv3x3
err 'FAIL: conv3x3, nchw to nchw'
out 'FAIL'
run 0 verify "$bad" --case=conv1x1
fresh
poke $(($(place conv1x1 bias) + 3)) '\104'
run 1 verify "$bad" --case=conv1x1
fresh
poke $(($(place doconv3x3_identity D) + 7)) '\104'
run 1 verify "$bad" --case=doconv3x3_identity --isa=none
err 'FAIL: doconv3x3_identity, folding: weight['
err 'FAIL: doconv3x3_identity, nchw to nchw'
out 'folding   1 case, 1 failed'
fresh
sed 's/mapping=pytorch/mapping=paper/' "$golden/cases.tsv" >"$bad/cases.tsv"
run 1 verify "$bad" --case=dogconv_pytorch --isa=none
err 'FAIL: dogconv_pytorch, folding: weight['
fresh
sed '1,5s/kind=conv/kind=other/' "$golden/cases.tsv" >"$bad/cases.tsv"
run 1 verify "$bad" --case=conv3x3
err 'nothing ran'
out '1 of kind=other: not part of this version'
fresh
poke "$(place conv1x1 x)" '\300\177'
run 2 verify "$bad"
err 'case conv1x1: tensor x: element 0 is not finite'
fresh
dd if="$golden/data.f32" of="$bad/data.f32" bs=1000 count=100 2>"$work/dd"
run 2 verify "$bad"
err 'of the 25000 floats of data.f32'
printf 'x' >>"$bad/data.f32"
run 2 verify "$bad"
err 'no whole number of floats'
fresh
rm "$bad/data.f32"
run 2 verify "$bad"
err 'data.f32: No such file'

malformed 'line 2: case conv3x3: tensor x: offset 99999999999999999999' \
    "2s/0\$/99999999999999999999/"
malformed 'line 2: case conv3x3: tensor x: offset -4' "2s/0\$/-4/"
malformed 'line 3: case conv3x3: tensor weight: the shape 9999999999x16x3x3' \
    '3s/32x16/9999999999x16/'
huge=2147483647x2147483647x2147483647x2147483647
malformed "line 3: case conv3x3: tensor weight: the shape $huge" "3s/32x16x3x3/$huge/"
malformed 'line 3: case conv3x3: tensor weight: the shape 32x16x0x3' '3s/16x3x3/16x0x3/'
malformed 'line 3: case conv3x3: tensor weight: the shape 32xx3' '3s/16x3x3/x3/'
malformed 'line 3: case conv3x3: tensor weight: the parameters give the shape 32x16x3x3' \
    '3s/32x16x3x3/16x32x3x3/'
malformed 'line 1: case conv3x3: tensor bias is missing' 4d
malformed 'line 1: case conv3x3: sh=0 is not in 1..2147483647' '1s/sh=1/sh=0/'
malformed 'line 1: case conv3x3: pt=9999999999 is not in' '1s/pt=1/pt=9999999999/'
malformed 'line 1: case conv3x3: groups=3 does not divide' '1s/groups=1/groups=3/'
malformed 'line 1: case conv3x3: the kernel does not fit' '1s/dh=1/dh=100/'
malformed 'line 1: case conv3x3: kw is missing' '1s/kw=3 //'
malformed 'line 1: case conv3x3: no parameter is called "colour"' '1s/kw=3/kw=3 colour=1/'
malformed 'line 1: case conv3x3: kw is given twice' '1s/kw=3/kw=3 kw=3/'
malformed 'line 1: case conv3x3: kind is missing' '1s/kind=conv //'
malformed 'line 6: case conv3x3 is there already, in line 1' '6,10s/conv3x3_relu/conv3x3/'
malformed 'line 2: a tensor of case conv3x4 outside that case' '2s/conv3x3/conv3x4/'
malformed 'line 3: case conv3x3: tensor x is there twice' '3s/weight/x/'
doconv_line=$(grep -n "^doconv3x3${tab}case" "$golden/cases.tsv" | cut -d : -f 1)
malformed "line $doconv_line: case doconv3x3: mapping=cubist is not paper, pytorch or tensorflow" \
    "${doconv_line}s/mapping=paper/mapping=cubist/"
malformed "line $doconv_line: case doconv3x3: mapping=paper: twice" \
    "${doconv_line}s/mapping=paper/mapping=paper mapping=paper/"
malformed "line $doconv_line: case doconv3x3: mapping is missing" "${doconv_line}s/mapping=paper//"
malformed "line $doconv_line: case doconv3x3: identity is missing" "${doconv_line}s/identity=0//"
malformed "line $doconv_line: case doconv3x3: d_mul=0 with kind=doconv" \
    "${doconv_line}s/d_mul=9/d_mul=0/"
malformed "case doconv3x3: tensor W: the parameters give the shape 32x16x8" \
    "${doconv_line}s/d_mul=9/d_mul=8/"
malformed "line $doconv_line: case doconv3x3: tensor D is missing" \
    "/^doconv3x3${tab}tensor${tab}D/d"
malformed "line $doconv_line: case doconv3x3: tensor folded is missing" \
    "/^doconv3x3${tab}tensor${tab}folded/d"
malformed 'line 2: neither a case nor a tensor: "scalar"' '2s/tensor/scalar/'
malformed 'line 2: case conv3x3: a tensor line has 5 columns' "2s/\$/${tab}1/"

# ---- verify --problems
list=$work/problems.txt
# listed STATUS ARGUMENT...: runs the list on standard input's text.
listed() {
    cat >"$list"
    expected=$1
    shift
    run "$expected" verify --problems="$list" "$@"
}
usage "a directory and --problems don't go together" verify "$golden" --problems="$list"
usage '--case is of a directory' verify --problems="$list" --case=conv1x1
usage '--tuned needs --problems' verify "$golden" --tuned
usage '--memory needs --problems' verify "$golden" --memory=10
usage '--memory: "0" is not a whole number' verify --problems="$list" --memory=0
run 2 verify --problems="$work/nowhere"
err 'No such file'
run 2 verify --problems="$work"
err 'Is a directory'
for isa in none avx2 avx512 neon; do
    # A bundle of another architecture is bad usage.
    $wrapper "$doconv" info --isa=$isa >"$work/isa" 2>&1 || continue
    listed 0 --isa=$isa --verbose <<EOF
# problems of each form${tab}and no problem

ic16ih14oc24oh14kh3n"network:layer*4"${tab}with a second column
  ic20iw30oc17kw5sw2
g8ic16ih9oc16kh3ph1sh2:src=nhwc,dst=nhwc,bias,relu
mb2_ic19ih7iw11oc33kh5kw3ph2pw1dh1dw0:src=nChw8c,dst=nChw16c,bias,residual,clamp=-0.5/1
ic3ih40oc8kh1:dst=nChw8c,accuracy=fast
ic3ih1oc5
mb0ic3ih5oc5kh3
EOF
    out 'problems  7 run, 0 of them failed; 0 skipped; 0 not read'
    out 'ok   mb1_ic16ih14iw14oc24oh14ow14kh3kw3sh1sw1ph1pw1dh0dw0, '
    out 'ok   mb1_ic20ih1iw30oc17oh1ow13kh1kw5sh1sw2ph0pw0dh0dw0, '
    out 'PASS'
done
listed 2 --isa=none <<EOF
ic3ih5oc8kh3
ic3id5ih5iw5oc8kd3kh3kw3
--mb=2 ic3ih5oc8
ic3ih5oc8kh7
EOF
err "$list:2: \"ic3id5ih5iw5oc8kd3kh3kw3\": "
err '3-D convolution is not supported'
err "$list:3: "
err "$list:4: "
out 'problems  1 run, 0 of them failed; 0 skipped; 3 not read'
out 'MALFORMED'
listed 0 --isa=none --memory=1 <<EOF
ic3ih5oc8kh3
mb64ic512ih512oc512kh3
ic16ih600oc1kh3
ic3ih5oc8kh3:dmul=9
EOF
out 'problems  1 run, 0 of them failed; 3 skipped; 0 not read'
out 'skipped   mb64_ic512ih512iw512oc512oh510ow510kh3kw3sh1sw1ph0pw0dh0dw0: takes '
out 'skipped   mb1_ic16ih600iw600oc1oh598ow598kh3kw3sh1sw1ph0pw0dh0dw0: takes '
out 'dmul=9,composition=kernel: a DO-Conv layer'
listed 1 <<EOF
# nothing
EOF
err 'nothing ran'
listed 2 <<EOF
nothing
EOF
err 'nothing ran'
printf 'ic3ih5oc8\000kh3\n' >"$list"
run 2 verify --problems="$list"
err 'a NUL byte'
# Tuned plans: what an empty cache hasn't is no plan, and the failure says how to see it again.
DOCONV_TUNE=only
export DOCONV_TUNE
listed 1 --isa=none --tuned <<EOF
ic3ih5oc8kh3
EOF
err "FAIL: $list:1: mb1_ic3ih5iw5oc8oh3ow3kh3kw3sh1sw1ph0pw0dh0dw0: plan: "
again="doconv verify --problems=- --isa=none --threads=1 --tuned"
err "echo 'mb1_ic3ih5iw5oc8oh3ow3kh3kw3sh1sw1ph0pw0dh0dw0' | $again"
out 'problems  1 run, 1 of them failed'
unset DOCONV_TUNE
run 0 verify --problems=- --isa=none <"$list"
out '1 run, 0 of them failed'

# ---- fold
usage 'a file is missing' fold
usage 'the file to write is missing' fold "$work/in.st"
usage 'the file to write is missing' fold "$work/in.st" ''
usage 'one word too many: "c"' fold a b c
usage '--mapping: "keras" is not paper, pytorch or tensorflow' fold a b --mapping=keras
usage '--dry-run takes no value' fold a b --dry-run=1
for kernel in a a=3 a=3x a=x3 a=0x3 a=3x3x3 a=-3x3 a=3x99999999999 a=99999999999x3 =; do
    usage "--kernel: \"$kernel\" is not a layer's NAME=KHxKW" fold a b --kernel=$kernel
done

# checkpoint HEADER [BYTES]: writes $work/in.st with that header and data (printf's escapes).
checkpoint() {
    {
        printf "$(printf '\\%03o\\%03o\\0\\0\\0\\0\\0\\0' $((${#1} % 256)) $((${#1} / 256)))"
        printf '%s' "$1"
        printf "${2:-}"
    } >"$work/in.st"
}
# no_file: the last run has left neither its output nor a temporary file.
no_file() {
    if [ -e "$work/out.st" ] || [ -n "$(find "$work" -name '*.tmp')" ]; then
        fail "doconv $last: it left a file"
    else
        pass
    fi
}
# right_data: the output of the last run ends with the expected 16 bytes.
right_data() {
    tail -c 16 "$work/out.st" | cmp - "$work/expected" >"$work/err" ||
        fail "doconv $last: wrong data"
}
t() { # NAME SHAPE BEGIN END [DTYPE]
    printf '"%s":{"dtype":"%s","shape":%s,"data_offsets":[%d,%d]}' "$1" "${5:-F32}" "$2" "$3" "$4"
}
one='\000\000\200\077' two='\000\000\000\100' zero='\000\000\000\000'
zeros() {
    zeros_of=''
    for _ in $(seq "$1"); do zeros_of=$zeros_of$zero; done
}

checkpoint "{$(t n '[]' 0 8 I64),$(t p.W '[1,2,1]' 8 16)}" "ABCDEFGH$two$one"
$wrapper "$doconv" fold "$work/in.st" --dry-run >"$work/out" 2>"$work/err"
if grep -q 'made without Jansson' "$work/err"; then
    run 1 fold "$work/in.st" "$work/out.st"
    no_file
else
    # A dry run writes nothing, with and without a name.
    run 0 fold "$work/in.st" --dry-run
    out 'p.weight'
    out '1x2x1x1'
    out '1 layer would be folded; '
    run 0 fold "$work/in.st" "$work/out.st" --dry-run
    no_file
    run 0 fold "$work/in.st" "$work/out.st"
    out '1 layer folded; '
    printf "ABCDEFGH$two$one" >"$work/expected"
    right_data
    if grep -qF "{$(t n '[]' 0 8 I64),$(t p.weight '[1,2,1,1]' 8 16)}" "$work/out.st"; then
        pass
    else
        fail "doconv $last: wrong header"
    fi
    # What is folded has nothing to fold; the file that is there stays.
    cp "$work/out.st" "$work/in.st"
    cp "$work/out.st" "$work/kept"
    run 1 fold "$work/in.st" "$work/out.st"
    err 'not found: checkpoint: it has no DO-Conv layer'
    if cmp "$work/kept" "$work/out.st" >/dev/null; then
        pass
    else
        fail "doconv $last: it changed its output"
    fi

    # D = 0 with the identity is W; the identity from the file or the option.
    zeros 16
    checkpoint "{$(t a.W '[1,1,4]' 0 16),$(t a.D '[1,4,4]' 16 80)}" "$one$two$one$two$zeros_of"
    run 0 fold "$work/in.st" "$work/out.st" --identity
    out 'added'
    printf "$one$two$one$two" >"$work/expected"
    right_data
    run 0 fold "$work/in.st" "$work/out.st" --kernel=a=1x4 --mapping=paper --threads=2 --isa=none
    out '1x1x1x4'
    out 'none'
    head -c 16 /dev/zero >"$work/expected"
    right_data
    rm "$work/out.st"
    run 2 fold "$work/in.st" "$work/out.st" --kernel=a=1x3
    err 'layer a: 1x3 is not the 4 taps of its D'
    run 2 fold "$work/in.st" "$work/out.st" --kernel=b=2x2
    err 'no DO-Conv layer is called "b"'
    run 2 fold "$work/in.st" "$work/out.st" --kernel=a=2x2 --kernel=a=2x2
    err 'layer a is there twice'
    no_file

    # Groups under each mapping: a D of zeros with an identity for the third channel alone.
    zeros 3
    checkpoint "{$(t W '[2,2,1]' 0 16),$(t D '[4,1,1]' 16 32)}" \
        "$one$one$one$one$zero$zero$one$zero"
    for mapping in paper pytorch tensorflow; do
        run 0 fold "$work/in.st" "$work/out.st" --mapping=$mapping
        case $mapping in
            tensorflow) printf "$zero$one$zero$zero" ;;
            *) printf "$zero$zero$one$zero" ;;
        esac >"$work/expected"
        right_data
    done
    rm "$work/out.st"

    # What is wrong with a file is said by the tensor's name, and nothing is written.
    checkpoint "{$(t a.W '[1,1,4]' 0 16)}" "$one$one$one$one"
    run 2 fold "$work/in.st" "$work/out.st"
    err 'malformed or inconsistent file: checkpoint: tensor a.W: its D is missing'
    no_file
    checkpoint "{$(t a.W '[1,1,1]' 0 4),$(t a.weight '[1]' 4 8)}" "$one$one"
    run 2 fold "$work/in.st" "$work/out.st"
    err 'tensor a.weight: it is there already'
    checkpoint "{$(t a.W '[1,1,1]' 0 2 F16)}" 'AB'
    run 1 fold "$work/in.st" "$work/out.st"
    err 'tensor a.W: type F16'
    checkpoint "{$(t a.W '[1,1,1]' 0 4)}" 'ABC'
    run 2 fold "$work/in.st" "$work/out.st"
    err 'tensor a.W: data_offsets: 0 to 4 is no part of the 3 bytes'
    printf '\377\377\377\377\377\377\377\377{}' >"$work/in.st"
    run 2 fold "$work/in.st" "$work/out.st"
    err "the header's length, 18446744073709551615, is more than the 2 bytes"
    : >"$work/in.st"
    run 2 fold "$work/in.st" "$work/out.st"
    err '0 bytes are no safetensors file'
    no_file

    # Files that can't be read or written, or must not be.
    run 2 fold "$work/absent" "$work/out.st"
    err 'No such file'
    run 2 fold "$work" "$work/out.st"
    err 'not a regular file'
    checkpoint "{$(t p.W '[1,2,1]' 0 8)}" "$two$one"
    run 1 fold "$work/in.st" "$work/absent/out.st"
    err 'No such file'
    run 2 fold "$work/in.st" "$work"
    err 'exists, and is not a regular file'
    ln -s in.st "$work/link"
    run 2 fold "$work/in.st" "$work/link"
    err 'exists, and is not a regular file'
    run 2 fold "$work/link" "$work/in.st"
    err 'is the input'
    run 2 fold "$work/in.st" /dev/null
    no_file
    # A full disk: a limit on the size of files, where the kernel itself runs the program.
    if [ -z "$wrapper" ]; then
        head -c 100000 /dev/zero >"$work/zeros"
        checkpoint "{$(t p.W '[1,2,1]' 0 8),$(t z '[100000]' 8 100008 U8)}" "$two$one"
        cat "$work/zeros" >>"$work/in.st"
        run 0 fold "$work/in.st" "$work/out.st"
        rm "$work/out.st"
        (
            trap '' XFSZ
            ulimit -f 8
            "$doconv" fold "$work/in.st" "$work/out.st" >"$work/out" 2>"$work/err"
        )
        status=$? last="fold with a limit"
        if [ $status -eq 1 ]; then
            pass
        else
            fail "doconv $last: exit status $status, expected 1"
        fi
        err 'File too large'
        no_file
    fi
fi

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
    run 0 explain $small --measure # more columns, if it isn't too noisy to be kept
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
usage 'what to do is missing: clean' cache
usage 'not "dirty"' cache dirty
usage 'not "now"' cache clean now
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

# ---- output that can't be written is no success
if [ -w /dev/full ]; then
    $wrapper "$doconv" help >/dev/full 2>"$work/err"
    if [ $? -eq 1 ]; then pass; else fail "a full disk went unnoticed"; fi
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
