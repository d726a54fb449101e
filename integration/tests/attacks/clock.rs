//! Clocks that are wrong by decades, or become so under way: what is waited for does not depend on the time of day.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::scene::{Options, Scene, next_release, says};

/// The clock that a daemon, and whatever it starts, reads: this machine's own, moved by what a file says (`clock.c`).
struct Clock {
    file: PathBuf,
    library: PathBuf,
}

const YEAR_S: i64 = 31_557_600;

impl Clock {
    /// # Panics
    /// If there is no C compiler.
    fn moved(dir: &Path, years: i64) -> Self {
        let clock = Self { file: dir.join("clock"), library: dir.join("clock.so") };
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/attacks/clock.c");
        let mut compiler = Command::new("cc");
        let made =
            compiler.args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"]).arg(&clock.library).arg(source).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        clock.move_to(years);
        clock
    }

    fn move_to(&self, years: i64) {
        let new = self.file.with_extension("new");
        fs::write(&new, (years * YEAR_S).to_string()).unwrap();
        fs::rename(new, &self.file).unwrap();
    }

    fn start(&self, scene: &mut Scene) {
        scene.start_with(&[("LD_PRELOAD", self.library.as_os_str()), ("CLOCK_OFFSET_FILE", self.file.as_os_str())]);
    }
}

/// The year in which the daemon believes to have asked last.
fn year(status: &Value) -> i64 {
    status["check"]["last_at"].as_str().and_then(|at| at.split('-').next()).unwrap().parse().unwrap()
}

fn this_year() -> i64 {
    i64::from(jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).year())
}

#[test]
fn with_a_clock_30_years_ahead_an_update_is_stale_news_and_arrives() {
    let mut scene = Scene::new(&Options::default(), next_release);
    Clock::moved(scene.dir(), 30).start(&mut scene);
    let status = scene.host.wait_committed("2.0.0");
    assert!((this_year() + 29..=this_year() + 30).contains(&year(&status)), "{status:#}");
    says(&status["summary"], &["days old", "its clock (today is ", "is wrong"]);
    assert_eq!(status["troubles"][0]["code"], "stale", "{status:#}");
    scene.assert_slot_a_untouched();
}

#[test]
fn with_a_clock_30_years_behind_an_update_arrives() {
    let mut scene = Scene::new(&Options::default(), next_release);
    Clock::moved(scene.dir(), -30).start(&mut scene);
    let status = scene.host.wait_committed("2.0.0");
    assert!((this_year() - 31..=this_year() - 30).contains(&year(&status)), "{status:#}");
    assert_eq!(status["last_error"], Value::Null, "{status:#}");
    scene.assert_slot_a_untouched();
}

#[test]
fn a_clock_that_jumps_under_way_holds_nothing_up() {
    let mut scene = Scene::new(&Options::default(), next_release);
    let (open, asked) = (scene.dir().join("open"), scene.dir().join("asked"));
    scene
        .host
        .hook("gate.d/10-ask", &format!("echo >>{}; test -e {} || {{ echo not now; exit 1; }}", asked.display(), open.display()));
    let times_asked = || fs::read(&asked).map_or(0, |lines| lines.len());
    let clock = Clock::moved(scene.dir(), 0);
    clock.start(&mut scene);
    for jump in [-20, 40, 0] {
        clock.move_to(jump);
        let before = times_asked();
        scene.host.wait("the gate is asked again and again", || (times_asked() >= before + 3).then_some(()));
        // Between two answers of the gate it is being asked.
        scene.host.wait_for("why it waits is said", |status| {
            status["summary"].as_str().is_some_and(|words| words.contains("waits to reboot") && words.contains("not now"))
        });
        scene.assert_nothing_armed();
    }
    clock.move_to(-20);
    fs::write(open, "").unwrap();
    scene.host.wait_committed("2.0.0");
    scene.assert_slot_a_untouched();
}
