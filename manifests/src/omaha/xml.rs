//! A small, strict reader of XML under hard caps, and the escaping its counterpart needs.
//!
//! The whole document is checked before any of it is looked at, so what comes after the part of interest cannot hide an
//! error. Text is checked and dropped: the dialect keeps everything in attributes. Prefixes of element names are dropped;
//! an attribute with a prefix belongs to somebody else's namespace and matches nothing here.

use quick_xml::Reader;
use quick_xml::errors::SyntaxError;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesDecl, BytesRef, BytesStart, Event};

use super::error::{Error, Place, excerpt};
use super::{MAX_ATTRIBUTES, MAX_DEPTH, MAX_ELEMENTS, MAX_NAME_BYTES, MAX_VALUE_BYTES};

/// First line of everything written here.
pub(super) const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

/// Which document is read, and how long it may be.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub(super) root: &'static str,
    pub(super) max_bytes: usize,
}

/// A well-formed document within all caps: its elements in document order.
pub(super) struct Document {
    elements: Vec<Element>,
}

struct Element {
    name: String,
    attributes: Vec<(String, String)>,
    parent: Option<usize>,
    /// Index past its last descendant, so the next sibling is found in one step.
    end: usize,
    offset: usize,
}

impl Document {
    /// Reads and checks all of `body`.
    pub(super) fn read(body: &[u8], kind: Kind) -> Result<Self, Error> {
        let mut builder = Builder::new(checked_text(body, kind)?);
        while builder.step()? {}
        builder.finish(kind)
    }

    /// The root element.
    pub(super) fn root(&self) -> Node<'_> {
        Node { document: self, index: 0 }
    }
}

/// An element of a [`Document`].
#[derive(Clone, Copy)]
pub(super) struct Node<'d> {
    document: &'d Document,
    index: usize,
}

impl<'d> Node<'d> {
    fn element(self) -> &'d Element {
        &self.document.elements[self.index]
    }

    /// The attribute's value, if it is there.
    pub(super) fn attribute(self, name: &str) -> Option<&'d str> {
        self.element().attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The attribute's value; absent and empty are one.
    pub(super) fn text(self, name: &str) -> &'d str {
        self.attribute(name).unwrap_or_default()
    }

    /// The attribute's value unless it is absent or empty.
    pub(super) fn non_empty(self, name: &str) -> Option<&'d str> {
        self.attribute(name).filter(|value| !value.is_empty())
    }

    /// The attribute's value, which must be there and not be empty.
    pub(super) fn required(self, name: &'static str) -> Result<&'d str, Error> {
        self.non_empty(name).ok_or_else(|| Error::MissingAttribute { place: self.place(), name })
    }

    /// The first child of that name.
    pub(super) fn child(self, name: &str) -> Option<Node<'d>> {
        self.children(name).next()
    }

    /// The first child of that name, which must be there.
    pub(super) fn required_child(self, name: &'static str) -> Result<Node<'d>, Error> {
        self.child(name).ok_or_else(|| Error::MissingElement { place: self.place(), name })
    }

    /// Its children of that name, in order.
    pub(super) fn children(self, name: &str) -> impl Iterator<Item = Node<'d>> {
        let elements = &self.document.elements;
        let end = self.element().end;
        let first = (self.index + 1 < end).then_some(self.index + 1);
        std::iter::successors(first, move |&index| Some(elements[index].end).filter(|&next| next < end))
            .filter(move |&index| elements[index].name == name)
            .map(move |index| Node { document: self.document, index })
    }

    /// An error about one of its attributes.
    pub(super) fn bad_value(self, name: &'static str, expected: &'static str) -> Error {
        Error::BadValue { place: self.place(), name, expected, got: excerpt(self.text(name)) }
    }

    /// Where it stands, for messages.
    pub(super) fn place(self) -> Place {
        Place { offset: self.element().offset, path: path(&self.document.elements, Some(self.index)) }
    }
}

