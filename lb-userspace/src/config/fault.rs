//! What is wrong with a configuration, and where.

use std::{cell::RefCell, collections::BTreeSet, fmt, ops::Range, string::FromUtf8Error};

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What was found and what is allowed.
    pub message: String,
}

/// All that is wrong with a configuration, in the order of the places; at least one fault.
///
/// Displays as one line a fault: `weir.toml:12:8: unknown key …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    file: String,
    faults: Vec<Fault>,
}

impl Faults {
    /// The faults by themselves.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.faults.iter()
    }

    /// One line a fault, as they are displayed.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.faults.iter().map(|fault| {
            let Fault { line, column, message } = fault;
            format!("{}:{line}:{column}: {message}", self.file)
        })
    }

    /// The fault of a file that is no text at all.
    pub(super) fn not_text(file: &str, error: &FromUtf8Error) -> Self {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let mut cursor = Cursor::new(std::str::from_utf8(valid).unwrap_or_default());
        let message = "found bytes that are not UTF-8; the file is text in UTF-8".to_owned();
        let faults = vec![cursor.fault(valid.len(), message)];
        Self { file: file.to_owned(), faults }
    }
}

impl<'a> IntoIterator for &'a Faults {
    type Item = &'a Fault;
    type IntoIter = std::slice::Iter<'a, Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self.lines().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Where faults are collected while a file is read. Places are byte offsets.
///
/// A line whose syntax is broken says nothing reliable: faults of meaning on it are left out, and
/// once there is any such line, nothing is said to be missing either.
#[derive(Debug)]
pub(super) struct Report {
    line_starts: Vec<usize>,
    broken_lines: BTreeSet<usize>,
    // Shared by all readers of one tree, which hold it at the same time.
    found: RefCell<Vec<(usize, String)>>,
}

impl Report {
    pub(super) fn new(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line_starts = std::iter::once(0).chain(ends.map(|(end, _)| end + 1)).collect();
        Self { line_starts, broken_lines: BTreeSet::new(), found: RefCell::default() }
    }

    /// A fault of syntax that spoils the lines of `place`.
    pub(super) fn syntax(&mut self, place: Range<usize>, message: String) {
        self.broken_lines.extend(self.line(place.start)..=self.line(place.end));
        self.found.get_mut().push((place.start, message));
    }

    /// A fault of meaning.
    pub(super) fn fault(&self, place: usize, message: String) {
        if !self.broken_lines.contains(&self.line(place)) {
            self.found.borrow_mut().push((place, message));
        }
    }

    /// Something is not there.
    pub(super) fn missing(&self, place: usize, message: String) {
        if self.broken_lines.is_empty() {
            self.fault(place, message);
        }
    }

    /// The line of a place, from 1.
    pub(super) fn line(&self, place: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= place)
    }

    /// The bytes of a line, its end included.
    pub(super) fn line_range(&self, line: usize) -> Range<usize> {
        let start = |line: usize| self.line_starts.get(line).copied().unwrap_or(usize::MAX);
        start(line.saturating_sub(1))..start(line)
    }

    /// The value if nothing was wrong, else all that was.
    ///
    /// A value is only ever left out together with a fault; should that not hold, the first line
    /// says so instead of a panic.
    pub(super) fn finish<T>(self, text: &str, file: &str, value: Option<T>) -> Result<T, Faults> {
        let mut found = self.found.into_inner();
        if found.is_empty() {
            match value {
                Some(value) => return Ok(value),
                None => found.push((0, "the file cannot be understood".to_owned())),
            }
        }
        found.sort();
        found.dedup();
        let mut cursor = Cursor::new(text);
        let faults = found.into_iter().map(|(place, message)| cursor.fault(place, message));
        Err(Faults { faults: faults.collect(), file: file.to_owned() })
    }
}

/// Turns rising offsets into lines and columns in one walk over the text.
struct Cursor<'t> {
    text: &'t str,
    place: usize,
    line: usize,
    column: usize,
}

impl<'t> Cursor<'t> {
    fn new(text: &'t str) -> Self {
        Self { text, place: 0, line: 1, column: 1 }
    }

    fn fault(&mut self, place: usize, message: String) -> Fault {
        for character in self.text[self.place..].chars() {
            if self.place >= place {
                break;
            }
            match character {
                '\n' => (self.line, self.column) = (self.line + 1, 1),
                // A byte order mark is no column that an editor shows.
                '\u{feff}' if self.place == 0 => {}
                _ => self.column += 1,
            }
            self.place += character.len_utf8();
        }
        Fault { line: self.line, column: self.column, message }
    }
}
