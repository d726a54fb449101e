#!/usr/bin/env bash
# Fuzzes one target until it has used the given processor time, or until it finds something.
#
#   fuzz/run.sh TARGET [CPU_SECONDS]        default 1800; needs a nightly compiler and cargo-fuzz
#
# FUZZ_BINARY=PATH   run this program instead of building the target
# FUZZ_LOG=FOLDER    where TARGET.txt gets one line a slice (default fuzz/target/log)
# FUZZ_SLICE_S=N     wall time of a slice in seconds (default 120)
#
# What it finds is put into fuzz/artifacts/TARGET; exit code 1. The grown corpus is fuzz/corpus/TARGET (not committed).
set -euo pipefail

target=${1:?usage: fuzz/run.sh TARGET [CPU_SECONDS]}
budget=${2:-1800}
slice_s=${FUZZ_SLICE_S:-$((budget < 120 ? budget : 120))}
cd "$(dirname "$0")"

# Longest input; more buys nothing but slowness. Samples of the field that stand elsewhere, and words, where there are some.
max_len=4096
rss_mb=2048
extra=()
case $target in
  omaha_request | omaha_response) max_len=8192 extra=(../manifests/testdata/omaha -dict=dict/omaha.dict) ;;
  release_record | release_json) extra=(-dict=dict/record.dict) ;;
  # The fuzzer, its corpus, and what an install may take.
  payload_install) max_len=8192 rss_mb=320 ;;
  release_edits | key_file | floor_file) max_len=1024 ;;
  payload_decode | payload_blob) max_len=8192 ;;
  config_toml) extra=(-dict=dict/config.dict) ;;
  mount_table | host_facts | http_head) max_len=1024 ;;
  grub_environment | uboot_environment | autoboot_txt | custom_program | efi_variables) max_len=1024 extra=(-dict=dict/boot.dict) ;;
  systemd_boot_entries) max_len=2048 extra=(-dict=dict/boot.dict) ;;
  trial_files | kernel_log) extra=(-dict=dict/trial.dict) ;;
  fleetlock_* | lock_document | journal_model | journal_rows | control_command) extra=(-dict=dict/json.dict) ;;
esac

binary=${FUZZ_BINARY:-}
if [ -z "$binary" ]; then
  cargo +nightly fuzz build --sanitizer none "$target" >&2
  binary=${CARGO_TARGET_DIR:-target}/x86_64-unknown-linux-gnu/release/$target
fi
# Some targets read files; on a disk they would wait for it.
if [ -w /dev/shm ]; then export TMPDIR=${TMPDIR:-/dev/shm}; fi
log=${FUZZ_LOG:-target/log}
mkdir -p "$log" "corpus/$target" "artifacts/$target"

used=0 # milliseconds of processor time
while [ "$used" -lt $((budget * 1000)) ]; do
  status=0
  TIMEFORMAT='%U %S'
  { time "$binary" -artifact_prefix="artifacts/$target/" -max_total_time="$slice_s" -max_len="$max_len" -timeout=30 \
      -rss_limit_mb="$rss_mb" -print_final_stats=1 "corpus/$target" "seeds/$target" "${extra[@]}" >"$log/$target.last" 2>&1 || status=$?; } \
    2>"$log/$target.time"
  slice=$(tail -n 1 "$log/$target.time" | tr -d . | awk '{print $1 + $2}')
  used=$((used + slice))
  runs=$(awk '/stat::number_of_executed_units/ {print $2}' "$log/$target.last")
  coverage=$(grep -o 'cov: [0-9]* ft: [0-9]* corp: [0-9]*' "$log/$target.last" | tail -n 1)
  echo "$(date -u +%H:%M) cpu_ms=$slice cpu_ms_sum=$used runs=${runs:-0} ${coverage:-no coverage} exit=$status" | tee -a "$log/$target.txt"
  if [ "$status" -ne 0 ]; then
    grep -m 3 -E 'panicked at|ERROR: |SUMMARY' "$log/$target.last" | tee -a "$log/$target.txt"
    exit 1
  fi
done