/// Path of names from the root to `index`; a number is added where the parent has several children of that name.
fn path(elements: &[Element], mut index: Option<usize>) -> String {
    let mut names = Vec::new();
    while let Some(at) = index {
        let element = &elements[at];
        let is_twin = |other: &&Element| other.parent == element.parent && other.name == element.name;
        let before = elements[..at].iter().filter(is_twin).count();
        let after = elements[at + 1..].iter().any(|other| is_twin(&other));
        let name = excerpt(&element.name);
        names.push(if before > 0 || after { format!("{name}[{}]", before + 1) } else { name });
        index = element.parent;
    }
    names.reverse();
    names.join("/")
}

/// The body as text, if its length, encoding and characters are those of a document that can be read at all.
fn checked_text(body: &[u8], kind: Kind) -> Result<&str, Error> {
    if body.is_empty() {
        return Err(Error::Empty { expected: kind.root });
    }
    if body.len() > kind.max_bytes {
        return Err(Error::TooLarge { expected: kind.root, limit: kind.max_bytes, got: body.len() });
    }
    let text = std::str::from_utf8(body).map_err(|error| Error::NotUtf8 { offset: error.valid_up_to() })?;
    match text.char_indices().find(|&(_, c)| !is_xml_char(c)) {
        None => Ok(text),
        Some((offset, c)) => Err(malformed(offset, format!("expected a character XML allows, got U+{:04X}", u32::from(c)))),
    }
}

/// The characters of XML 1.0 (section 2.2).
fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

fn malformed(offset: usize, problem: impl Into<String>) -> Error {
    Error::Malformed { place: Place { offset, path: String::new() }, problem: problem.into() }
}

/// Turns the events of the XML reader into elements, refusing what the module doc rules out.
struct Builder<'t> {
    reader: Reader<&'t [u8]>,
    elements: Vec<Element>,
    /// Indices of the elements not yet closed, the root first.
    open: Vec<usize>,
}

impl<'t> Builder<'t> {
    fn new(text: &'t str) -> Self {
        let mut reader = Reader::from_str(text);
        reader.config_mut().check_comments = true;
        Self { reader, elements: Vec::new(), open: Vec::new() }
    }

    /// Takes one event; false at the end of the document.
    fn step(&mut self) -> Result<bool, Error> {
        let offset = as_offset(self.reader.buffer_position());
        let event = self.reader.read_event().map_err(|error| self.syntax_error(&error, offset))?;
        match event {
            Event::Start(tag) => self.open_element(&tag, offset)?,
            Event::Empty(tag) => {
                self.open_element(&tag, offset)?;
                self.close_element();
            }
            Event::End(_) => self.close_element(),
            Event::Text(text) => {
                if !text.chars().all(|c| matches!(c, ' ' | '\t' | '\r' | '\n')) {
                    self.expect_inside_root(offset)?;
                }
            }
            Event::CData(_) => self.expect_inside_root(offset)?,
            Event::GeneralRef(reference) => self.check_reference(&reference, offset)?,
            Event::Decl(declaration) => self.check_declaration(&declaration, offset)?,
            Event::DocType(_) => return Err(Error::Doctype { offset }),
            Event::Comment(_) | Event::PI(_) => {}
            Event::Eof => return Ok(false),
        }
        Ok(true)
    }

    fn finish(self, kind: Kind) -> Result<Document, Error> {
        let end = as_offset(self.reader.buffer_position());
        if !self.open.is_empty() {
            return Err(self.malformed_here(end, "expected the end tag of this element, got the end of the document"));
        }
        let Some(root) = self.elements.first() else {
            return Err(malformed(end, format!("expected a root element <{}>, got the end of the document", kind.root)));
        };
        if root.name != kind.root {
            return Err(Error::WrongRoot { expected: kind.root, got: excerpt(&root.name) });
        }
        Ok(Document { elements: self.elements })
    }

