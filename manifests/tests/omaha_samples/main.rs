//! Every sample of `testdata/omaha` is read to its meaning, or refused with the right error.

// The lints know test functions, not the helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod requests;
mod responses;

use std::collections::BTreeSet;
use std::path::PathBuf;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/omaha")
}

fn sample(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn every_sample_in_the_folder_is_tested() {
    let here: BTreeSet<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".xml"))
        .collect();
    let tested: BTreeSet<String> = [include_str!("requests.rs"), include_str!("responses.rs")]
        .iter()
        .flat_map(|source| source.split('"'))
        .filter(|word| word.ends_with(".xml"))
        .map(str::to_owned)
        .collect();
    assert_eq!(here, tested);
    assert!(here.len() >= 47);
}
