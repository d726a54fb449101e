use std::collections::BTreeMap;
use std::fs::File;
use std::io::Cursor;
use payload::build::{self, Image, Options, Progress};
use payload::format::{Kind, Source};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let level: i32 = args[1].parse().unwrap();
    let threads = std::num::NonZeroUsize::new(2).unwrap();
    let options = Options { level, threads, ..Options::default() };
    let open = |p: &str| { let f = File::open(p).unwrap(); let n = f.metadata().unwrap().len(); (f, n) };
    let (new, new_len) = open(&args[2]);
    let t = std::time::Instant::now();
    let (mut spool, mut out) = (Cursor::new(Vec::new()), Vec::new());
    let image = Image { name: "root", slot: None, size: new_len, data: &new };
    let built = if let Some(old) = args.get(3) {
        let (old, old_len) = open(old);
        let table = payload::window::table_of("root", &old, old_len, threads).unwrap();
        build::delta(&[(Image { name: "root", slot: None, size: old_len, data: &old }, &table)], &[image], &options, &mut spool, &mut out, &mut |_: Progress| {}).unwrap()
    } else {
        build::full(&[image], &options, &mut spool, &mut out, &mut |_| {}).unwrap()
    };
    let wall = t.elapsed();
    let mut kinds: BTreeMap<Kind, (u64, u64, u64, u64, u64, u64)> = BTreeMap::new();
    for f in built.table.frames() {
        let k = kinds.entry(f.kind()).or_default();
        k.0 += 1; k.1 += f.output_len() as u64; k.2 += f.blob().end - f.blob().start;
        for e in f.extents() { k.3 += 1; k.4 += e.length; if e.source == Source::Target { k.5 += e.length } }
    }
    if std::env::var("DUMP").is_ok() {
        for f in built.table.frames().filter(|f| !f.blob().is_empty()) {
            println!("F {} {} {} {} {} {}", f.image_offset(), f.output_len(), f.kind().number(), f.blob().end - f.blob().start, f.extents().count(), f.extents().map(|e| e.length).sum::<u64>());
        }
    }
    let mut target = 0;
    for (k, v) in &kinds { target += v.5; println!("{k}: frames {} output {} blob {} extents {} bytes {} own {}", v.0, v.1, v.2, v.3, v.4, v.5) }
    let table: u64 = kinds.values().map(|k| k.2).sum();
    let rss = std::fs::read_to_string("/proc/self/status").unwrap().lines().find(|l| l.starts_with("VmHWM")).unwrap().to_owned();
    println!("TOTAL {} table {} ({:.2} %) own {:.2}x image, {:.1} s, {rss}", out.len(), out.len() as u64 - table, (out.len() as u64 - table) as f64 * 100.0 / out.len() as f64, target as f64 / new_len as f64, wall.as_secs_f64());
}
