#!/bin/bash
# All tests, from cheap to dear; each layer prints one line, and the last line counts them all.
#
#   integration/test.sh            everything this machine can run; what it cannot is counted as skipped, with the reason
#   integration/test.sh systems    whole operating systems in virtual machines, which take as long as all the rest
#
# A test that needs root, a loop device or a tool prints "skipped: why" and returns; those lines are counted here. One that
# leaves out a part of itself prints "partly skipped: why": it is shown, and counts as what it asserted.
set -uo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
passed=0 failed=0 skipped=0
started=$SECONDS

layer() { # NAME COMMAND...: one check that passes or fails as a whole
    local name=$1; shift
    local at=$SECONDS
    if "$@" >"$log/out" 2>&1; then
        echo "$name: passed ($((SECONDS - at)) s)"
        passed=$((passed + 1))
    else
        cat "$log/out"
        echo "$name: FAILED"
        failed=$((failed + 1))
    fi
}

tests() { # NAME CARGO-TEST-ARGUMENTS... [-- FILTERS...]: a set of Rust tests, counted one by one
    local name=$1; shift
    local at=$SECONDS status=0 targets=()
    while (($# > 0)) && [[ $1 != -- ]]; do targets+=("$1"); shift; done
    (($# > 0)) && shift
    # Always of the whole workspace, so that no layer builds anything in another way than the one before. A hang must end, too.
    timeout 3000 cargo test --no-fail-fast --workspace "${targets[@]}" -- "$@" --show-output >"$log/out" 2>&1 || status=$?
    local p f i s
    read -r p f i < <(awk '/^test result:/ {p += $4; f += $6; i += $8} END {print p + 0, f + 0, i + 0}' "$log/out")
    s=$(grep -c '^skipped: ' "$log/out" || true)
    grep -hE '^(partly )?skipped: ' "$log/out" | sort | uniq -c | sed 's/^ *\([0-9]*\) /    (\1x) /'
    grep -hE '^test .* \.\.\. ignored' "$log/out" | sed 's/^test \(.*\) \.\.\. ignored,\{0,1\} */    skipped: \1: /'
    if ((status != 0)); then
        # What failed and why; not the output of the thousand tests that passed.
        grep -hE '^(test .*FAILED|error|failures:|---- .* stdout ----|thread .* panicked|  left:| right:)' -A6 "$log/out" | head -300
        ((f == 0)) && f=1
    fi
    echo "$name: $((p - s)) passed, $f failed, $((i + s)) skipped ($((SECONDS - at)) s)"
    passed=$((passed + p - s)) failed=$((failed + f)) skipped=$((skipped + i + s))
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
    local name=$1 at=$SECONDS status=0
    "${CARGO_TARGET_DIR:-target}/debug/cuts" --loader "$2" --cuts 10000 --boot 5 --recording "$log/recording-$2" >"$log/out" 2>&1 || status=$?
    rm -rf "$log/recording-$2"
    sed 's/^/    /' "$log/out"
    case $status in
    0) passed=$((passed + 1)) ;;
    2) skipped=$((skipped + 1)) ;;
    *) failed=$((failed + 1)) ;;
    esac
    echo "$name: $(if ((status == 2)); then echo skipped; else tail -n1 "$log/out"; fi) ($((SECONDS - at)) s)"
}

summary() {
    echo "took $((SECONDS - started)) s"
    echo "$passed passed, $failed failed, $skipped skipped"
    ((failed == 0))
}

if [[ ${1:-} == systems ]]; then
    layer "programs" cargo build --quiet --workspace --bins
    tests "L7 a whole Debian with systemd, under systemd-boot" --test vm -- debian::
    summary
    exit
fi
layer "L0 format" cargo fmt --all --check
layer "L0 clippy" cargo clippy --quiet --workspace --all-targets -- -D warnings
layer "L0 docs" env RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps
layer "L0 programs" cargo build --quiet --workspace --bins
golden=(--test omaha_samples --test omaha_codes --test omaha_rules --test omaha_properties --test omaha_hostile)
of_their_own=(omaha_samples omaha_codes omaha_rules omaha_properties omaha_hostile main_job attacks verbs slot_block_devices kill vm fuzz_corpus)
others=$(programs "${of_their_own[@]}") || { echo "integration/test.sh: its list of test programs is wrong"; exit 1; }
# shellcheck disable=SC2086 # words
tests "L1 units, properties, rules" --lib --bins $others -- --skip engine::tests:: --skip boot::gpt::
tests "L1 examples in the documentation" --doc
tests "L2 every state of the engine: error in it, killed in it, random worlds" --lib -- engine::tests::
tests "L3 Omaha: golden samples, hostile input" "${golden[@]}"
tests "L3 the main job and the attacks, with the real programs" --test main_job --test attacks
tests "L3 every verb, with the real programs" --test verbs
tests "L5 the boot table: codec, and every crash state of its ordered write" --lib -- boot::gpt::
tests "L6 real parts: loop devices, disks that lie" --test slot_block_devices
tests "L7 virtual machines: updates, failures and power cuts under GRUB and systemd-boot" --test vm -- --skip debian::
cuts "L7 power cuts under GRUB" grub
cuts "L7 power cuts under systemd-boot" systemd-boot
tests "kill: killed at any moment, with the real programs" --test kill
tests "L8 seeds of the fuzz targets" --test fuzz_corpus

summary