    fn open_element(&mut self, tag: &BytesStart<'_>, offset: usize) -> Result<(), Error> {
        if self.open.is_empty() && !self.elements.is_empty() {
            return Err(Error::TrailingData { offset });
        }
        if self.open.len() == MAX_DEPTH {
            return Err(self.over_limit(offset, "levels of nesting", MAX_DEPTH));
        }
        if self.elements.len() == MAX_ELEMENTS {
            return Err(self.over_limit(offset, "elements", MAX_ELEMENTS));
        }
        self.check_name(tag.name().as_ref(), "element", offset)?;
        let index = self.elements.len();
        self.elements.push(Element {
            name: tag.local_name().as_ref().to_owned(),
            attributes: Vec::new(),
            parent: self.open.last().copied(),
            end: index + 1,
            offset,
        });
        self.open.push(index);
        self.elements[index].attributes = self.read_attributes(tag, offset)?;
        Ok(())
    }

    fn close_element(&mut self) {
        // The reader has matched the end tag to its start tag, so there is one to close.
        if let Some(index) = self.open.pop() {
            self.elements[index].end = self.elements.len();
        }
    }

    fn read_attributes(&self, tag: &BytesStart<'_>, offset: usize) -> Result<Vec<(String, String)>, Error> {
        let mut attributes: Vec<(String, String)> = Vec::new();
        // Duplicates are looked for below, within the cap, where the name is at hand for the message.
        for attribute in tag.attributes().with_checks(false) {
            let attribute = attribute.map_err(|error| self.malformed_here(offset, error.to_string()))?;
            if attributes.len() == MAX_ATTRIBUTES {
                return Err(self.over_limit(offset, "attributes in an element", MAX_ATTRIBUTES));
            }
            let name = attribute.key.as_ref();
            self.check_name(name, "attribute", offset)?;
            if attributes.iter().any(|(other, _)| other == name) {
                return Err(Error::DuplicateAttribute { place: self.place(offset), name: name.to_owned() });
            }
            attributes.push((name.to_owned(), self.read_value(name, &attribute.value, offset)?));
        }
        Ok(attributes)
    }

    /// A value with its references resolved and its line breaks normalised (XML 1.0, section 3.3.3).
    fn read_value(&self, name: &str, raw: &str, offset: usize) -> Result<String, Error> {
        if raw.len() > MAX_VALUE_BYTES {
            return Err(self.over_limit(offset, "bytes in an attribute value", MAX_VALUE_BYTES));
        }
        if raw.contains('<') {
            return Err(self.malformed_here(offset, format!("expected &lt; in the value of {name:?}, got a raw <")));
        }
        let mut value = String::with_capacity(raw.len());
        let mut rest = raw;
        while let Some(at) = rest.find(['&', '\t', '\r', '\n']) {
            value.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix('&') {
                let Some((entity, after)) = after.split_once(';') else {
                    return Err(self.malformed_here(offset, format!("expected ; after & in the value of {name:?}")));
                };
                value.push(self.resolve(entity, offset)?);
                rest = after;
            } else {
                value.push(' ');
                rest = rest.strip_prefix("\r\n").unwrap_or(&rest[1..]);
            }
        }
        value.push_str(rest);
        Ok(value)
    }

    /// The character an entity or character reference (without `&` and `;`) stands for.
    fn resolve(&self, entity: &str, offset: usize) -> Result<char, Error> {
        let Some(number) = entity.strip_prefix('#') else {
            return resolve_xml_entity(entity)
                .and_then(|text| text.chars().next())
                .ok_or_else(|| Error::UnknownEntity { place: self.place(offset), name: excerpt(entity) });
        };
        let (digits, radix) = number.strip_prefix('x').map_or((number, 10), |hex| (hex, 16));
        // `from_str_radix` would take a sign.
        let code = Some(digits).filter(|digits| digits.chars().all(|c| c.is_digit(radix)));
        code.and_then(|digits| u32::from_str_radix(digits, radix).ok())
            .and_then(char::from_u32)
            .filter(|&c| is_xml_char(c))
            .ok_or_else(|| {
                let problem = format!("expected a reference to a character XML allows, got \"&{};\"", excerpt(entity));
                self.malformed_here(offset, problem)
            })
    }

