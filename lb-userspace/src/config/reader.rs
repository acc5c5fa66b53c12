//! A walker over the tree of a configuration file: it hands out the values of keys, remembers
//! which keys were asked for, and reports what does not fit.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    fault::Report,
    values::{Refusal, found, quoted},
};

/// Longer keys are not compared with the known ones.
const KEY_LENGTH_MAX: usize = 64;

/// One table of the file, or the defaults of one that is not there.
///
/// A method that returns `None` for a key that is there has reported why.
#[derive(Debug)]
pub(super) struct Table<'a> {
    report: &'a Report,
    /// How messages name it: `in [[service]]`.
    title: &'static str,
    /// Where it begins.
    header: usize,
    entries: Option<&'a DeTable<'a>>,
    known: Vec<&'static str>,
}

impl<'a> Table<'a> {
    /// Reads the whole file with `read`.
    pub(super) fn root<T>(
        tree: &'a DeTable<'a>,
        report: &'a Report,
        read: impl FnOnce(&mut Table<'a>) -> Option<T>,
    ) -> Option<T> {
        let entries = Some(tree);
        Self { report, title: "at the top level", header: 0, entries, known: Vec::new() }.read(read)
    }

    /// The value of a key that must be there.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&DeValue<'_>) -> Result<T, Refusal>,
    ) -> Option<T> {
        if !self.has(key) {
            self.missing(key);
        }
        self.optional(key, parse)
    }

