//! Input made to hurt: each is refused with its own error, and quickly.

// The lints know test functions, not the helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use manifests::omaha::{
    Error, MAX_ATTRIBUTES, MAX_CODEBASES, MAX_DEPTH, MAX_ELEMENTS, MAX_PACKAGES, MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES,
    MAX_VALUE_BYTES, Place, Request, UpdateAnswer,
};

/// Several times what the slowest of these takes unoptimised, and far below what a quadratic reader would take. It is time on
/// the processor, so a busy machine changes nothing.
const QUICKLY: Duration = Duration::from_secs(3);

/// Processor time of this thread so far (proc(5): fields 14 and 15 of `stat`, in hundredths of a second).
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn refused(body: &[u8]) -> Error {
    let start = processor_time();
    let error = UpdateAnswer::read(body, "x").expect_err("hostile input was read");
    let spent = processor_time() - start;
    assert!(spent < QUICKLY, "{spent:?} for {} bytes: {error}", body.len());
    assert!(error.to_string().len() < 1000, "the message is a page long: {} bytes", error.to_string().len());
    error
}

/// Repeats `part` between head and tail until the document has almost the length allowed.
fn filled(head: &str, part: &str, tail: &str) -> Vec<u8> {
    let times = (MAX_RESPONSE_BYTES - head.len() - tail.len()) / part.len();
    format!("{head}{}{tail}", part.repeat(times)).into_bytes()
}

fn assert_over_limit(body: &[u8], expected_limit: usize, expected_what: &str) {
    match refused(body) {
        Error::OverLimit { limit, what, .. } => assert_eq!((limit, what), (expected_limit, expected_what)),
        other => panic!("{other:?}"),
    }
}

fn assert_malformed(body: &str, part_of_message: &str) {
    let error = refused(body.as_bytes());
    assert!(matches!(error, Error::Malformed { .. }), "{body}: {error:?}");
    assert!(error.to_string().contains(part_of_message), "{body}: {error}");
}

#[test]
fn one_byte_too_many_is_too_large() {
    let body = vec![b' '; MAX_RESPONSE_BYTES + 1];
    let expected = Error::TooLarge { expected: "response", limit: MAX_RESPONSE_BYTES, got: MAX_RESPONSE_BYTES + 1 };
    assert_eq!(refused(&body), expected);
    assert_eq!(expected.code().to_wire(), 31);
    let request = Request::read(&vec![b' '; MAX_REQUEST_BYTES + 1]).unwrap_err();
    assert!(matches!(request, Error::TooLarge { expected: "request", .. }));
}

#[test]
fn a_request_of_64_kib_of_real_elements_is_read() {
    let event = "<event eventtype=\"3\" eventresult=\"1\"></event>";
    let events = (64 << 10) / event.len() + 1;
    let body = format!("<request protocol=\"3.0\"><app appid=\"x\">{}</app></request>", event.repeat(events));
    assert!(body.len() > 64 << 10);
    assert_eq!(Request::read(body.as_bytes()).unwrap().apps[0].events.len(), events);
}

#[test]
fn depth_is_limited_and_the_limit_itself_is_fine() {
    let nested = |depth: usize| format!("<response>{}{}</response>", "<a>".repeat(depth - 1), "</a>".repeat(depth - 1));
    assert!(matches!(refused(nested(MAX_DEPTH).as_bytes()), Error::NoSuchApp { .. }));
    assert_over_limit(nested(MAX_DEPTH + 1).as_bytes(), MAX_DEPTH, "levels of nesting");
    assert_over_limit(&filled("<response>", "<a>", ""), MAX_DEPTH, "levels of nesting");
}

#[test]
fn attributes_are_limited_before_their_duplicates_are_looked_for() {
    let element = |count: usize| {
        let attributes: String = (0..count).map(|n| format!(" a{n}=\"\"")).collect();
        format!("<response{attributes}></response>")
    };
    assert!(matches!(refused(element(MAX_ATTRIBUTES).as_bytes()), Error::NoSuchApp { .. }));
    assert_over_limit(element(MAX_ATTRIBUTES + 1).as_bytes(), MAX_ATTRIBUTES, "attributes in an element");
    assert_over_limit(element(80_000).as_bytes(), MAX_ATTRIBUTES, "attributes in an element");
}

#[test]
fn elements_are_limited() {
    let body = |count: usize| format!("<response>{}</response>", "<a/>".repeat(count - 1));
    assert!(matches!(refused(body(MAX_ELEMENTS).as_bytes()), Error::NoSuchApp { .. }));
    assert_over_limit(body(MAX_ELEMENTS + 1).as_bytes(), MAX_ELEMENTS, "elements");
    assert_over_limit(&filled("<response>", "<app/>", "</response>"), MAX_ELEMENTS, "elements");
}

