//! What `weir doctor` prints, and how it ends.

use std::{fmt::Write as _, process::ExitCode};

use super::{count, style::Style};
use crate::doctor::Report;

/// The exit status when something was found; 1 and 2 say that nothing was looked for.
const FOUND: u8 = 3;

/// Two lines a finding, what is wrong and what to do; then how many there are.
pub(super) fn text(report: &Report, style: Style) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    for finding in &report.findings {
        let _ = writeln!(out, "{} {}", style.finding("!"), finding.what);
        let _ = writeln!(out, "  remedy: {}", finding.remedy);
    }
    for skipped in &report.skipped {
        let _ = writeln!(out, "not looked at: {skipped}");
    }
    let _ = match report.findings.len() {
        0 => writeln!(out, "nothing found"),
        number => writeln!(out, "{}", count(number, "finding")),
    };
    out
}

pub(super) fn exit_code(report: &Report) -> ExitCode {
    if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FOUND) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{Finding, Kind};

    #[test]
    fn each_finding_has_its_remedy_below_it() {
        let finding = Finding {
            finding: Kind::InterfaceDown,
            subject: "eth0".to_owned(),
            what: "eth0 is down".to_owned(),
            remedy: "plug it in".to_owned(),
        };
        let mut report = Report { findings: vec![finding], skipped: vec!["eth1: no".to_owned()] };
        assert_eq!(
            text(&report, Style::Plain),
            "! eth0 is down\n  remedy: plug it in\nnot looked at: eth1: no\n1 finding\n"
        );
        assert_eq!(exit_code(&report), ExitCode::from(3));
        report = Report { findings: Vec::new(), skipped: Vec::new() };
        assert_eq!(text(&report, Style::Plain), "nothing found\n");
        assert_eq!(exit_code(&report), ExitCode::SUCCESS);
        let json = serde_json::to_value(Kind::BackendAnswers).unwrap();
        assert_eq!(json, "backend_answers", "the word in the documentation");
    }
}
