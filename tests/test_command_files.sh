#!/bin/sh
# SPDX-License-Identifier: MIT
# The doconv command on files that it checks or converts, verify and fold:
# test_command_files.sh DOCONV TESTS_DIR [WRAPPER]
. "$(dirname "$0")/command_support.sh"

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
# by kernel composition, and by what auto takes of it
out 'training  1 case, 32 steps, 0 failures'
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
ic32ih40iw41oc32kh3kw3ph2pw2:src=nhwc,dst=nhwc,accuracy=fast
ic32ih40iw41oc32kh7kw1ph6pw0:src=nhwc,dst=nhwc
g70000ic70000ih2oc70000kh3ph1:src=nhwc,dst=nhwc
ic3ih1oc5
mb0ic3ih5oc5kh3
EOF
    out 'problems  10 run, 0 of them failed; 0 skipped; 0 not read'
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
usage '--identity needs a value' fold a b --identity
usage '--identity: "yes" is not add or none' fold a b --identity=yes
usage '--dtype: "F16" is not f32, f16, bf16, f64 or keep' fold a b --dtype=F16
usage '--only: "" is not a text' fold a b --only=
usage '--strip-prefix: "" is not a text' fold a b --strip-prefix=
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
    run 0 fold "$work/in.st" --dry-run --only=p
    out 'p.weight'
    out '1x2x1x1'
    out '1 layer would be folded; '
    run 0 fold "$work/in.st" "$work/out.st" --dry-run --only='*'
    no_file
    # A W alone is any module's unless it is said to be a layer.
    run 1 fold "$work/in.st" "$work/out.st"
    err 'left alone: p.W: it has no D: only if it is named'
    err '--only=NAME'
    no_file
    run 0 fold "$work/in.st" "$work/out.st" --only=p
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
    run 0 fold "$work/in.st" "$work/out.st" --identity=add
    out 'added'
    out '1 of them taken as square'
    printf "$one$two$one$two" >"$work/expected"
    right_data
    run 0 fold "$work/in.st" "$work/out.st" --kernel='?=1x4' --mapping=paper --threads=2 \
        --isa=none --identity=none
    out '1x1x1x4'
    out 'none'
    head -c 16 /dev/zero >"$work/expected"
    right_data
    rm "$work/out.st"
    run 2 fold "$work/in.st" "$work/out.st"
    err 'layer a: no d_diag is stored with its D'
    no_file
    run 2 fold "$work/in.st" "$work/out.st" --kernel=a=1x3
    err 'layer a: 1x3 is not the 4 taps of its D'
    run 2 fold "$work/in.st" "$work/out.st" --kernel=b=2x2 --identity=none
    err 'no DO-Conv layer is called "b"'
    run 2 fold "$work/in.st" "$work/out.st" --kernel=a=2x2 --kernel=a=2x2
    err 'layer a is there twice'
    no_file

    # Groups under each mapping: a D of zeros with an identity for the third channel alone.
    zeros 3
    checkpoint "{$(t W '[2,2,1]' 0 16),$(t D '[4,1,1]' 16 32)}" \
        "$one$one$one$one$zero$zero$one$zero"
    for mapping in paper pytorch tensorflow; do
        run 0 fold "$work/in.st" "$work/out.st" --mapping=$mapping --identity=none
        out "mapping $mapping"
        case $mapping in
            tensorflow) printf "$zero$one$zero$zero" ;;
            *) printf "$zero$zero$one$zero" ;;
        esac >"$work/expected"
        right_data
    done
    rm "$work/out.st"
    run 2 fold "$work/in.st" "$work/out.st" --identity=none
    err '2 groups, and no d_diag'
    no_file

    # Names, types, and what is left alone.
    checkpoint "{$(t module.a.W '[1,1,1]' 0 2 F16),$(t module.a.D '[1,1,1]' 2 6),$(
        t module.a.d_diag '[1,1,1]' 6 10),$(t o.W '[1,1,2]' 10 18)}" \
        "\000\074$one$one$two$two"
    run 0 fold "$work/in.st" "$work/out.st" --strip-prefix --rename='{name}.k'
    out 'a.k '
    out 'F16'
    out 'left alone: o.W: it has no D'
    if grep -qF "$(t a.k '[1,1,1,1]' 0 2 F16)" "$work/out.st" ||
        grep -qF "$(t a.k '[1,1,1,1]' 8 10 F16)" "$work/out.st"; then
        pass
    else
        fail "doconv $last: wrong header"
    fi
    run 0 fold "$work/in.st" "$work/out.st" --dtype=f32 --strip-prefix=module --exclude=o
    out '.a.weight'
    out 'F32'
    out 'left alone: o.W: it was excluded'
    rm "$work/out.st"

    # Shards: W and D in two, read through the index beside them.
    checkpoint "{$(t a.W '[1,1,1]' 0 4),$(t a.d_diag '[1,1,1]' 4 8)}" "$two$one"
    mv "$work/in.st" "$work/s1.safetensors"
    checkpoint "{$(t a.D '[1,1,1]' 0 4)}" "$two"
    mv "$work/in.st" "$work/s2.safetensors"
    index='{"metadata":{},"weight_map":{"a.W":"s1.safetensors","a.D":"s2.safetensors"}}'
    echo "$index" >"$work/in.index.json"
    run 0 fold "$work/in.index.json" "$work/out.st"
    out '1 layer folded; '
    run 2 fold "$work/in.index.json" "$work/s2.safetensors"
    err 'is the input'
    rm "$work/s2.safetensors" "$work/out.st"
    run 2 fold "$work/in.index.json" "$work/out.st"
    err 's2.safetensors: No such file'
    err 'shard s2.safetensors: it can'
    no_file

    # What torch.save() writes.
    printf 'PK\003\004 and more' >"$work/in.st"
    run 2 fold "$work/in.st" "$work/out.st"
    err 'it is a zip archive, as torch.save() writes'
    printf '\200\002\212\012 and more' >"$work/in.st"
    run 2 fold "$work/in.st" "$work/out.st"
    err 'safetensors.torch.save_file()'
    no_file

    # What is wrong with a file is said by the tensor's name, and nothing is written.
    checkpoint "{$(t a.d_diag '[1,1,4]' 0 16)}" "$one$one$one$one"
    run 2 fold "$work/in.st" "$work/out.st"
    err 'malformed or inconsistent file: checkpoint: tensor a.d_diag: its W is missing'
    no_file
    checkpoint "{$(t a.W '[1,1,1]' 0 4),$(t a.weight '[1]' 4 8)}" "$one$one"
    run 2 fold "$work/in.st" "$work/out.st" --only=a
    err 'tensor a.weight: it is there already'
    checkpoint "{$(t a.W '[1,1,1]' 0 2 I16)}" 'AB'
    run 1 fold "$work/in.st" "$work/out.st" --only=a
    err 'tensor a.W: type I16'
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
    run 1 fold "$work/in.st" "$work/absent/out.st" --only=p
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
        run 0 fold "$work/in.st" "$work/out.st" --only=p
        rm "$work/out.st"
        (
            trap '' XFSZ
            ulimit -f 8
            "$doconv" fold "$work/in.st" "$work/out.st" --only=p >"$work/out" 2>"$work/err"
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

summary