#[test]
fn values_and_names_are_limited() {
    let value = |bytes: usize| format!("<response a=\"{}\"></response>", "v".repeat(bytes));
    assert!(matches!(refused(value(MAX_VALUE_BYTES).as_bytes()), Error::NoSuchApp { .. }));
    assert_over_limit(value(MAX_VALUE_BYTES + 1).as_bytes(), MAX_VALUE_BYTES, "bytes in an attribute value");
    assert_over_limit(&filled("<response a=\"", "&amp;", "\"/>"), MAX_VALUE_BYTES, "bytes in an attribute value");
    assert_over_limit(&filled("<", "a", "/>"), 128, "bytes in a name");
    assert_over_limit(&filled("<response ", "a", "=\"\"/>"), 128, "bytes in a name");
}

#[test]
fn codebases_and_packages_are_limited() {
    let answer = |urls: usize, packages: usize| {
        let urls = "<url codebase=\"http://a/\"/>".repeat(urls);
        let packages: String = (0..packages).map(|n| format!("<package name=\"p{n}\" size=\"1\"/>")).collect();
        format!(
            "<response><app appid=\"x\"><updatecheck status=\"ok\"><urls>{urls}</urls><manifest version=\"1\">\
             <packages>{packages}</packages><actions><action event=\"postinstall\" sha256=\"a\"/></actions></manifest>\
             </updatecheck></app></response>"
        )
    };
    assert!(UpdateAnswer::read(answer(MAX_CODEBASES, MAX_PACKAGES).as_bytes(), "x").is_ok());
    assert_over_limit(answer(MAX_CODEBASES + 1, 1).as_bytes(), MAX_CODEBASES, "codebases");
    assert_over_limit(answer(1, MAX_PACKAGES + 1).as_bytes(), MAX_PACKAGES, "packages");
}

#[test]
fn any_doctype_is_refused_before_it_is_understood() {
    let laughs = "<?xml version=\"1.0\"?><!DOCTYPE lolz [<!ENTITY lol \"lol\"><!ENTITY lol2 \"&lol;&lol;&lol;&lol;\">]>\
                  <response a=\"&lol2;\"/>";
    assert_eq!(refused(laughs.as_bytes()), Error::Doctype { offset: 21 });
    let external = "<!DOCTYPE response SYSTEM \"file:///etc/passwd\"><response/>";
    assert_eq!(refused(external.as_bytes()), Error::Doctype { offset: 0 });
    assert_eq!(refused(b"<!DOCTYPE response ["), Error::Doctype { offset: 0 });
    assert_eq!(refused(&filled("<!DOCTYPE r [", "<!ENTITY a \"a\">", "]><response/>")), Error::Doctype { offset: 0 });
    assert_eq!(refused(&filled("<!DOCTYPE r [", "<!--", "]><response/>")), Error::Doctype { offset: 0 });
    assert_eq!(refused(&filled("<!DOCTYPE r ", "[<'\"", "")), Error::Doctype { offset: 0 });
}

#[test]
fn entities_beyond_the_five_are_refused_by_name() {
    let place = |offset, path: &str| Place { offset, path: path.into() };
    for name in ["lol", "nbsp", "LT", ""] {
        let in_value = refused(format!("<response><app a=\"&{name};\"/></response>").as_bytes());
        assert_eq!(in_value, Error::UnknownEntity { place: place(10, "response/app"), name: name.into() });
        let in_text = refused(format!("<response>a&{name};</response>").as_bytes());
        assert_eq!(in_text, Error::UnknownEntity { place: place(11, "response"), name: name.into() });
    }
    // An entity in text ends the reader's patience too, however many there are.
    assert!(matches!(refused(&filled("<response>", "&a;", "</response>")), Error::UnknownEntity { .. }));
}

#[test]
fn references_to_characters_xml_forbids_are_refused() {
    for reference in
        ["&#0;", "&#1;", "&#x1B;", "&#xD800;", "&#xFFFE;", "&#x110000;", "&#+65;", "&#-1;", "&#;", "&#x;", "&#99999999999;"]
    {
        assert_malformed(&format!("<response a=\"{reference}\"/>"), "expected a reference to a character XML allows");
        assert_malformed(&format!("<response>{reference}</response>"), "expected a reference to a character XML allows");
    }
}

#[test]
fn an_attribute_given_twice_is_refused_by_name() {
    let error = refused(b"<response><app appid=\"x\" status=\"ok\" appid=\"y\"/></response>");
    let place = Place { offset: 10, path: "response/app".into() };
    assert_eq!(error, Error::DuplicateAttribute { place, name: "appid".into() });
    assert_eq!(error.code().to_wire(), 31);
}

