//! Publisher keys: reading key files, and the threshold over *distinct* keys.
//!
//! A key file (`NAME.pub`, `NAME.key`) is UTF-8 text of at most 4096 bytes. Blank lines and lines that begin with `#` are
//! comments; exactly one other line is the key: the standard base64 of 32 bytes with its padding, 44 characters (the ed25519
//! public key, or the private seed), alone or followed by a comment that begins with a blank and `#`. Blanks at the ends of a line
//! do not count. Anything else refuses the file.
//!
//! A comment that begins with `ed25519 public key` or `ed25519 PRIVATE key`, on a line of its own or behind the key, says what the
//! file holds, and what follows it as `, id KEYID:` which key: [`PublicKey::to_text`] and [`SecretKey::to_text`] write both. People
//! write such lines, too: upper and lower case are one, so are several `#`, and an id is one of 16 hex digits only. A file that says it
//! holds the other half of a pair is refused, and so is one that names another key than it has. The bytes alone would not tell: half of
//! all private seeds are public keys of somebody else, too.
//!
//! Promises: one key counts once however often it stands in the folder or signs; a threshold of 0 cannot be built; an empty
//! keyring is an error, never "anything goes".

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

use crate::digest::{Sha256Digest, decode_hex};
use crate::limits::{MAX_KEY_FILE_BYTES, MAX_KEYS};

/// First 8 bytes of the SHA-256 of a public key. It finds a key in the keyring; it proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; 8]);

impl KeyId {
    /// Takes the 8 bytes as they stand in a record.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// The 8 bytes.
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }

    /// Reads 16 hex digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0_u8; 8];
        decode_hex(text, &mut bytes).then_some(Self(bytes))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key:{self}")
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_hex(&text).ok_or_else(|| de::Error::custom(format!("expected 16 hex digits of a key id, got {text:?}")))
    }
}

/// Why a key file or a keyring was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The file is no key.
    #[error("{file}: expected one line of base64 of 32 bytes (and # comments), got {got}")]
    Malformed {
        /// Name of the file.
        file: String,
        /// What was found instead.
        got: String,
    },
    /// A private key stands where a public one should: whoever has the image has the key.
    #[error("{file} holds a PRIVATE key (id {id}): remove it from the image and revoke it")]
    Private {
        /// Name of the file.
        file: String,
        /// The id of the key that is no secret any more.
        id: KeyId,
    },
    /// A public key stands where a private one should.
    #[error("{file}: expected a private key (NAME.key), got a public one")]
    Public {
        /// Name of the file.
        file: String,
    },
    /// The file says that it holds another key.
    #[error("{file}: expected the key {stated} that its comment names, got {id}: the comment or the key was changed")]
    OtherId {
        /// Name of the file.
        file: String,
        /// The id in the comment.
        stated: KeyId,
        /// Id of the key that is there.
        id: KeyId,
    },
    /// The 32 bytes are no usable ed25519 point.
    #[error("{file}: the 32 bytes are no usable ed25519 public key")]
    NotAPoint {
        /// Name of the file.
        file: String,
    },
    /// Two different keys share a key id.
    #[error("{file}: key id {id} belongs to another key of this keyring already")]
    IdClash {
        /// Name of the second file.
        file: String,
        /// The id both have.
        id: KeyId,
    },
    /// There is nothing to trust.
    #[error("the keyring is empty: expected at least {threshold} public key file(s) (*.pub)")]
    Empty {
        /// Signatures that would be needed.
        threshold: NonZeroU32,
    },
    /// There are keys, and none is trusted any more.
    #[error("all {} key(s) of the keyring are revoked ({}): expected at least {threshold} that releases have not revoked", revoked.len(), join(revoked))]
    AllRevoked {
        /// Signatures that would be needed.
        threshold: NonZeroU32,
        /// The keys that are there.
        revoked: Vec<KeyId>,
    },
    /// More signatures are demanded than keys exist.
    #[error(
        "the threshold is {threshold} but the keyring has only {keys} distinct key(s){}: no record could ever pass",
        besides(revoked)
    )]
    Unreachable {
        /// Signatures demanded.
        threshold: NonZeroU32,
        /// Distinct trusted keys there are.
        keys: usize,
        /// Keys that are there and are not trusted any more.
        revoked: Vec<KeyId>,
    },
    /// More key files than a keyring may hold.
    #[error("the keyring has more than {MAX_KEYS} key files")]
    TooMany,
}

