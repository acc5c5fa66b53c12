//! What the fuzz targets found worth keeping, through the same readers: whole, cut short at every
//! byte, and with every byte bent.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::{collections::BTreeSet, fs, path::Path};

use weir_lab::fuzz::TARGETS;

/// Inputs that are bent byte by byte are no longer than this: the rest repeats itself.
const BENT_MAX: usize = 256;

fn inputs(target: &str) -> BTreeSet<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    fs::read_dir(folder).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
}

#[test]
fn no_input_of_the_corpus_breaks_a_reader() {
    for (target, read) in TARGETS {
        let inputs = inputs(target);
        assert!(inputs.len() >= 3, "{target} has {} inputs", inputs.len());
        for input in &inputs {
            read(input);
        }
    }
}

#[test]
fn nor_does_one_that_is_cut_short_or_bent() {
    for (target, read) in TARGETS {
        for input in inputs(target) {
            for length in 0..input.len() {
                read(&input[..length]);
            }
            let mut bent = input[..input.len().min(BENT_MAX)].to_vec();
            for position in 0..bent.len() {
                for bend in [0x01, 0x80, 0xFF] {
                    bent[position] ^= bend;
                    read(&bent);
                    bent[position] ^= bend;
                }
            }
        }
    }
}
