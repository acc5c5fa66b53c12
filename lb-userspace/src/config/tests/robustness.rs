//! Whatever the text: an answer, and faults that lie in it.

use proptest::prelude::*;

use super::*;

/// Texts that are worth putting where they do not belong.
const PIECES: [&str; 20] = [
    "",
    "\n",
    "\"",
    "'",
    "\"\"\"",
    "[",
    "]",
    "[[",
    "{",
    "}",
    "=",
    ",",
    ".",
    "#",
    "\0",
    "\r",
    "é",
    "[[service]]",
    "[service.health]",
    "name 3",
];

/// The example with a few pieces of itself overwritten.
fn mutated() -> impl Strategy<Value = String> {
    let edit = (any::<prop::sample::Index>(), 0..30usize, prop::sample::select(&PIECES[..]));
    prop::collection::vec(edit, 1..6).prop_map(|edits| {
        let mut text: Vec<char> = EXAMPLE.chars().collect();
        for (start, length, piece) in edits {
            let start = start.index(text.len());
            let end = text.len().min(start + length);
            text.splice(start..end, piece.chars());
        }
        text.into_iter().collect()
    })
}

fn assert_faults_lie_in(text: &str) {
    let Err(faults) = parse(text, "weir.toml") else { return };
    let places: Vec<_> = faults.iter().map(|fault| (fault.line, fault.column)).collect();
    assert!(!places.is_empty());
    assert!(places.is_sorted(), "{faults}");
    let lines: Vec<_> = text.split('\n').collect();
    for (line, column) in places {
        assert!(column >= 1 && column <= lines[line - 1].chars().count() + 1, "{faults}");
    }
    assert_eq!(faults.to_string().lines().count(), faults.iter().count(), "{faults}");
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        assert_faults_lie_in(&text);
    }

    #[test]
    fn no_toml_like_text_panics(text in "([a-z\"'=\\[\\]{},.# \n0-9é-]|port|\\[\\[){0,80}") {
        assert_faults_lie_in(&text);
    }

    #[test]
    fn no_edited_file_panics(text in mutated()) {
        assert_faults_lie_in(&text);
    }
}
