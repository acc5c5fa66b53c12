//! Breaks each rule of steering in turn, and shows that the model's histories notice it.
//!
//! The rules' own text stays clean: a copy of the workspace is edited such that every rule asks a
//! switch whether it is to be left out, and is built once. A rule whose text has changed is not
//! found, and is an error: then its edit is to be written anew in [`rules`].

mod rules;

use std::{fmt::Write as _, fs, io, path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};

use self::rules::{RULES, Rule};
use crate::{process, workspace};

/// How many events a broken rule may go unnoticed, and the whole ones must last.
const EVENTS: u32 = 1_000_000;

/// The switch, in lb-common of the copy: a rule's number, or 0 for none.
const SWITCH: &str = "
/// The rule that is left out.
pub static BROKEN: core::sync::atomic::AtomicU32 = core::sync::atomic::AtomicU32::new(0);

/// Whether this rule is left out.
pub fn broken(rule: u32) -> bool {
    BROKEN.load(core::sync::atomic::Ordering::Relaxed) == rule
}
";

/// Breaks every rule, and prints after how many events the model noticed.
pub(crate) fn run() -> Result<()> {
    let copy = workspace().join("target/mutate");
    copy_workspace(&copy)?;
    write_if_new(&copy.join("tests/tests/mutate.rs"), histories().as_bytes())?;

    process::announce("building the model with a switch for each rule");
    let mut cargo = process::cargo();
    cargo.current_dir(&copy).env("CARGO_TARGET_DIR", workspace().join("target"));
    cargo.args(["test", "--quiet", "--offline", "--package", "lb-tests", "--test", "mutate"]);
    cargo.args(["--", "--nocapture"]);
    let mut outcomes = Vec::new();
    let passed = process::follow(&mut cargo, |line| outcomes.extend(Outcome::read(line)))?;
    ensure!(passed && outcomes.len() == RULES.len() + 1, "the histories did not run to their end");
    print!("{}", table(&outcomes));
    judge(&outcomes)
}

/// What became of one version of the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    /// The number of the rule that was left out.
    rule: usize,
    events: u32,
    /// What the model said; none if nothing was wrong.
    broken: Option<String>,
}

// === impl Outcome ===

impl Outcome {
    /// One of the lines that [`histories`] prints.
    fn read(line: &str) -> Option<Self> {
        let mut parts = line.strip_prefix("mutate\t")?.splitn(3, '\t');
        let (rule, events) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let broken = parts.next().filter(|text| !text.is_empty()).map(str::to_owned);
        Some(Self { rule, events, broken })
    }
}

// === impl Rule ===

impl Rule {
    /// The text with the rule behind a switch.
    fn broken(&self, text: &str, number: u32) -> Result<String> {
        let found = text.matches(self.from).count();
        ensure!(found == 1, "found {found} times in {}, expected once: {}", self.file, self.from);
        let switch = format!("{}::broken({number})", self.switch());
        Ok(text.replacen(self.from, &self.to.replace("BROKEN", &switch), 1))
    }

    fn switch(&self) -> &'static str {
        if self.file.starts_with("lb-common/") { "crate" } else { "lb_common" }
    }
}

/// A test of the copy: random histories for each rule left out, until the model notices.
fn histories() -> String {
    format!(
        r#"//! Written by `cargo xtask mutate`.
use std::{{
    panic::{{AssertUnwindSafe, catch_unwind}},
    sync::atomic::Ordering,
}};
use rand::{{SeedableRng as _, rngs::StdRng}};
use weir_lab::model::{{Event, Nothing, Protocol, World}};

#[test]
fn every_rule_is_missed() {{
    for rule in 0..={rules} {{
        lb_common::BROKEN.store(rule, Ordering::Relaxed);
        let (events, broken) = until_broken();
        println!("mutate\t{{rule}}\t{{events}}\t{{broken}}");
    }}
}}

fn until_broken() -> (u32, String) {{
    let mut events = 0;
    for seed in 0.. {{
        let mut random = StdRng::seed_from_u64(seed);
        let protocol = if seed % 3 == 0 {{ Protocol::Udp }} else {{ Protocol::Tcp }};
        let mut world = World::new(protocol, &mut Nothing);
        for _ in 0..400 {{
            if events == {EVENTS} {{
                return (events, String::new());
            }}
            events += 1;
            let event = Event::random(&mut random);
            // What a rule keeps from happening may well be what the code behind it builds upon.
            let happened = catch_unwind(AssertUnwindSafe(|| world.happen(event, &mut Nothing)));
            match happened {{
                Ok(Ok(())) => {{}}
                Ok(Err(broken)) => return (events, broken.to_string()),
                Err(_) => return (events, "the controller panics".to_owned()),
            }}
        }}
    }}
    unreachable!("seeds do not end")
}}
"#,
        rules = RULES.len()
    )
}