/// A publisher's public key.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    id: KeyId,
    key: VerifyingKey,
}

impl PublicKey {
    /// Reads the text of a `*.pub` file; `file` names it in errors.
    pub fn parse(file: &str, text: &[u8]) -> Result<Self, KeyError> {
        let found = KeyFile::parse(file, text)?;
        if found.says(Half::Private) {
            let id = SecretKey::from_seed(&found.bytes).public().id;
            return Err(KeyError::Private { file: file.to_owned(), id });
        }
        let key = VerifyingKey::from_bytes(&found.bytes).map_err(|_| KeyError::NotAPoint { file: file.to_owned() })?;
        if key.is_weak() {
            return Err(KeyError::NotAPoint { file: file.to_owned() });
        }
        let key = Self::from_key(key);
        found.check_id(file, key.id)?;
        Ok(key)
    }

    /// Text of the `*.pub` file.
    pub fn to_text(&self, comment: &str) -> String {
        let half = Half::Public.word();
        format!("# ed25519 {half} key, id {}: {}\n{}\n", self.id, one_line(comment), BASE64.encode(self.key.as_bytes()))
    }

    /// The id records name it by.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    fn from_key(key: VerifyingKey) -> Self {
        let digest = Sha256Digest::of(key.as_bytes());
        let mut id = [0_u8; 8];
        id.copy_from_slice(&digest.as_bytes()[..8]);
        Self { id: KeyId(id), key }
    }

    /// Strict verification (no small-order points, canonical encodings only).
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

/// A publisher's private key. Its bytes never appear in `Debug`. They are wiped when it is dropped; so are the bytes that are decoded
/// on the way from [`Self::parse`] and the text of [`Self::to_text`]. What the caller read a file into is the caller's to wipe, and
/// the compiler may leave copies on the stack where a key is moved: a private key belongs on a machine that signs and does nothing
/// else.
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// Makes the key of 32 secret random bytes; the caller has the dice.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Reads the text of a `*.key` file; `file` names it in errors.
    pub fn parse(file: &str, text: &[u8]) -> Result<Self, KeyError> {
        let found = KeyFile::parse(file, text)?;
        if found.says(Half::Public) {
            return Err(KeyError::Public { file: file.to_owned() });
        }
        let key = Self::from_seed(&found.bytes);
        found.check_id(file, key.public().id)?;
        Ok(key)
    }

    /// Text of the `*.key` file. Write it with mode 0600.
    pub fn to_text(&self, comment: &str) -> Zeroizing<String> {
        const BASE64_CHARS: usize = 44;
        let (half, id) = (Half::Private.word(), self.public().id);
        let head = format!("# ed25519 {half} key, id {id}: {} -- keep it offline\n", one_line(comment));
        // As long as it will be: a text that grows leaves its beginning behind.
        let mut text = Zeroizing::new(String::with_capacity(head.len() + BASE64_CHARS + 1));
        text.push_str(&head);
        BASE64.encode_string(self.0.as_bytes(), &mut text);
        text.push('\n');
        text
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        PublicKey::from_key(self.0.verifying_key())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.public().id())
    }
}

/// The keys a host trusts, and how many of them must have signed.
#[derive(Clone, Debug)]
pub struct Keyring {
    keys: BTreeMap<KeyId, PublicKey>,
    threshold: NonZeroU32,
}

