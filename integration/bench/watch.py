"""Memory of a process and of all that it starts: watch.py PID FILE writes the peaks to FILE, in KiB, until it is terminated.

rss: the resident memory of each, added up, so that what they share counts once for each of them. pss: every page once.
"""
import os, signal, sys, time


def tree(pid):
    found, todo = [], [pid]
    while todo:
        pid = todo.pop()
        found.append(pid)
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children") as children:
                    todo.extend(int(child) for child in children.read().split())
        except OSError:
            pass
    return found


def memory(pid):
    with open(f"/proc/{pid}/smaps_rollup") as lines:
        fields = dict(line.split()[:2] for line in lines if line.startswith(("Rss:", "Pss")))
    return int(fields["Rss:"]), int(fields["Pss:"]), (pid, fields)


pid, out = int(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
peak_rss = peak_pss = 0
peak_fields = []
try:
    while True:
        rss = pss = 0
        fields = []
        for process in tree(pid):
            try:
                one = memory(process)
                rss, pss = rss + one[0], pss + one[1]
                fields.append(one[2])
            except (OSError, KeyError):
                pass
        if pss > peak_pss:
            peak_fields = fields
        peak_rss, peak_pss = max(peak_rss, rss), max(peak_pss, pss)
        time.sleep(0.03)
finally:
    with open(out, "w") as file:
        file.write(f"{peak_rss} {peak_pss}\n")
        # What it was made of, for whoever wants to know.
        for process, parts in peak_fields:
            file.write(f"{process} {parts}\n")
