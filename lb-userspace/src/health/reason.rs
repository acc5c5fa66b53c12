//! Why a check failed, in words for the people who read `weir status`.

use std::{io, time::Duration};

use nix::{errno::Errno, sys::signal::Signal};

use crate::config::StatusPattern;

/// Why a check failed. Its `Display` is a report's reason: one short line, lower case, no full
/// stop, safe to print.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The check took longer than its timeout.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// An operation on a socket failed.
    #[error("{}{}", blame(*.0), words(*.0))]
    System(Errno),
    /// A script could not be started.
    #[error("this machine: cannot run {program:?}: {}", words(*.errno))]
    Start {
        /// As configured.
        program: String,
        /// Why.
        errno: Errno,
    },
    /// Too many other checks ran for as long as this one was prepared to wait.
    #[error("this machine: {0} health checks are running at once, which is the limit")]
    NoTurn(usize),
    /// The request cannot be written down, which the configuration should have refused.
    #[error("this machine: the configured request is not valid HTTP")]
    Request,
    /// The server went away before its answer was whole.
    #[error("the connection was closed before the answer was complete")]
    Closed,
    /// The answer's head is endless, or almost.
    #[error("the head of the answer is too large")]
    LargeHead,
    /// What came is not HTTP/1.
    #[error("the answer is not HTTP/1.1")]
    NotHttp,
    /// Another status than those expected.
    #[error("status {status}, expected {}", list(.expected))]
    Status {
        /// What came.
        status: u16,
        /// What would have been right.
        expected: Vec<StatusPattern>,
    },
    /// The body ended without the text.
    #[error("the body does not contain {0:?}")]
    Body(String),
    /// The body did not contain the text as far as it was read.
    #[error("the first {limit_bytes} bytes of the body do not contain {text:?}")]
    LongBody {
        /// The text.
        text: String,
        /// How far it was read.
        limit_bytes: usize,
    },
    /// What came is not TLS.
    #[error("the answer is not TLS")]
    NotTls,
    /// The server and we found no common ground.
    #[error("TLS: {0}")]
    Tls(rustls::Error),
    /// A script ended with another status than 0.
    #[error("exit status {code}{}", after_colon(.line))]
    Exit {
        /// The status.
        code: i32,
        /// The first line it wrote.
        line: String,
    },
    /// A script was ended by a signal that was not ours.
    #[error("killed by {}{}", signal_name(*.signal), after_colon(.line))]
    Killed {
        /// The signal.
        signal: i32,
        /// The first line it wrote.
        line: String,
    },
}

/// The longest line that is taken over from a script's output, in characters.
const MAX_LINE_CHARS: usize = 200;

/// The first line with anything in it, fit to be shown: no control characters, which could steer
/// the terminal of whoever reads them, and not too long.
pub(super) fn first_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(MAX_LINE_CHARS).collect()
}

// === impl Failure ===

impl Failure {
    /// Nobody was there to accept the connection.
    pub(super) const fn nobody() -> Self {
        Self::System(Errno::ECONNREFUSED)
    }

    /// Finds the root of an error of hyper, which hides it well.
    pub(super) fn http(error: &hyper::Error) -> Self {
        if error.is_parse_too_large() {
            return Self::LargeHead;
        }
        if error.is_parse() {
            return Self::NotHttp;
        }
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            if let Some(error) = cause.downcast_ref::<io::Error>() {
                return Self::io(error);
            }
            source = cause.source();
        }
        // Left are the many ways of saying that the server hung up.
        Self::Closed
    }

    fn io(error: &io::Error) -> Self {
        if let Some(tls) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            return match tls {
                rustls::Error::InvalidMessage(_) => Self::NotTls,
                other => Self::Tls(other.clone()),
            };
        }
        // Errors without a number are made by libraries: an end of the stream where none may be.
        error.raw_os_error().map_or(Self::Closed, |number| Self::System(Errno::from_raw(number)))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::io(&error)
    }
}

