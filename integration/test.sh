#!/bin/bash
# All tests, from cheap to dear; each layer prints one line, and the last line counts them all.
#
#   integration/test.sh            everything this machine can run; what it cannot is counted as skipped, with the reason
#   integration/test.sh systems    more virtual machines: rarer faults, a whole Debian with systemd, and what `make demo` tells
#
# A test that needs root, a loop device or a tool prints "skipped: why" and returns; those lines are counted here. One that
# leaves out a part of itself prints "partly skipped: why": it is shown, and counts as what it asserted.
#
# With MACHINES_REQUIRED=1, a test that is skipped, or leaves out a part of itself, has failed.
set -uo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp -d)
running='' beside='' lanes=''
# However this ends, nothing that it started is left. `timeout` ends all that runs below it.
end() {
    for pid in $running $beside; do kill "$pid" 2>/dev/null; done
    wait
    rm -rf "$log"
}
trap end EXIT
trap 'exit 130' INT TERM
started=$SECONDS

# Several layers may run at once: each writes its output to a file of its own, and its counts to one line of this one.
# What failed is named once more above the last line of all: its output may be thousands of lines earlier.
count() { # PASSED FAILED SKIPPED NAME
    echo "$1 $2 $3" >>"$log/counts"
    (($2 == 0)) || echo "FAILED: $4" >>"$log/failed"
}

# A hang must end, too.
run() { # OUT COMMAND...
    local out=$1; shift
    timeout -k 10 3000 "$@" >"$out" 2>&1 & running=$!
    wait "$running"
    local status=$?
    running=''
    return "$status"
}

layer() { # NAME COMMAND...: one check that passes or fails as a whole
    local name=$1 at=$SECONDS out; shift
    out=$(mktemp "$log/XXXXXX")
    if run "$out" "$@"; then
        echo "$name: passed ($((SECONDS - at)) s)"
        count 1 0 0 "$name"
    else
        cat "$out"
        echo "$name: FAILED"
        count 0 1 0 "$name"
    fi
}

tests() { # NAME CARGO-TEST-ARGUMENTS... [-- FILTERS...]: a set of Rust tests, counted one by one
    local name=$1 at=$SECONDS status=0 targets=() out p f i s; shift
    out=$(mktemp "$log/XXXXXX")
    while (($# > 0)) && [[ $1 != -- ]]; do targets+=("$1"); shift; done
    (($# > 0)) && shift
    # Always of the whole workspace, so that no layer builds anything in another way than the one before.
    run "$out" cargo test --no-fail-fast --workspace "${targets[@]}" -- "$@" --show-output || status=$?
    read -r p f i < <(awk '/^test result:/ {p += $4; f += $6; i += $8} END {print p + 0, f + 0, i + 0}' "$out")
    s=$(grep -c '^skipped: ' "$out" || true)
    grep -hE '^(partly )?skipped: ' "$out" | sort | uniq -c | sed 's/^ *\([0-9]*\) /    (\1x) /'
    grep -hE '^test .* \.\.\. ignored' "$out" | sed 's/^test \(.*\) \.\.\. ignored,\{0,1\} */    skipped: \1: /'
    if ((status != 0)); then
        failures "$out"
        ((status != 124 && status != 137)) || echo "    it was stopped: expected an end within 3000 s"
        ((f == 0)) && f=1
    fi
    p=$((p - s))
    # A filter that matches nothing any more.
    if ((p + f + s + i == 0)); then echo "    no test is called so: ${targets[*]} $*" && f=1; fi
    if may_not_skip; then
        local partly
        partly=$(grep -c '^partly skipped: ' "$out" || true)
        awk '/^---- .* stdout ----$/ {test = $2}
            /^(partly )?skipped: / {print "    FAILED, because it has to run here: " test ": " $0}' "$out"
        p=$((p - partly)) f=$((f + s + partly)) s=0
    fi
    # What is ignored is run by another test, as it says.
    s=$((s + i))
    echo "$name: $p passed, $f failed, $s skipped ($((SECONDS - at)) s)"
    count "$p" "$f" "$s" "$name: $(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$out" | head -20 | paste -sd' ')"
}

may_not_skip() { [[ ${MACHINES_REQUIRED:-} == 1 ]]; }

failures() { # OUT: which tests failed, and of each the beginning and the end of what it printed; not the output of those that passed
    grep -hE '^(test .*FAILED|error)' "$1" | head -100
    awk '
        function tell(  i) {
            for (i = 1; i <= n; i++) if (i <= 20 || i > n - 80) print line[i]; else if (i == 21) print "    […]"
            n = 0
        }
        /^failures:$/ {inside = 1}
        /^(successes:|test result:)/ {inside = 0; tell()}
        inside && /^---- .* stdout ----$/ {tell()}
        inside {line[++n] = $0}
        END {tell()}' "$1" | head -1000
}

programs() { # every test program of the workspace as an argument of cargo test, but those named: what no layer has to itself
    cargo metadata --no-deps --format-version 1 | python3 -c '
import json, sys
targets = [target for package in json.load(sys.stdin)["packages"] for target in package["targets"]]
names = {target["name"] for target in targets if "test" in target["kind"]}
missing = set(sys.argv[1:]) - names
if missing:
    sys.exit(f"no test program is called {missing}")
for name in sorted(names - set(sys.argv[1:])):
    print("--test", name)' "$@"
}

cuts() { # NAME LOADER: an update of a virtual machine, recorded; every disk that a power cut could have left
    local name=$1 at=$SECONDS status=0 out verdict recording kept
    out=$(mktemp "$log/XXXXXX")
    recording=$log/recording-$2
    run "$out" "${CARGO_TARGET_DIR:-target}/debug/cuts" --loader "$2" --cuts 10000 --boot 5 --recording "$recording" || status=$?
    sed 's/^/    /' "$out"
    # Of a bad one the cuts that were found can be played again.
    if ((status != 0 && status != 3)) && [[ -e $recording/recording.json ]] && kept=$(mktemp -d "${TMPDIR:-/tmp}/ota-recording.XXXXXX") && mv "$recording" "$kept/"; then
        echo "    its recording is kept: cuts --recording $kept/recording-$2 --replay …"
    fi
    rm -rf "$recording"
    verdict=$(tail -n1 "$out")
    case $status in
    0)
        if may_not_skip && grep -q '^partly skipped: ' "$out"; then
            verdict="FAILED, because all of it has to run here" && count 0 1 0 "$name"
        else
            count 1 0 0 "$name"
        fi ;;
    3) if may_not_skip; then verdict="FAILED, because it has to run here" && count 0 1 0 "$name"; else verdict=skipped && count 0 0 1 "$name"; fi ;;
    124 | 137) verdict="FAILED: expected an end within 3000 s" && count 0 1 0 "$name" ;;
    *) count 0 1 0 "$name: $verdict" && verdict="FAILED: $verdict" ;;
    esac
    echo "$name: $verdict ($((SECONDS - at)) s)"
}

