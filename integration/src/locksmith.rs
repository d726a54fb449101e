//! The real lock service, for tests: `locksmithd` as a process, asked with `locksmithctl`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test rig that cannot do its part fails the test, with words")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::rig::program;

/// A real lock service for one group of one.
pub struct Locksmith {
    child: Child,
    /// Host and port.
    pub address: String,
    data: PathBuf,
}

impl Locksmith {
    /// Starts `locksmithd` on the folder `data`; `listen` may have port 0.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(data: &Path, listen: &str) -> Self {
        let mut command = Command::new(program("locksmithd"));
        command
            .arg("--data")
            .arg(data)
            .args(["--listen", listen])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address =
            line.split_whitespace().find_map(|word| word.rsplit("//").next().filter(|word| word.contains("127.0.0.1:")));
        let address = address.unwrap_or_else(|| panic!("no address in {line:?}")).trim_end_matches('/').to_owned();
        Self { child, address, data: data.to_owned() }
    }

    /// Kills it; what it granted stays in its folder.
    ///
    /// # Panics
    /// If it does not run.
    pub fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, at the same address, on the same folder.
    pub fn start_again(&mut self) {
        *self = Self::start(&self.data.clone(), &self.address.clone());
    }

    /// Where its clients find it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Runs `locksmithctl`, which has to succeed.
    ///
    /// # Panics
    /// If it does not.
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        let output = Command::new(program("locksmithctl")).args(arguments).args(["--server", &self.url()]).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        output
    }

    /// What `locksmithctl` prints.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn says(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.ctl(arguments).stdout).unwrap()
    }

    /// `[reboot.lock]` of a host that uses it.
    #[must_use]
    pub fn table(&self) -> String {
        format!("[reboot.lock]\nbackend = \"fleetlock\"\nurl = \"{}\"\n", self.url())
    }

    /// Does any host hold a place?
    ///
    /// # Panics
    /// If the service does not answer.
    #[must_use]
    pub fn is_held(&self) -> bool {
        fn holders(value: &Value) -> bool {
            match value {
                Value::Object(map) => map.iter().any(|(key, value)| {
                    (key == "holders" && value.as_array().is_some_and(|list| !list.is_empty())) || holders(value)
                }),
                Value::Array(list) => list.iter().any(holders),
                _ => false,
            }
        }
        let group: Value = serde_json::from_str(&self.says(&["status", "default", "--json"])).unwrap();
        holders(&group)
    }
}

impl Drop for Locksmith {
    fn drop(&mut self) {
        // It may have been stopped by the test.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