impl Keyring {
    /// Builds a keyring. Keys named in `revoked` are left out; the same key twice counts once.
    pub fn new(
        keys: impl IntoIterator<Item = (String, PublicKey)>,
        threshold: NonZeroU32,
        revoked: &[KeyId],
    ) -> Result<Self, KeyError> {
        let mut distinct: BTreeMap<KeyId, PublicKey> = BTreeMap::new();
        let mut left_out: BTreeSet<KeyId> = BTreeSet::new();
        for (file, key) in keys {
            if revoked.contains(&key.id) {
                left_out.insert(key.id);
                continue;
            }
            match distinct.get(&key.id) {
                Some(known) if *known != key => return Err(KeyError::IdClash { file, id: key.id }),
                Some(_) => {}
                None => {
                    distinct.insert(key.id, key);
                }
            }
            if distinct.len() > MAX_KEYS {
                return Err(KeyError::TooMany);
            }
        }
        let revoked: Vec<KeyId> = left_out.into_iter().collect();
        if distinct.is_empty() && revoked.is_empty() {
            return Err(KeyError::Empty { threshold });
        }
        if distinct.is_empty() {
            return Err(KeyError::AllRevoked { threshold, revoked });
        }
        if u32::try_from(distinct.len()).is_ok_and(|keys| keys < threshold.get()) {
            return Err(KeyError::Unreachable { threshold, keys: distinct.len(), revoked });
        }
        Ok(Self { keys: distinct, threshold })
    }

    /// Signatures by distinct keys that a record needs.
    pub const fn threshold(&self) -> NonZeroU32 {
        self.threshold
    }

    /// Ids of the trusted keys, ascending.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.keys.keys().copied()
    }

    /// Counts the distinct trusted keys that signed `message`. Signatures by unknown keys are ignored; a signature that claims a
    /// trusted key and does not verify refuses the whole (it is damage or forgery, never an accident to overlook).
    pub(crate) fn check(&self, message: &[u8], signatures: &[(KeyId, [u8; 64])]) -> Result<Vec<KeyId>, SignatureFault> {
        let mut signers: Vec<KeyId> = Vec::new();
        for (id, signature) in signatures {
            let Some(key) = self.keys.get(id) else { continue };
            if !key.verifies(message, signature) {
                return Err(SignatureFault::Forged(*id));
            }
            if !signers.contains(id) {
                signers.push(*id);
            }
        }
        let enough = u32::try_from(signers.len()).is_ok_and(|count| count >= self.threshold.get());
        if enough { Ok(signers) } else { Err(SignatureFault::TooFew { signers }) }
    }
}

/// What was wrong with a set of signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SignatureFault {
    /// A signature names a trusted key and does not verify.
    Forged(KeyId),
    /// Fewer distinct trusted keys than the threshold.
    TooFew { signers: Vec<KeyId> },
}

/// One of the two keys of a pair.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Public,
    Private,
}

impl Half {
    /// How key files call it.
    const fn word(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "PRIVATE",
        }
    }
}

/// A key file cut up: 32 bytes, and what its comments say they are.
struct KeyFile {
    bytes: Zeroizing<[u8; 32]>,
    statements: Vec<Statement>,
}

/// `ed25519 public key, id 0123456789abcdef: …`, the comment that says what a key file holds.
struct Statement {
    half: Half,
    id: Option<KeyId>,
}

impl KeyFile {
    fn parse(file: &str, text: &[u8]) -> Result<Self, KeyError> {
        let malformed = |got: &str| KeyError::Malformed { file: file.to_owned(), got: got.to_owned() };
        if u64::try_from(text.len()).map_or(true, |len| len > MAX_KEY_FILE_BYTES) {
            return Err(malformed("a file of more than 4096 bytes"));
        }
        let text = std::str::from_utf8(text).map_err(|_| malformed("bytes that are no UTF-8 text"))?;
        let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
        let mut keys = lines().filter(|line| !line.starts_with('#'));
        let line = match (keys.next(), keys.next()) {
            (Some(line), None) => line,
            (None, _) => return Err(malformed("no key line")),
            (Some(_), Some(_)) => return Err(malformed("more than one key line")),
        };
        let (word, behind) = line.split_once(char::is_whitespace).unwrap_or((line, "#"));
        let behind = behind.trim_start();
        if !behind.starts_with('#') {
            return Err(malformed("more than one word (a comment begins with #)"));
        }
        let bytes = decode_key(word).map_err(|got| malformed(&got))?;
        let comments = lines().filter(|line| line.starts_with('#')).chain([behind]);
        Ok(Self { bytes, statements: comments.filter_map(Statement::parse).collect() })
    }