# Layers that mostly wait leave the processors to those that compute. What they say comes when they are joined.
beside() { # FUNCTION
    (
        trap - EXIT
        trap '[[ -z $running ]] || kill "$running"; wait; exit 143' TERM
        "$1"
        touch "$log/$1.done"
    ) >"$log/$1.out" 2>&1 &
    beside+=" $!" lanes+=" $1"
}
joined() {
    local lane
    # shellcheck disable=SC2086 # words
    wait $beside
    beside=''
    for lane in $lanes; do
        cat "$log/$lane.out"
        [[ -e $log/$lane.done ]] || { echo "$lane ended before its time: FAILED"; count 0 1 0 "$lane"; }
    done
}

summary() {
    local p f s
    read -r p f s < <(awk '{p += $1; f += $2; s += $3} END {print p + 0, f + 0, s + 0}' "$log/counts")
    [[ ! -e $log/failed ]] || cat "$log/failed"
    echo "took $((SECONDS - started)) s"
    echo "$p passed, $f failed, $s skipped"
    ((f == 0))
}

if [[ ${1:-} == systems ]]; then
    layer "programs" cargo build --quiet --workspace --bins
    # What `make demo` tells, in both of its forms.
    stories() {
        local cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ota-update-engine}/demo
        export OTA_BIN=${CARGO_TARGET_DIR:-target}/debug
        if may_not_skip; then layer "demo: on a virtual machine" "$OTA_BIN/demo"; else layer "demo" integration/demo/run.sh "$cache"; fi
        layer "demo: on a disk image" integration/demo/demo.sh "$cache"
    }
    beside stories
    # Machines wait for their deadlines, too: twice as many of them as there are processors.
    tests "L7 virtual machines: rarer faults, and a whole Debian with systemd" \
        --test vm -- --test-threads="$((2 * $(nproc)))" debian:: rare::
    joined
    summary
    exit
fi
layer "L0 format" cargo fmt --all --check
layer "L0 clippy" cargo clippy --quiet --workspace --all-targets -- -D warnings
layer "L0 docs" env RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps
layer "L0 programs" cargo build --quiet --workspace --bins
# Here, so that none of those that run beside each other waits for another's build.
layer "L0 tests" cargo test --quiet --workspace --no-run
golden=(--test omaha_samples --test omaha_codes --test omaha_rules --test omaha_properties --test omaha_hostile)
of_their_own=(omaha_samples omaha_codes omaha_rules omaha_properties omaha_hostile main_job attacks verbs slot_block_devices install_devices kill vm fuzz_corpus)
others=$(programs "${of_their_own[@]}") || { echo "integration/test.sh: its list of test programs is wrong"; exit 1; }
# First, because it takes and gives back loop devices by their names: others take any that is free.
tests "L6 real parts: loop devices, disks that lie" --test slot_block_devices --test install_devices
tests "L6 small files: what is on the medium when power is cut" --lib -- durable::
# Layers that mostly wait run beside those that compute.
waiting() {
    # shellcheck disable=SC2086 # words
    tests "L1 whole crates: commands, protocols, stores, clocks" $others
    tests "L3 the main job and the attacks, with the real programs" --test main_job --test attacks
    tests "L3 every verb, with the real programs" --test verbs
    tests "kill: killed at any moment, with the real programs" --test kill
}
beside waiting
tests "L1 units, properties, rules" --lib --bins -- --skip engine::tests:: --skip boot::gpt:: --skip durable::
tests "L1 examples in the documentation" --doc
tests "L2 every state of the engine: error in it, killed in it, random worlds" --lib -- engine::tests::
tests "L3 Omaha: golden samples, hostile input" "${golden[@]}"
tests "L5 the boot table: codec, and every crash state of its ordered write" --lib -- boot::gpt::
tests "L8 seeds of the fuzz targets" --test fuzz_corpus
machines() {
    tests "L7 virtual machines: updates, failures and power cuts under GRUB and systemd-boot" \
        --test vm -- --test-threads="$((2 * $(nproc)))" --skip debian:: --skip rare::
}
beside machines
cuts "L7 power cuts under GRUB" grub
cuts "L7 power cuts under systemd-boot" systemd-boot
joined

summary
