# Medians of the rounds, ratios taken inside each round, and what was missed.
function median(values, count,    i, j, t) {
    for (i = 2; i <= count; i++) { t = values[i]; for (j = i - 1; j > 0 && values[j] > t; j--) values[j + 1] = values[j]; values[j + 1] = t }
    return count % 2 ? values[(count + 1) / 2] : (values[count / 2] + values[count / 2 + 1]) / 2
}
function of(name, column,    r, v, n) {
    for (r = 1; r <= rounds; r++) if ((name, r, column) in at) v[++n] = at[name, r, column]
    return median(v, n)
}
function ratio(name, column, limit, extra,    r, v, n) {
    for (r = 1; r <= rounds; r++) v[++n] = at[name, r, column] / (at[limit, r, column] + (extra == "" ? 0 : at[extra, r, column]))
    return median(v, n)
}
function verdict(what, is, limit) {
    printf "%-62s %7.2f  (limit %.2f)%s\n", what, is, limit, is <= limit ? "" : "  MISSED"
    if (is > limit) missed++
}
{
    if (!($1 in seen)) { seen[$1]; names[++subjects] = $1 }
    if ($2 > rounds) rounds = $2
    for (i = 3; i <= NF; i++) at[$1, $2, i] = $i
}
END {
    printf "\n%-12s %8s %8s %9s %9s %10s %12s %12s\n", "median of " rounds, "wall s", "CPU s", "RSS MiB", "PSS MiB", "read MiB", "written MiB", "down MiB"
    for (s = 1; s <= subjects; s++) { n = names[s]
        printf "%-12s %8.2f %8.2f %9.1f %9.1f %10.1f %12.1f %12.1f\n", n, of(n, 3), of(n, 4), of(n, 5) / 1024, of(n, 6) / 1024, of(n, 7) / 1048576, of(n, 8) / 1048576, of(n, 9) / 1048576 }
    printf "\nfull payload %d bytes, delta %d bytes (%.1f %%)\n\n", full, delta, 100 * delta / full
    verdict("full install / (pipe + back), wall", ratio("full", 3, "pipe", "back"), 1.15)
    verdict("full install / (pipe + back), CPU", ratio("full", 4, "pipe", "back"), 1.30)
    verdict("delta / full install, CPU", ratio("delta", 4, "full"), 1.20)
    verdict("memory of the daemon and its children, full, MiB (PSS)", of("full.watched", 6) / 1024, 32)
    verdict("memory of the daemon and its children, delta, MiB (PSS)", of("delta.watched", 6) / 1024, 32)
    printf "%-62s %7.2f, %.2f\n", "the same with shared pages counted for each, full, delta (RSS)", of("full.watched", 5) / 1024, of("delta.watched", 5) / 1024
    verdict("resident memory of the daemon itself, full, MiB (RSS)", own / 1024, 32)
    verdict("same image again: requests for payloads", payloads_again, 0)
    verdict("same image again: MiB written", of("same", 8) / 1048576, 0)
    verdict("record, part of the image, %", 100 * record / image, 0.02)
    verdict("frame table, part of the delta, %", 100 * table / delta, 1)
    verdict("page cache grown by a full install, MiB", of("full", 10) / 1024, 16)
    verdict("idle daemon, MiB", idle / 1024, 15)
    verdict("idle daemon, context switches in 20 s", switches, 4)
    for (s = 1; s <= subjects; s++) { n = names[s]
        if (n ~ /^rauc/) verdict("full install / " n ", wall", ratio("full", 3, n), 1 / 1.5)
        if (n ~ /^swupdate/) verdict("full install / " n ", wall", ratio("full", 3, n), 1) }
    exit missed > 0
}
