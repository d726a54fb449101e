//! Each source by itself into a fragment, then all of them into one: tables deeply, anything else by the last who said it.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Table;
use toml::Value;
use toml::de::{DeTable, DeValue};

use super::fragment::Fragment;
use super::problem::{ConfigError, Problem};
use super::source::Source;
use super::url::hide_credentials;

/// In a message of the parser, between what it got and what it knows.
const EXPECTED: &str = ", expected ";
/// Most keys of another version that are left out. All that there are today are fewer.
const MAX_IGNORED: usize = 64;

/// Where a value was last set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) file: String,
    pub(super) place: (usize, usize),
}

/// All sources as one, and where each value came from.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) fragment: Fragment,
    /// By dotted key, tables included.
    pub(super) origins: BTreeMap<String, Origin>,
    /// The first source: it is blamed for what is missing.
    pub(super) main: String,
}

pub(super) fn merge(sources: &[Source]) -> Result<Merged, ConfigError> {
    let mut problems = Vec::new();
    let mut table = Table::new();
    let mut origins = BTreeMap::new();
    for source in sources {
        match read_source(source, &mut origins) {
            Ok(read) => overlay(&mut table, read),
            Err(problem) => problems.push(problem),
        }
    }
    ConfigError::none_of(problems)?;
    let main = sources.first().map(|source| source.name.clone()).unwrap_or_default();
    let fragment = table.try_into().map_err(|error: toml::de::Error| ConfigError::of_file(&main, error.message()))?;
    Ok(Merged { fragment, origins, main })
}

/// One source that another version of this program wrote: keys that are not known here are left out, and named.
pub(super) fn merge_of_another(source: &Source) -> Result<(Merged, Vec<String>), ConfigError> {
    let refused = |words: String| ConfigError::of_file(&source.name, words);
    let mut known = source.clone();
    let mut ignored = Vec::new();
    while let Some((table, key)) = unknown_in(&known.text) {
        if ignored.len() == MAX_IGNORED {
            return Err(refused(format!("expected at most {MAX_IGNORED} unknown keys, got more")));
        }
        let mut root = known.text.parse::<Table>().map_err(|error| refused(not_toml(error.message())))?;
        if !remove(&mut root, &table, &key) {
            break;
        }
        known.text = toml::to_string(&root).map_err(|error| refused(error.to_string()))?;
        ignored.push(table.into_iter().chain([key]).collect::<Vec<_>>().join("."));
    }
    Ok((merge(&[known])?, ignored))
}

/// Removes a key from the table at this path, and from all that stand there in an array. Whether there was one.
fn remove(table: &mut Table, path: &[String], key: &str) -> bool {
    let Some((step, rest)) = path.split_first() else { return table.remove(key).is_some() };
    match table.get_mut(step) {
        Some(Value::Table(inner)) => remove(inner, rest, key),
        Some(Value::Array(entries)) => {
            let removed = entries.iter_mut().filter_map(Value::as_table_mut).map(|entry| remove(entry, rest, key));
            removed.fold(false, |any, one| any | one)
        }
        _ => false,
    }
}

/// The first key that no fragment has, and the tables around it, which are all known.
fn unknown_in(text: &str) -> Option<(Vec<String>, String)> {
    let mut error = toml::from_str::<Fragment>(text).err()?;
    let (got, _) = error.message().split_once(EXPECTED)?;
    let key = between(got, "unknown field `", "`")?.to_owned();
    error.set_input(None);
    let table = parent_of(&error.to_string());
    Some((table.split('.').filter(|step| !step.is_empty()).map(str::to_owned).collect(), key))
}

/// A top-level string, from whatever sources can be read as TOML at all.
pub(super) fn lenient_string(sources: &[Source], key: &str) -> Option<String> {
    let tables = sources.iter().filter_map(|source| source.text.parse::<Table>().ok());
    tables.filter_map(|table| table.get(key).and_then(Value::as_str).map(str::to_owned)).next_back()
}

fn read_source(source: &Source, origins: &mut BTreeMap<String, Origin>) -> Result<Table, Problem> {
    let refused = |error| explain(source, error);
    let positions = DeTable::parse(&source.text).map_err(refused)?;
    toml::from_str::<Fragment>(&source.text).map_err(refused)?;
    note_origins(source, "", positions.get_ref(), origins);
    source.text.parse::<Table>().map_err(refused)
}