    fn says(&self, half: Half) -> bool {
        self.statements.iter().any(|statement| statement.half == half)
    }

    /// Refuses a file that names another key than it has.
    fn check_id(&self, file: &str, id: KeyId) -> Result<(), KeyError> {
        match self.statements.iter().filter_map(|statement| statement.id).find(|stated| *stated != id) {
            None => Ok(()),
            Some(stated) => Err(KeyError::OtherId { file: file.to_owned(), stated, id }),
        }
    }
}

impl Statement {
    /// Reads a comment; one that says nothing about a key is none. People write these lines, too, in their own case and with their own
    /// marks between the words; what follows `id` may be the rest of a sentence.
    fn parse(comment: &str) -> Option<Self> {
        let text = comment.trim_start_matches(|c: char| c == '#' || c.is_whitespace());
        let mut words = text.split_whitespace().map(|word| word.trim_matches([',', ':', ';']));
        let is = |word: &str, expected: &str| word.eq_ignore_ascii_case(expected);
        words.next().filter(|word| is(word, "ed25519"))?;
        let named = words.next()?;
        let half = [Half::Public, Half::Private].into_iter().find(|half| is(named, half.word()))?;
        words.next().filter(|word| is(word, "key"))?;
        let names_one = words.next().is_some_and(|word| is(word, "id"));
        let id = if names_one { words.next().and_then(KeyId::from_hex) } else { None };
        Some(Self { half, id })
    }
}

/// Decodes into memory that is wiped, and that never grows and so leaves no copy behind.
fn decode_key(word: &str) -> Result<Zeroizing<[u8; 32]>, String> {
    let mut decoded = Zeroizing::new(Vec::with_capacity(base64::decoded_len_estimate(word.len())));
    BASE64.decode_vec(word, &mut decoded).map_err(|_| "a line that is no base64".to_owned())?;
    let mut bytes = Zeroizing::new([0; 32]);
    if decoded.len() != bytes.len() {
        return Err(format!("{} bytes", decoded.len()));
    }
    bytes.copy_from_slice(&decoded);
    Ok(bytes)
}

/// Key ids as a list.
pub(crate) fn join(ids: &[KeyId]) -> String {
    if ids.is_empty() {
        return "nobody".to_owned();
    }
    ids.iter().map(KeyId::to_string).collect::<Vec<_>>().join(", ")
}