/// Whose fault it is, where that is certain: such an error says nothing about the backend.
fn blame(errno: Errno) -> &'static str {
    match errno {
        // Out of files, memory or ports; no such address family; a firewall rule of our own.
        Errno::EMFILE
        | Errno::ENFILE
        | Errno::ENOBUFS
        | Errno::ENOMEM
        | Errno::EADDRNOTAVAIL
        | Errno::EAFNOSUPPORT
        | Errno::EACCES
        | Errno::EPERM => "this machine: ",
        _ => "",
    }
}

/// The C library's words, which begin with a capital: `connection refused`.
fn words(errno: Errno) -> String {
    let mut chars = errno.desc().chars();
    chars.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(chars).collect()
}

/// `2xx, 3xx or 418`.
fn list(patterns: &[StatusPattern]) -> String {
    let mut text = String::new();
    for (i, pattern) in patterns.iter().enumerate() {
        text += match i {
            0 => "",
            _ if i + 1 == patterns.len() => " or ",
            _ => ", ",
        };
        let (number, rest) = match pattern {
            StatusPattern::Code(code) => (code, ""),
            StatusPattern::Class(class) => (class, "xx"),
        };
        text += &number.to_string();
        text += rest;
    }
    text
}

fn after_colon(line: &str) -> String {
    if line.is_empty() { String::new() } else { format!(": {line}") }
}

fn signal_name(number: i32) -> String {
    Signal::try_from(number)
        .map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(number: i32) -> String {
        Failure::from(io::Error::from_raw_os_error(number)).to_string()
    }

    #[test]
    fn system_errors_are_short_sentences() {
        assert_eq!(os(libc::ECONNREFUSED), "connection refused");
        assert_eq!(os(libc::EHOSTUNREACH), "no route to host");
        assert_eq!(os(libc::ECONNRESET), "connection reset by peer");
    }

    #[test]
    fn errors_of_this_machine_say_so() {
        assert_eq!(os(libc::EMFILE), "this machine: too many open files");
        assert_eq!(os(libc::EADDRNOTAVAIL), "this machine: cannot assign requested address");
        assert_eq!(os(libc::EPERM), "this machine: operation not permitted");
    }

    #[test]
    fn timeouts_are_written_like_the_configuration() {
        let reason = |ms| Failure::Timeout(Duration::from_millis(ms)).to_string();
        assert_eq!(reason(1000), "no answer within 1s");
        assert_eq!(reason(250), "no answer within 250ms");
        assert_eq!(reason(1500), "no answer within 1.5s");
    }

    #[test]
    fn expected_statuses_are_listed() {
        let expect = |expected: &[StatusPattern]| {
            Failure::Status { status: 503, expected: expected.to_vec() }.to_string()
        };
        let (two, three, tea) =
            (StatusPattern::Class(2), StatusPattern::Class(3), StatusPattern::Code(418));
        assert_eq!(expect(&[two]), "status 503, expected 2xx");
        assert_eq!(expect(&[two, three]), "status 503, expected 2xx or 3xx");
        assert_eq!(expect(&[two, three, tea]), "status 503, expected 2xx, 3xx or 418");
    }

    #[test]
    fn a_script_cannot_steer_a_terminal_or_fill_a_screen() {
        assert_eq!(first_line(b"\n \n  disk \x1b[2J\x07full\xff\nmore"), "disk [2Jfull\u{fffd}");
        assert_eq!(first_line(&[b'x'; 4096]).len(), MAX_LINE_CHARS);
        assert_eq!(first_line(b""), "");
    }

    #[test]
    fn scripts_reasons_name_status_signal_and_line() {
        let exit = |line: &str| Failure::Exit { code: 2, line: line.to_owned() }.to_string();
        assert_eq!(exit("disk full"), "exit status 2: disk full");
        assert_eq!(exit(""), "exit status 2");
        let killed = Failure::Killed { signal: 15, line: String::new() };
        assert_eq!(killed.to_string(), "killed by SIGTERM");
    }
}
