//! From text to a tree with places, past all errors of syntax.

use std::{borrow::Cow, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue, Error},
};

use super::{fault::Report, values::quoted};

/// The text, made ready for a parser that must reach its end.
pub(super) struct Source<'t>(Cow<'t, str>);

impl<'t> Source<'t> {
    /// Reports lines such as `name "grafana"` and blanks them out: behind a key without `=` the
    /// parser would build nothing more.
    pub(super) fn new(text: &'t str, report: &mut Report) -> Self {
        let (_, errors) = DeTable::parse_recoverable(text);
        let mut bytes = Cow::Borrowed(text.as_bytes());
        for error in errors.iter().filter(|error| error.message().starts_with("key with no value"))
        {
            let place = error.span().unwrap_or_default();
            let line = report.line_range(report.line(place.start));
            let line = line.start..line.end.min(text.len());
            // Inside a list or an inline table, more would be lost with the line than the key.
            let before = text.get(line.start..place.start);
            if before.is_none_or(|before| before.contains(['=', '{', '[', ','])) {
                continue;
            }
            let content = text[line.clone()].trim_end_matches(['\r', '\n']).len();
            bytes.to_mut()[line.start..line.start + content].fill(b' ');
            report.syntax(place, say(error, text));
        }
        Self(match bytes {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            // Whole lines became spaces, so this is still text and loses nothing.
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        })
    }

    /// The tree, as far as the text makes one; reports the errors.
    pub(super) fn tree(&self, report: &mut Report) -> DeTable<'_> {
        let (tree, errors) = DeTable::parse_recoverable(&self.0);
        let tree = tree.into_inner();
        let mut swallowed = None;
        if let Some((place, message)) = unclosed(&tree, &errors) {
            swallowed = Some(place.start..=place.end);
            report.syntax(place, message);
        }
        let mut last = None;
        for error in &errors {
            let place = error.span().unwrap_or_default();
            // One slip often has two errors at the same place; the first is the better one.
            let swallowed = swallowed.as_ref().is_some_and(|range| range.contains(&place.start));
            if !swallowed && last.replace(place.start) != Some(place.start) {
                report.syntax(place, say(error, &self.0));
            }
        }
        tree
    }
}

/// The list or inline table that is never closed and so swallows what follows: its place
/// and what to say instead of the many errors that follow from it.
fn unclosed(tree: &DeTable<'_>, errors: &[Error]) -> Option<(Range<usize>, String)> {
    let is_unclosed = |error: &&Error| {
        error.message().starts_with("unclosed array")
            || error.message().starts_with("unclosed inline table")
    };
    let end = errors.iter().rev().find(is_unclosed)?.span()?.start;
    let value = outermost(&mut tree.values(), end)?;
    let (what, bracket) = match value.get_ref() {
        DeValue::Array(_) => ("list", ']'),
        _ => ("inline table", '}'),
    };
    Some((value.span(), format!("this {what} is never closed; `{bracket}` is missing")))
}

/// The outermost value, a list or inline table, that reaches to `end`.
fn outermost<'t>(
    values: &mut dyn Iterator<Item = &'t Spanned<DeValue<'t>>>,
    end: usize,
) -> Option<&'t Spanned<DeValue<'t>>> {
    for value in values {
        let found = match value.get_ref() {
            DeValue::Array(_) | DeValue::Table(_)
                if value.span().end == end && !value.span().is_empty() =>
            {
                Some(value)
            }
            DeValue::Table(table) => outermost(&mut table.values(), end),
            DeValue::Array(array) => outermost(&mut array.iter(), end),
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// The parser's message in the words of this file.
fn say(error: &Error, text: &str) -> String {
    let message = error.message().trim_end_matches(", expected nothing");
    let found = error.span().and_then(|span| text.get(span)).unwrap_or_default();
    match message {
        "duplicate key" => match found {
            "interface" | "service" | "backend" => {
                format!("duplicate key {found:?}; each one begins with a header in double brackets")
            }
            _ => format!("duplicate key {found:?}; a key or table is given once"),
        },
        "string values must be quoted, expected literal string" if found.is_empty() => {
            "a value is missing after `=`".to_owned()
        }
        "string values must be quoted, expected literal string" => {
            format!("found {}; text is written in quotes", quoted(found))
        }
        _ if ["invalid float", "invalid integer", "invalid date", "invalid time"]
            .iter()
            .any(|start| message.starts_with(start)) =>
        {
            format!("{message}; text, such as an address, is written in quotes")
        }
        _ => message.to_owned(),
    }
}