    fn check_reference(&self, reference: &BytesRef<'_>, offset: usize) -> Result<(), Error> {
        self.expect_inside_root(offset)?;
        self.resolve(reference, offset).map(drop)
    }

    fn check_declaration(&self, declaration: &BytesDecl<'_>, offset: usize) -> Result<(), Error> {
        const BOM_BYTES: usize = 3;
        if offset != 0 && offset != BOM_BYTES {
            return Err(self.malformed_here(offset, "expected the XML declaration only at the start of the document"));
        }
        let version = declaration.version().map_err(|error| self.malformed_here(offset, error.to_string()))?;
        if version != "1.0" {
            let problem = format!("expected XML version 1.0, got {:?}", excerpt(&version));
            return Err(self.malformed_here(offset, problem));
        }
        let encoding = declaration.encoding().transpose().map_err(|error| self.malformed_here(offset, error.to_string()))?;
        match encoding {
            Some(encoding) if !encoding.eq_ignore_ascii_case("utf-8") => {
                let problem = format!("expected encoding UTF-8, got {:?}", excerpt(&encoding));
                Err(self.malformed_here(offset, problem))
            }
            _ => Ok(()),
        }
    }

    fn check_name(&self, name: &str, of: &str, offset: usize) -> Result<(), Error> {
        if name.len() > MAX_NAME_BYTES {
            return Err(self.over_limit(offset, "bytes in a name", MAX_NAME_BYTES));
        }
        if is_name(name) {
            Ok(())
        } else {
            Err(self.malformed_here(offset, format!("expected a name of an {of}, got {:?}", excerpt(name))))
        }
    }

    fn expect_inside_root(&self, offset: usize) -> Result<(), Error> {
        match (self.open.is_empty(), self.elements.is_empty()) {
            (false, _) => Ok(()),
            (true, true) => Err(malformed(offset, "expected the root element, got text")),
            (true, false) => Err(Error::TrailingData { offset }),
        }
    }

    fn syntax_error(&self, error: &quick_xml::Error, start: usize) -> Error {
        match error {
            quick_xml::Error::Syntax(SyntaxError::UnclosedDoctype) => Error::Doctype { offset: start },
            other => self.malformed_here(as_offset(self.reader.error_position()), other.to_string()),
        }
    }

    fn malformed_here(&self, offset: usize, problem: impl Into<String>) -> Error {
        Error::Malformed { place: self.place(offset), problem: problem.into() }
    }

    fn over_limit(&self, offset: usize, what: &'static str, limit: usize) -> Error {
        Error::OverLimit { place: self.place(offset), what, limit }
    }

    fn place(&self, offset: usize) -> Place {
        Place { offset, path: path(&self.elements, self.open.last().copied()) }
    }
}

/// Whether XML would take it as a name; letters beyond ASCII are not told apart.
fn is_name(name: &str) -> bool {
    let is_start = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':' || !c.is_ascii();
    let mut chars = name.chars();
    chars.next().is_some_and(is_start) && chars.all(|c| is_start(c) || c.is_ascii_digit() || c == '-' || c == '.')
}

/// Positions are within a body that is in memory, so they always fit.
fn as_offset(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

/// Writes ` name="value"`. Everything that would end the value, or be changed by a reader's normalisation, is escaped; a
/// character XML cannot carry at all becomes U+FFFD.
pub(super) fn write_attribute(out: &mut String, name: &str, value: &str) {
    out.push(' ');
    out.push_str(name);
    out.push_str("=\"");
    for c in value.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\t' => out.push_str("&#9;"),
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            c if is_xml_char(c) => out.push(c),
            _ => out.push(char::REPLACEMENT_CHARACTER),
        }
    }
    out.push('"');
}
