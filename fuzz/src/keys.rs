//! Key files: text in, a key or a reason out.

use std::num::NonZeroU32;

use manifests::keyring::{Keyring, PublicKey, SecretKey};

/// A `*.pub` or `*.key` file.
pub fn file(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    assert!(!says(&text, "private") || PublicKey::parse("x.pub", data).is_err(), "a private key is taken for a public one");
    assert!(!says(&text, "public") || SecretKey::parse("x.key", data).is_err(), "a public key is taken for a private one");
    if let Ok(key) = PublicKey::parse("x.pub", data) {
        let text = key.to_text(&text);
        assert_eq!(PublicKey::parse("x.pub", text.as_bytes()).as_ref(), Ok(&key), "{text}");
        let keyring = Keyring::new([("x.pub".to_owned(), key.clone())], NonZeroU32::MIN, &[]).expect("one key is enough for 1");
        assert_eq!(keyring.ids().collect::<Vec<_>>(), [key.id()]);
        assert!(Keyring::new([("x.pub".to_owned(), key.clone())], NonZeroU32::MIN, &[key.id()]).is_err(), "a revoked key counts");
    }
    if let Ok(key) = SecretKey::parse("x.key", data) {
        let text = key.to_text(&text);
        let again = SecretKey::parse("x.key", text.as_bytes()).expect("a written key can be read");
        assert_eq!(again.public(), key.public());
    }
}

/// Whether the first comment of a line, on its own or behind the key, says that the file holds this half of a pair.
fn says(text: &str, half: &str) -> bool {
    let comments = text.lines().filter_map(|line| line.split_once('#'));
    let mut rests = comments.filter_map(|(_, comment)| {
        let comment = comment.trim_start_matches(['#', ' ']).to_ascii_lowercase();
        comment.strip_prefix(&format!("ed25519 {half} key")).map(str::to_owned)
    });
    rests.any(|rest| {
        let behind = rest.trim_start_matches([',', ':', ';']);
        behind.is_empty() || behind.starts_with(char::is_whitespace)
    })
}
