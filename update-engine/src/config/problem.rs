//! What is wrong with a configuration, in words a person can act on.

use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// Line and column, both from 1, when the problem has a place in the file.
    pub place: Option<(usize, usize)>,
    /// The key, dotted, empty when the problem is the file's.
    pub key: String,
    /// What was expected and what was got.
    pub words: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.words)
    }
}

/// Why a configuration was refused: at least one problem, each a line of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    /// `Err` when there is a problem.
    pub(super) fn none_of(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self { problems }) }
    }

    /// A single problem of a file.
    pub(super) fn of_file(file: impl Into<String>, words: impl Into<String>) -> Self {
        Self { problems: vec![Problem { file: file.into(), place: None, key: String::new(), words: words.into() }] }
    }

    /// Everything that is wrong, in the order of the files.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