#[test]
fn only_utf_8_is_read() {
    assert_eq!(refused(b"<response a=\"\xFF\"/>"), Error::NotUtf8 { offset: 13 });
    let utf16: Vec<u8> = "<response/>".encode_utf16().flat_map(u16::to_be_bytes).collect();
    assert!(matches!(refused(&utf16), Error::Malformed { .. }));
    assert_malformed("<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><response/>", "expected encoding UTF-8, got \"ISO-8859-1\"");
    assert_malformed("<?xml version=\"1.1\"?><response/>", "expected XML version 1.0, got \"1.1\"");
    let with_bom = "\u{FEFF}<?xml version=\"1.0\" encoding=\"utf-8\"?><response/>";
    assert!(matches!(refused(with_bom.as_bytes()), Error::NoSuchApp { .. }));
}

#[test]
fn whatever_follows_the_root_is_refused() {
    for (tail, extra) in
        [("<response/>", 0), ("x", 0), ("&amp;", 0), ("<![CDATA[]]>", 0), ("\n\n \u{A0}", 0), ("<!-- fine --><a>", 13)]
    {
        let error = refused(format!("<response/>{tail}").as_bytes());
        assert_eq!(error, Error::TrailingData { offset: 11 + extra }, "{tail:?}");
    }
    assert!(matches!(refused(b"<response/>\n<!-- a comment --> \n"), Error::NoSuchApp { .. }));
    // What stands behind the part of interest is checked as well.
    let good = "<response><app appid=\"x\"><updatecheck status=\"noupdate\"/></app></response>";
    assert!(UpdateAnswer::read(good.as_bytes(), "x").is_ok());
    assert_eq!(refused(format!("{good}junk").as_bytes()), Error::TrailingData { offset: good.len() });
}

#[test]
fn what_is_not_well_formed_is_refused() {
    for (body, part_of_message) in [
        (" ", "expected a root element <response>, got the end of the document"),
        ("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n", "expected a root element <response>, got the end of the document"),
        ("junk<response/>", "expected the root element, got text"),
        (" <?xml version=\"1.0\"?><response/>", "only at the start"),
        ("<response>", "expected the end tag of this element"),
        ("<response></app>", "`</response>`"),
        ("</response>", "does not match any open tag"),
        ("<response", "not closed"),
        ("<response a=\"", "not closed"),
        ("<response a=b/>", "response"),
        ("<response a/>", "response"),
        ("<response a=\"<\"/>", "expected &lt; in the value"),
        ("<response a=\"&\"/>", "expected ; after &"),
        ("<response 1=\"\"/>", "expected a name of an attribute, got \"1\""),
        ("<1/>", "expected a name of an element, got \"1\""),
        ("< response/>", "expected a name of an element, got \"\""),
        ("<response><!-- -- --></response>", "--"),
        ("<response>\u{1}</response>", "expected a character XML allows, got U+0001"),
        ("<response a=\"\u{FFFE}\"/>", "expected a character XML allows, got U+FFFE"),
        ("<response>&amp</response>", "not closed"),
        ("<response><!ELEMENT a></response>", ""),
        ("<response><![CDATA[</response>", "CDATA not closed"),
    ] {
        assert_malformed(body, part_of_message);
    }
}

#[test]
fn long_runs_of_anything_are_refused_quickly() {
    for (head, part, tail) in [
        ("", "<", ""),
        ("", ">", ""),
        ("", "<!", ""),
        ("", "<?", ""),
        ("", "<??>", ""),
        ("", "<!-- -->", ""),
        ("<response>", "<![CDATA[]]>", ""),
        ("<response>", "&amp;", ""),
        ("<response>", "<a></a>", ""),
        ("<response ", "a='' ", ""),
        ("<response ", "'", ""),
        ("<response a=\"", "&", "\"/>"),
        ("<response a=\"", "\n", "\"/>"),
        ("<response>", "</response><response>", ""),
        ("<response xmlns='a'>", "<a xmlns:b='c'>", ""),
        ("<?xml ", "version='1.0' ", "?>"),
    ] {
        refused(&filled(head, part, tail));
    }
}

#[test]
fn a_message_quotes_no_more_than_a_line_of_hostile_text() {
    let long = "n".repeat(MAX_VALUE_BYTES);
    let apps = format!("<app appid=\"{long}\"/>").repeat(100);
    let error = refused(format!("<response>{apps}</response>").as_bytes());
    assert!(matches!(&error, Error::NoSuchApp { got, .. } if got.len() == 8));
}
