//! Key files: text in, a key or a reason out.

use std::num::NonZeroU32;

use manifests::keyring::{Keyring, PublicKey, SecretKey};

/// A `*.pub` or `*.key` file.
pub fn file(data: &[u8]) {
    let says = |half: &str| data.starts_with(format!("# ed25519 {half} key, id ").as_bytes());
    assert!(!says("PRIVATE") || PublicKey::parse("x.pub", data).is_err(), "a private key is taken for a public one");
    assert!(!says("public") || SecretKey::parse("x.key", data).is_err(), "a public key is taken for a private one");
    if let Ok(key) = PublicKey::parse("x.pub", data) {
        let text = key.to_text(&String::from_utf8_lossy(data));
        assert_eq!(PublicKey::parse("x.pub", text.as_bytes()).as_ref(), Ok(&key), "{text}");
        let keyring = Keyring::new([("x.pub".to_owned(), key.clone())], NonZeroU32::MIN, &[]).expect("one key is enough for 1");
        assert_eq!(keyring.ids().collect::<Vec<_>>(), [key.id()]);
        assert!(Keyring::new([("x.pub".to_owned(), key.clone())], NonZeroU32::MIN, &[key.id()]).is_err(), "a revoked key counts");
    }
    if let Ok(key) = SecretKey::parse("x.key", data) {
        let text = key.to_text(&String::from_utf8_lossy(data));
        let again = SecretKey::parse("x.key", text.as_bytes()).expect("a written key can be read");
        assert_eq!(again.public(), key.public());
    }
}
