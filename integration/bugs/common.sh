# What both scripts that plant bugs begin with: a copy of all that git knows, which is gone however they end. It is sourced, with the
# name of a bug or none; it gives $top, $copy, $only and the counts, plants and takes back.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck disable=SC2034 # for those who source this
only=${1:-} top=$PWD caught=0 missed=0 skipped=0
copy=$(mktemp -d "${TMPDIR:-/tmp}/ota-bugs.XXXXXX")
# Not where the tree's own programs are: cargo would take those with a bug for them.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$top/target}/bugs
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
# As new: what was built of an earlier copy, with a bug, would else be taken for this one's.
tar --null -T "$copy/.files" -cf - | tar -xmf - -C "$copy"

bounded() { # SECONDS FOLDER OUT COMMAND...: its exit code
    local seconds=$1 folder=$2 out=$3 status; shift 3
    (cd "$folder" && exec timeout -k 60 "$seconds" "$@") >"$out" 2>&1 & running=$!
    wait "$running"
    status=$?
    running=''
    return "$status"
}

plant() { # NAME (FILE FIND REPLACE)...: its exit code; `take_back` undoes it
    local name=$1 status=0; shift
    files=()
    while (($# > 0)); do
        # Several lines of one file may be replaced.
        [[ -e $copy/$1.original ]] || { cp "$copy/$1" "$copy/$1.original" && files+=("$1"); }
        "$top/integration/bugs/plant.py" "$copy/$1" "$2" "$3" || status=1
        shift 3
    done
    if ((status != 0)); then
        echo "planted bug \"$name\": cannot be planted"
        missed=$((missed + 1))
    fi
    return "$status"
}

take_back() {
    local file
    for file in "${files[@]}"; do
        mv "$copy/$file.original" "$copy/$file"
        # As it is now: cargo goes by the time of a file, and the one that it built was newer.
        touch "$copy/$file"
    done
}