    /// The value of a key, or the default where it is not there.
    pub(super) fn or<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&DeValue<'_>) -> Result<T, Refusal>,
        default: T,
    ) -> Option<T> {
        if self.has(key) { self.optional(key, parse) } else { self.known(key, Some(default)) }
    }

    /// The value of a key that may be left out.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&DeValue<'_>) -> Result<T, Refusal>,
    ) -> Option<T> {
        let value = self.value(key)?;
        parse(value.get_ref()).map_err(|refusal| self.refuse(key, value, refusal)).ok()
    }

    /// The elements of a list that is not empty; every element that does not fit is reported.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        parse: impl Fn(&DeValue<'_>) -> Result<T, Refusal>,
    ) -> Option<Vec<T>> {
        let value = self.value(key)?;
        let elements = value.get_ref().as_array().filter(|elements| !elements.is_empty());
        let Some(elements) = elements else {
            self.refuse(key, value, Refusal::Expected(expected.to_owned()));
            return None;
        };
        let parsed: Vec<_> = elements
            .iter()
            .map(|element| {
                parse(element.get_ref()).map_err(|refusal| self.refuse(key, element, refusal)).ok()
            })
            .collect();
        parsed.into_iter().collect()
    }

    /// The elements of a list that may be empty or left out.
    pub(super) fn list_or_empty<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        parse: impl Fn(&DeValue<'_>) -> Result<T, Refusal>,
    ) -> Option<Vec<T>> {
        let value = self.entries.and_then(|entries| entries.get(key));
        let empty = |value: &Spanned<DeValue<'_>>| {
            value.get_ref().as_array().is_some_and(|elements| elements.is_empty())
        };
        if value.is_none_or(empty) {
            return self.known(key, Some(Vec::new()));
        }
        self.list(key, expected, parse)
    }

    /// A table below this one; where it is not there, `read` sees an empty one in its place.
    pub(super) fn section<T>(
        &mut self,
        key: &'static str,
        title: &'static str,
        read: impl FnOnce(&mut Table<'a>) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key);
        let entries = match value.map(|value| (value, value.get_ref())) {
            None => None,
            Some((_, DeValue::Table(entries))) => Some(entries),
            Some((value, _)) => {
                self.refuse(key, value, Refusal::Expected(format!("a table, {}", header(title))));
                return None;
            }
        };
        let header = value.map_or(self.header, |value| value.span().start);
        Self { report: self.report, title, header, entries, known: Vec::new() }.read(read)
    }

    /// The tables of a list below this one; none where it is not there.
    pub(super) fn sections<T>(
        &mut self,
        key: &'static str,
        title: &'static str,
        mut read: impl FnMut(&mut Table<'a>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Some(value) = self.value(key) else { return Some(Vec::new()) };
        let expected = format!("a list of tables, each under its own {}", header(title));
        let elements = match value.get_ref() {
            DeValue::Array(elements) => &elements[..],
            DeValue::Table(_) => {
                self.refuse(key, value, Refusal::Expected(expected));
                // Its keys are worth reading all the same.
                std::slice::from_ref(value)
            }
            _ => {
                self.refuse(key, value, Refusal::Expected(expected));
                return None;
            }
        };
        let tables: Vec<_> = elements
            .iter()
            .map(|element| {
                let DeValue::Table(entries) = element.get_ref() else {
                    self.refuse(key, element, Refusal::Expected("a table".to_owned()));
                    return None;
                };
                let (header, entries) = (element.span().start, Some(entries));
                let report = self.report;
                Table { report, title, header, entries, known: Vec::new() }.read(&mut read)
            })
            .collect();
        tables.into_iter().collect()
    }

    /// Whether the key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.is_some_and(|entries| entries.contains_key(key))
    }

    /// Refuses a key that has a meaning, but not here; `why` is the whole sentence.
    pub(super) fn refuse_key(&mut self, key: &'static str, why: &str) {
        self.known.push(key);
        if let Some((place, _)) = self.entries.and_then(|entries| entries.get_key_value(key)) {
            self.report.fault(place.span().start, why.to_owned());
        }
    }

    /// Makes keys known without a look at them.
    pub(super) fn ignore(&mut self, keys: &[&'static str]) {
        self.known.extend(keys);
    }

    /// A fault at the value of a key, or at the table's beginning where the key is not there.
    pub(super) fn fault(&self, key: &str, message: String) {
        self.report.fault(self.place(key), message);
    }

    /// Reports a required key that is not there.
    pub(super) fn missing(&self, key: &str) {
        self.report.missing(self.header, format!("key {key:?} is missing {}", self.title));
    }

    /// Reports something that is not there, in a sentence of its own.
    pub(super) fn missing_here(&self, message: &str) {
        self.report.missing(self.header, message.to_owned());
    }

    /// The line of a key's value.
    pub(super) fn line(&self, key: &str) -> usize {
        self.report.line(self.place(key))
    }

    fn read<T>(mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let value = read(&mut self);
        self.report_unknown_keys();
        value
    }

    fn known<T>(&mut self, key: &'static str, value: T) -> T {
        self.known.push(key);
        value
    }

    fn value(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.push(key);
        self.entries?.get(key)
    }

    fn place(&self, key: &str) -> usize {
        let value = self.entries.and_then(|entries| entries.get(key));
        value.map_or(self.header, |value| value.span().start)
    }

    fn refuse(&self, key: &str, value: &Spanned<DeValue<'_>>, refusal: Refusal) {
        let message = match refusal {
            Refusal::Expected(expected) => {
                format!("{key}: found {}, expected {expected}", found(value.get_ref()))
            }
            Refusal::Hidden(expected) => format!("{key}: expected {expected}"),
            Refusal::Because(why) => format!("{key}: found {}, {why}", found(value.get_ref())),
            Refusal::Unsupported(instead) => format!(
                "{key} = {} is not supported by this version; use {instead}",
                found(value.get_ref())
            ),
        };
        self.report.fault(value.span().start, message);
    }

    fn report_unknown_keys(&self) {
        for (key, _) in self.entries.into_iter().flatten() {
            let name: &str = key.get_ref();
            if !self.known.contains(&name) {
                let advice = self.advice(name);
                let message = format!("unknown key {} {}; {advice}", quoted(name), self.title);
                self.report.fault(key.span().start, message);
            }
        }
    }

    fn advice(&self, unknown: &str) -> String {
        match nearest(unknown, self.known.iter().copied()) {
            Some(known) => format!("did you mean {known:?}?"),
            None => format!("known are {}", self.known.join(", ")),
        }
    }
}

/// The known word that an unknown one was probably meant to be.
pub(super) fn nearest<'k>(unknown: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    if unknown.len() > KEY_LENGTH_MAX {
        return None;
    }
    known
        .map(|word| (strsim::osa_distance(unknown, word), word))
        .filter(|(distance, word)| *distance <= 1.max(word.len() / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// The header in a title such as `in [[service]]`.
fn header(title: &str) -> &str {
    title.trim_start_matches("in ")
}