fn note_origins(source: &Source, prefix: &str, table: &DeTable<'_>, origins: &mut BTreeMap<String, Origin>) {
    for (key, value) in table {
        let path = if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        let place = match value.get_ref() {
            DeValue::Table(inner) => {
                note_origins(source, &path, inner, origins);
                key.span()
            }
            _ => value.span(),
        };
        origins.insert(path, Origin { file: source.name.clone(), place: line_and_column(&source.text, place.start) });
    }
}

fn overlay(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// Line and column, both from 1, columns in characters.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The parser's message in our words: place, key, expected, got.
fn explain(source: &Source, mut error: toml::de::Error) -> Problem {
    let span = error.span();
    let message = error.message().to_owned();
    error.set_input(None);
    let table = parent_of(&error.to_string());
    let (key, words) = words(source, &table, &message, span.clone());
    let place = span.map(|span| line_and_column(&source.text, span.start));
    Problem { file: source.name.clone(), place, key, words: hide_credentials(&words) }
}

/// The dotted key that the parser was in: it stands in the last line of its message, in backquotes.
fn parent_of(message: &str) -> String {
    let last = message.trim_end().rsplit('\n').next().unwrap_or_default();
    last.strip_prefix("in `").and_then(|rest| rest.strip_suffix('`')).unwrap_or_default().to_owned()
}

fn words(source: &Source, key: &str, message: &str, span: Option<Range<usize>>) -> (String, String) {
    let Some((got, expected)) = message.split_once(EXPECTED) else {
        return (key.to_owned(), not_toml(message));
    };
    if let Some(unknown) = between(got, "unknown field `", "`") {
        let path = if key.is_empty() { unknown.to_owned() } else { format!("{key}.{unknown}") };
        return (path, unknown_key(unknown, expected));
    }
    let got = got.strip_prefix("invalid type: ").or_else(|| got.strip_prefix("invalid value: "));
    match got {
        Some("map") => (key.to_owned(), format!("expected {}, got a table", plain_type(expected))),
        Some("sequence") => (key.to_owned(), format!("expected {}, got a list", plain_type(expected))),
        Some(_) => {
            let literal = span.and_then(|span| source.text.get(span)).unwrap_or_default();
            (key.to_owned(), format!("expected {}, got {literal}", plain_type(expected)))
        }
        None => (key.to_owned(), not_toml(message)),
    }
}

fn not_toml(message: &str) -> String {
    format!("not valid TOML: {message}")
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.strip_prefix(before)?.strip_suffix(after)
}

fn plain_type(expected: &str) -> &str {
    match expected {
        "u64" => "a whole number, 0 or more",
        "a sequence" => "a list",
        "a string" => "a text in quotes",
        "a map" => "a table",
        other if other.starts_with("struct ") => "a table",
        other => other,
    }
}

fn unknown_key(unknown: &str, expected: &str) -> String {
    let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let mut words = format!("unknown key, expected {}", one_of(&known));
    if let Some(near) = nearest(unknown, &known) {
        words.push_str(&format!("; did you mean \"{near}\"?"));
    }
    words
}

fn one_of(words: &[&str]) -> String {
    match words {
        [only] => (*only).to_owned(),
        [first, second] => format!("{first} or {second}"),
        many => format!("one of {}", many.join(", ")),
    }
}

/// The known word that is at most two mistakes away (one for short words, none for those of one or two letters).
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let allowed = match word.chars().count() {
        0..=2 => return None,
        3 => 1,
        _ => 2,
    };
    let scored = known.iter().map(|candidate| (distance(word, candidate), *candidate));
    scored.filter(|(mistakes, _)| *mistakes <= allowed).min().map(|(_, candidate)| candidate)
}

/// Levenshtein's distance. Words longer than any key are not measured.
fn distance(left: &str, right: &str) -> usize {
    const LONGEST: usize = 64;
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    if left.len() > LONGEST || right.len() > LONGEST {
        return LONGEST;
    }
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_single_mistakes() {
        assert_eq!(distance("channel", "channel"), 0);
        assert_eq!(distance("chanel", "channel"), 1);
        assert_eq!(distance("", "url"), 3);
        assert_eq!(distance("uri", "url"), 1);
    }

    #[test]
    fn places_count_characters_from_one() {
        assert_eq!(line_and_column("a\nüb = 1", 2), (2, 1));
        assert_eq!(line_and_column("a\nüb = 1", 4), (2, 2));
        assert_eq!(line_and_column("a", 99), (1, 2));
    }
}