fn besides(revoked: &[KeyId]) -> String {
    if revoked.is_empty() { String::new() } else { format!(" besides the revoked {}", join(revoked)) }
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(n: u8) -> SecretKey {
        SecretKey::from_seed(&[n; 32])
    }

    fn ring(seeds: &[u8], threshold: u32) -> Result<Keyring, KeyError> {
        let keys = seeds.iter().map(|n| (format!("{n}.pub"), secret(*n).public()));
        Keyring::new(keys, NonZeroU32::new(threshold).unwrap(), &[])
    }

    #[test]
    fn a_key_survives_its_file() {
        let key = secret(7);
        let text = key.to_text("release 2026\nmalicious second line");
        assert_eq!(SecretKey::parse("a.key", text.as_bytes()).unwrap().public(), key.public());
        let public = key.public().to_text("release");
        assert_eq!(PublicKey::parse("a.pub", public.as_bytes()).unwrap(), key.public());
        assert!(!format!("{key:?}").contains(&BASE64.encode([7; 32])));
    }

    #[test]
    fn neither_half_of_a_key_is_taken_for_the_other() {
        for seed in 0..32 {
            let (private, public) = (secret(seed).to_text("release"), secret(seed).public().to_text("release"));
            let id = secret(seed).public().id();
            assert_eq!(
                PublicKey::parse("k.pub", private.as_bytes()).unwrap_err().to_string(),
                format!("k.pub holds a PRIVATE key (id {id}): remove it from the image and revoke it")
            );
            assert_eq!(
                SecretKey::parse("a.pub", public.as_bytes()).unwrap_err().to_string(),
                "a.pub: expected a private key (NAME.key), got a public one"
            );
        }
        let lower = secret(7).to_text("x").to_lowercase();
        assert!(matches!(Statement::parse(&lower[1..]), Some(Statement { half: Half::Private, id: Some(_) })), "{lower}");
    }

    #[test]
    fn a_file_that_names_another_key_than_it_has_is_refused() {
        let [ours, theirs] = [1, 2].map(|n| secret(n).public().id().to_string());
        for text in [secret(1).to_text("x").to_string(), secret(1).public().to_text("x")] {
            for (from, to) in [("id", "id"), (", id", " ID"), (", id ", ",\tid: "), ("# ", "##"), ("# ", " # #")] {
                let text = text.replace(from, to).replace(&ours, &theirs);
                let outcome = match SecretKey::parse("a", text.as_bytes()) {
                    Err(KeyError::Public { .. }) => PublicKey::parse("a", text.as_bytes()).map(drop),
                    other => other.map(drop),
                };
                let stated = secret(2).public().id();
                let expected = KeyError::OtherId { file: "a".into(), stated, id: secret(1).public().id() };
                assert_eq!(outcome, Err(expected), "{text}");
            }
        }
    }

    #[test]
    fn what_people_write_about_the_right_key_is_not_taken_for_another_id() {
        let word = BASE64.encode(secret(7).public().key.as_bytes());
        let id = secret(7).public().id().to_string();
        for comment in [
            format!("# ed25519 public key {id}"),
            "# ed25519 public key id of the 2026 release team".to_owned(),
            "# ed25519 public key, id".to_owned(),
            format!("# ed25519 public key, id 0x{id}"),
            format!("# ed25519 public key, id {id}, of 2026"),
            format!("## ED25519 PUBLIC KEY; ID: {};", id.to_uppercase()),
        ] {
            for text in [format!("{comment}\n{word}\n"), format!("{word} {comment}\n")] {
                assert_eq!(PublicKey::parse("x.pub", text.as_bytes()).unwrap(), secret(7).public(), "{text}");
            }
        }
    }

    #[test]
    fn what_a_comment_behind_the_key_says_counts_too() {
        let (ours, theirs) = (secret(7).public().id(), secret(8).public().id());
        // The seed of a key whose bytes are a public key of somebody else, too: they alone would pass.
        let seed = (0..=u8::MAX).find(|seed| VerifyingKey::from_bytes(&[*seed; 32]).is_ok_and(|key| !key.is_weak())).unwrap();
        let word = BASE64.encode([seed; 32]);
        let private = |comment: &str| PublicKey::parse("k.pub", format!("{word}{comment}\n").as_bytes());
        assert!(private("").is_ok() && private(" # our ed25519 PRIVATE key").is_ok());
        for comment in [" # ed25519 PRIVATE key", "\t## ed25519 PRIVATE key; id", " # # Ed25519 private key: of 2026"] {
            let id = secret(seed).public().id();
            assert_eq!(private(comment), Err(KeyError::Private { file: "k.pub".into(), id }), "{comment}");
        }
        let public = BASE64.encode(secret(7).public().key.as_bytes());
        let text = format!("{public} # ed25519 public key, id {theirs}: x");
        let expected = KeyError::OtherId { file: "k.pub".into(), stated: theirs, id: ours };
        assert_eq!(PublicKey::parse("k.pub", text.as_bytes()), Err(expected));
        let text = text.replace(&theirs.to_string(), &ours.to_string());
        assert!(matches!(SecretKey::parse("k.key", text.as_bytes()), Err(KeyError::Public { .. })));
    }

    #[test]
    fn a_comment_that_says_nothing_about_a_key_is_one_like_any_other() {
        let word = BASE64.encode(secret(7).public().key.as_bytes());
        for comment in ["ed25519", "ed25519 keys", "our ed25519 PRIVATE key is at home", "ed25519 public key", "PRIVATE key"] {
            let text = format!("# {comment}\n{word}\n");
            assert_eq!(PublicKey::parse("x.pub", text.as_bytes()).unwrap(), secret(7).public(), "{comment}");
        }
    }

    #[test]
    fn comments_stand_on_lines_of_their_own_or_behind_the_key() {
        let word = BASE64.encode(secret(7).public().key.as_bytes());
        for text in [
            word.clone(),
            format!("\r\n# a\r\n  {word}\t# of 2026\r\n\r\n"),
            format!("{word} #"),
            format!("{word} #2026 release key"),
        ] {
            assert_eq!(PublicKey::parse("x.pub", text.as_bytes()).unwrap(), secret(7).public(), "{text:?}");
        }
    }

    #[test]
    fn the_text_of_a_private_key_is_as_long_as_its_memory() {
        let text = secret(7).to_text("release");
        assert_eq!(text.len(), text.capacity(), "it grew, and left a copy behind");
    }

    #[test]
    fn a_file_that_is_no_key_says_what_it_is() {
        let twice = format!("{0} {0}", BASE64.encode([7; 32]));
        let cases: [(&[u8], &str); 9] = [
            (twice.as_bytes(), "more than one word (a comment begins with #)"),
            (b"ssh-ed25519 AAAA ops", "more than one word"),
            (b"AAAA#comment", "no base64"),
            (b"", "no key line"),
            (b"# only a comment\n", "no key line"),
            (b"AAAA\nAAAA\n", "more than one key line"),
            (b"AAAA\n", "3 bytes"),
            (b"not-base64!\n", "no base64"),
            (b"\xff\xfe", "no UTF-8"),
        ];
        for (text, expected) in cases {
            let error = PublicKey::parse("x.pub", text).unwrap_err().to_string();
            assert!(error.starts_with("x.pub: ") && error.contains(expected), "{error}");
        }
        assert!(PublicKey::parse("zero.pub", BASE64.encode([0; 32]).as_bytes()).is_err(), "a weak point is no key");
    }

    #[test]
    fn an_empty_or_unreachable_keyring_cannot_be_built() {
        assert!(matches!(ring(&[], 1), Err(KeyError::Empty { .. })));
        assert!(matches!(ring(&[1, 1], 2), Err(KeyError::Unreachable { keys: 1, .. })));
        let revoked = [secret(1).public().id()];
        let keys = [("1.pub".to_owned(), secret(1).public())];
        assert_eq!(
            Keyring::new(keys.clone(), NonZeroU32::MIN, &revoked).unwrap_err().to_string(),
            format!(
                "all 1 key(s) of the keyring are revoked ({}): expected at least 1 that releases have not revoked",
                revoked[0]
            )
        );
        let keys = keys.into_iter().chain([("2.pub".to_owned(), secret(2).public())]);
        assert_eq!(
            Keyring::new(keys, NonZeroU32::new(2).unwrap(), &revoked).unwrap_err().to_string(),
            format!(
                "the threshold is 2 but the keyring has only 1 distinct key(s) besides the revoked {}: no record could ever pass",
                revoked[0]
            )
        );
    }

    #[test]
    fn one_key_counts_once_however_often_it_signs() {
        let ring = ring(&[1, 2], 2).unwrap();
        let by = |n: u8| (secret(n).public().id(), secret(n).sign(b"m"));
        assert_eq!(ring.check(b"m", &[by(1), by(1)]), Err(SignatureFault::TooFew { signers: vec![by(1).0] }));
        assert_eq!(ring.check(b"m", &[by(1), by(9)]), Err(SignatureFault::TooFew { signers: vec![by(1).0] }));
        assert_eq!(ring.check(b"m", &[by(1), by(2)]).unwrap().len(), 2);
    }

    #[test]
    fn a_signature_that_claims_a_trusted_key_and_fails_refuses_all() {
        let ring = ring(&[1, 2], 1).unwrap();
        let good = (secret(1).public().id(), secret(1).sign(b"m"));
        let forged = (secret(2).public().id(), secret(1).sign(b"m"));
        assert_eq!(ring.check(b"m", &[good, forged]), Err(SignatureFault::Forged(forged.0)));
    }
}
