//! What can be wrong with a document, in words and as the code update_engine would report.

use std::fmt;

use super::event::{ActionCode, ErrorCode};

/// Why a document was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Zero bytes; a server or proxy that answers so has not understood the request.
    #[error("empty document: expected an Omaha {expected}, got 0 bytes")]
    Empty {
        /// `request` or `response`.
        expected: &'static str,
    },
    /// Longer than the cap for its kind.
    #[error("document too large: expected at most {limit} bytes of Omaha {expected}, got {got}")]
    TooLarge {
        /// `request` or `response`.
        expected: &'static str,
        /// The cap, in bytes.
        limit: usize,
        /// Its length, in bytes.
        got: usize,
    },
    /// Not UTF-8.
    #[error("not UTF-8: expected UTF-8 text, got an invalid byte sequence at byte {offset}")]
    NotUtf8 {
        /// Where the text stops being UTF-8.
        offset: usize,
    },
    /// A document type declaration, the door to entity and external-subset attacks.
    #[error("DOCTYPE refused at byte {offset}: expected a document without a DTD")]
    Doctype {
        /// Where it begins.
        offset: usize,
    },
    /// An entity other than `&lt; &gt; &amp; &quot; &apos;` and character references.
    #[error("unknown entity at {place}: expected one of lt, gt, amp, quot, apos or a character reference, got {name:?}")]
    UnknownEntity {
        /// The element it stands in.
        place: Place,
        /// Its name.
        name: String,
    },
    /// Not well-formed XML.
    #[error("malformed XML at {place}: {problem}")]
    Malformed {
        /// Where.
        place: Place,
        /// What was expected and found.
        problem: String,
    },
    /// One attribute twice in an element.
    #[error("duplicate attribute at {place}: expected each attribute once, got {name:?} twice")]
    DuplicateAttribute {
        /// The element.
        place: Place,
        /// The attribute's name.
        name: String,
    },
    /// Well-formed but beyond a cap.
    #[error("over a limit at {place}: expected at most {limit} {what}")]
    OverLimit {
        /// The element.
        place: Place,
        /// What there is too much of, with its unit.
        what: &'static str,
        /// The cap.
        limit: usize,
    },
    /// Something after the root element.
    #[error("trailing data at byte {offset}: expected the end of the document after its root element")]
    TrailingData {
        /// Where it begins.
        offset: usize,
    },
    /// Another document.
    #[error("expected an Omaha document with root <{expected}>, got <{got}>")]
    WrongRoot {
        /// `request` or `response`.
        expected: &'static str,
        /// The root's name.
        got: String,
    },
    /// Another version of the protocol.
    #[error("unsupported protocol: expected {expected:?}, got {got:?}")]
    WrongProtocol {
        /// The version spoken here.
        expected: &'static str,
        /// What the document says.
        got: String,
    },
    /// An answer for somebody else.
    #[error("no answer for application {wanted:?}: expected an <app> with that appid, got {}", listing(.got))]
    NoSuchApp {
        /// The application asked for.
        wanted: String,
        /// Those answered.
        got: Vec<String>,
    },
    /// An element that must be there is not.
    #[error("at {place}: expected an element <{name}>, got none")]
    MissingElement {
        /// The parent.
        place: Place,
        /// The missing child.
        name: &'static str,
    },
    /// An attribute that must be there is not, or is empty.
    #[error("at {place}: expected attribute {name:?} with a value, got none")]
    MissingAttribute {
        /// The element.
        place: Place,
        /// The missing attribute.
        name: &'static str,
    },
    /// An attribute's value is none of those allowed.
    #[error("at {place}: expected {name:?} to be {expected}, got {got:?}")]
    BadValue {
        /// The element.
        place: Place,
        /// The attribute.
        name: &'static str,
        /// The values allowed, in words.
        expected: &'static str,
        /// The value, cut short.
        got: String,
    },
    /// Several manifests, none of which is marked as the one to install.
    #[error("at {place}: expected a manifest with is_target=\"true\" or one that is no floor, got {count} floors")]
    NoTarget {
        /// The `updatecheck`.
        place: Place,
        /// How many manifests there are.
        count: usize,
    },
}

impl Error {
    /// The code update_engine reports for it: 30 empty, 31 not readable as XML (here also: beyond a cap), 34 readable but invalid.
    pub fn code(&self) -> ErrorCode {
        let action = match self {
            Self::Empty { .. } => ActionCode::OmahaRequestEmptyResponseError,
            Self::TooLarge { .. }
            | Self::NotUtf8 { .. }
            | Self::Doctype { .. }
            | Self::UnknownEntity { .. }
            | Self::Malformed { .. }
            | Self::DuplicateAttribute { .. }
            | Self::OverLimit { .. }
            | Self::TrailingData { .. } => ActionCode::OmahaRequestXMLParseError,
            Self::WrongRoot { .. }
            | Self::WrongProtocol { .. }
            | Self::NoSuchApp { .. }
            | Self::MissingElement { .. }
            | Self::MissingAttribute { .. }
            | Self::BadValue { .. }
            | Self::NoTarget { .. } => ActionCode::OmahaResponseInvalid,
        };
        ErrorCode::from(action)
    }
}

/// A place in a document: the byte where its element begins, and the element's path, as in `response/app[2]/updatecheck (byte 310)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Bytes from the start of the document.
    pub offset: usize,
    /// Names from the root, `/` between them, a number where a name repeats; empty outside the root.
    pub path: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { write!(f, "byte {}", self.offset) } else { write!(f, "{} (byte {})", self.path, self.offset) }
    }
}

/// A value of others cut short enough for an error message.
pub(super) fn excerpt(text: &str) -> String {
    const MOST_CHARS: usize = 80;
    text.chars().take(MOST_CHARS).collect()
}

fn listing(ids: &[String]) -> String {
    match ids {
        [] => "none".to_owned(),
        ids => ids.iter().map(|id| format!("{id:?}")).collect::<Vec<_>>().join(", "),
    }
}