/// A line a rule, in Markdown.
fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| left out | events until the model notices | what it says |\n|---|---|---|\n",
    );
    for outcome in outcomes {
        let name = match outcome.rule.checked_sub(1) {
            None => "nothing",
            Some(index) => RULES.get(index).map_or("?", |rule| rule.name),
        };
        let said = outcome.broken.as_deref().unwrap_or("nothing is wrong");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {name} | {} | {said} |", outcome.events);
    }
    text
}

fn judge(outcomes: &[Outcome]) -> Result<()> {
    let (whole, left_out) = outcomes.split_first().context("there is no outcome")?;
    if let Some(broken) = &whole.broken {
        bail!("with every rule in force: {broken}");
    }
    let unnoticed = left_out.iter().filter(|outcome| outcome.broken.is_none());
    let names: Vec<&str> =
        unnoticed.filter_map(|outcome| Some(RULES.get(outcome.rule - 1)?.name)).collect();
    ensure!(names.is_empty(), "nobody misses: {}", names.join("; "));
    Ok(())
}

// === files ===

/// Copies what git knows of, and what it does not ignore, with the rules behind switches. Files
/// that are the same stay untouched, so that cargo builds only what changed.
fn copy_workspace(copy: &Path) -> Result<()> {
    let mut git = Command::new("git");
    git.current_dir(workspace()).args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let names = process::capture(&mut git)?;
    // Without those that were deleted and not committed.
    for name in names.lines().filter(|name| workspace().join(name).is_file()) {
        let source = workspace().join(name);
        let mut bytes = fs::read(&source).with_context(|| naming(&source))?;
        if name == "lb-common/src/lib.rs" {
            bytes.extend(SWITCH.bytes());
        }
        for (number, rule) in (1..).zip(&RULES).filter(|(_, rule)| rule.file == name) {
            let text = String::from_utf8(bytes).with_context(|| naming(&source))?;
            bytes = rule.broken(&text, number).context(rule.name)?.into_bytes();
        }
        write_if_new(&copy.join(name), &bytes)?;
    }
    Ok(())
}

fn write_if_new(path: &Path, bytes: &[u8]) -> Result<()> {
    match fs::read(path) {
        Ok(there) if there == bytes => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| naming(path)),
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| naming(folder))?;
    }
    fs::write(path, bytes).with_context(|| naming(path))
}

fn naming(path: &Path) -> String {
    format!("copying {}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_found_in_its_file() {
        for file in RULES.iter().map(|rule| rule.file) {
            let mut text = fs::read_to_string(workspace().join(file)).expect("a source");
            for (number, rule) in (1..).zip(&RULES).filter(|(_, rule)| rule.file == file) {
                text = rule.broken(&text, number).expect(rule.name);
            }
        }
    }

    #[test]
    fn an_unnoticed_rule_is_a_failure() {
        let outcome = |line| Outcome::read(line).expect("an outcome");
        let whole = outcome("mutate\t0\t1000\t");
        let noticed = outcome("mutate\t1\t17\tflow 3 was with 1");
        assert_eq!(noticed.broken.as_deref(), Some("flow 3 was with 1"));
        assert!(judge(&[whole.clone(), noticed.clone()]).is_ok());
        let error = judge(&[whole, outcome("mutate\t1\t1000\t")]).expect_err("unnoticed");
        assert!(error.to_string().contains(RULES[0].name), "{error}");
        assert!(judge(&[noticed]).is_err(), "the rules themselves are broken");
        assert_eq!(Outcome::read("test result: ok"), None);
    }
}
