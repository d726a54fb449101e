# What both scripts that plant bugs begin with: a copy of all that git knows, which is gone however they end. It is sourced, with the
# name of a bug or none; it gives $top, $copy, $only and the counts.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck disable=SC2034 # for those who source this
only=${1:-} top=$PWD caught=0 missed=0 skipped=0
copy=$(mktemp -d "${TMPDIR:-/tmp}/ota-bugs.XXXXXX")
running=''
end() {
    [[ -z $running ]] || kill "$running" 2>/dev/null
    wait
    rm -rf "$copy"
}
trap end EXIT
trap 'exit 130' INT TERM
if ! git ls-files -z >"$copy/.files" || [[ ! -s $copy/.files ]]; then
    echo "$0: git does not list the files of $top: this needs a checkout that is yours" >&2
    exit 1
fi
tar --null -T "$copy/.files" -cf - | tar -xf - -C "$copy"

bounded() { # SECONDS FOLDER OUT COMMAND...: its exit code
    local seconds=$1 folder=$2 out=$3 status; shift 3
    (cd "$folder" && exec timeout -k 60 "$seconds" "$@") >"$out" 2>&1 & running=$!
    wait "$running"
    status=$?
    running=''
    return "$status"
}
