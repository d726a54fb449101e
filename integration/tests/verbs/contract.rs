//! `updatectl status --json` of a real host, held to the contract that the crate's own tests hold every state to.

use integration::rig::Host;
use serde_json::Value;

#[path = "../../../update-engine/src/status/contract.rs"]
mod keys;

/// The status of the host as it is now, held to the contract; its sentence is printed under `title`.
pub(crate) fn status(host: &Host, title: &str) -> Value {
    let output = host.updatectl(&["status", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("{title}: {}", status["summary"].as_str().unwrap_or_default());
    keys::assert_contract(&status);
    status
}
