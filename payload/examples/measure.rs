//! Throwaway: measures a delta of two files.
#![allow(clippy::all, clippy::pedantic, clippy::unwrap_used, missing_docs, clippy::print_stdout)]
use std::fs::File;
use std::num::{NonZeroU32, NonZeroUsize};
use payload::build::{self, Image, Options};
use payload::window::table_of;
fn main() {
    let mut args = std::env::args().skip(1);
    let (old, new, level) = (args.next().unwrap(), args.next().unwrap(), args.next().unwrap().parse().unwrap());
    let threads = NonZeroUsize::new(2).unwrap();
    let newf = File::open(&new).unwrap();
    let n = newf.metadata().unwrap().len();
    let target = Image { name: "root", slot: None, size: n, data: &newf };
    let options = Options { level, threads, frame_windows: NonZeroU32::new(4).unwrap() };
    let mut spool = tempfile::tempfile().unwrap();
    let mut out = tempfile::tempfile().unwrap();
    let at = std::time::Instant::now();
    let built = if old == "-" {
        build::full(&[target], &options, &mut spool, &mut out, &mut |_| {}).unwrap()
    } else {
        let oldf = File::open(&old).unwrap();
        let o = oldf.metadata().unwrap().len();
        let table = table_of("root", &oldf, o, threads).unwrap();
        build::delta(&[(Image { name: "root", slot: None, size: o, data: &oldf }, &table)], &[target], &options, &mut spool, &mut out, &mut |_| {}).unwrap()
    };
    println!("{} bytes in {:.1} s; table {}", out.metadata().unwrap().len(), at.elapsed().as_secs_f64(), built.table.header().table_range().end);
    for (kind, totals) in built.table.totals() { println!("  {kind}: {totals:?}"); }
    let rss = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("  {}", rss.lines().find(|l| l.starts_with("VmHWM")).unwrap());
}
