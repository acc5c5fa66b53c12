//! The program's own log: what became of each packet, for whoever debugs.
//!
//! Off unless the log's filter names it: `--log info,packet=debug` tells of every packet that is
//! not forwarded, `packet=trace` of every packet. It costs each packet some tens of nanoseconds.
//! What the program tells faster than it is read is lost, never waited for.

use std::time::Duration;

use aya::Ebpf;
use aya_log::EbpfLogger;
use lb_common::{reason::Reason, steer::Why};
use log::{Log, Metadata, Record};
use tokio::task::JoinHandle;
use tracing::{Level, debug, enabled, trace, warn};

use crate::clock::every;

/// The target in the log's filter.
pub const PACKET_LOG: &str = "packet";

/// Between two looks. The kernel's buffer holds some hundred lines; a look ends when it finds none,
/// so a flood that is faster than the log keeps it at work.
const PAUSE: Duration = Duration::from_millis(100);

/// How much a program is to tell, in numbers of [`log::Level`]; 0 for nothing.
pub(super) fn level() -> u8 {
    if enabled!(target: PACKET_LOG, Level::TRACE) {
        log::Level::Trace as u8
    } else if enabled!(target: PACKET_LOG, Level::DEBUG) {
        log::Level::Debug as u8
    } else {
        0
    }
}

/// Hands on what one interface's program tells, until it is dropped.
#[derive(Debug)]
pub struct PacketLog(JoinHandle<()>);

impl PacketLog {
    /// Follows a program that was loaded to tell something. Needs a runtime of tokio's.
    pub(super) fn follow(ebpf: &mut Ebpf, interface: &str) -> Option<Self> {
        let lines = Lines { interface: interface.to_owned() };
        match EbpfLogger::init_with_logger(ebpf, lines) {
            Ok(logger) => Some(Self(tokio::spawn(read(logger)))),
            Err(error) => {
                warn!("the log of packets on {interface} cannot be read: {error}");
                None
            }
        }
    }
}

impl Drop for PacketLog {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn read(mut logger: EbpfLogger<Lines>) {
    let mut looks = every(PAUSE);
    loop {
        looks.tick().await;
        logger.flush();
    }
}

/// The lines of one interface's program, on their way to the daemon's log.
struct Lines {
    interface: String,
}

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = named(&record.args().to_string());
        let interface = self.interface.as_str();
        if record.level() == log::Level::Trace {
            trace!(target: PACKET_LOG, interface, "{line}");
        } else {
            debug!(target: PACKET_LOG, interface, "{line}");
        }
    }

    fn flush(&self) {}
}

/// A line with the name of its reason or rule in place of the number at its end.
fn named(line: &str) -> String {
    let Some((text, number)) = line.rsplit_once(' ') else { return line.to_owned() };
    let Ok(number) = number.parse::<usize>() else { return line.to_owned() };
    let name = if text.ends_with("refused") {
        Reason::ALL.get(number).map(|reason| reason.name())
    } else {
        Why::ALL.get(number).map(|why| why.name())
    };
    match name {
        Some(name) => format!("{text}: {name}"),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_reasons_and_rules_become_names() {
        let reason = Reason::NoService;
        assert_eq!(
            named(&format!("refused {}", reason as u32)),
            format!("refused: {}", reason.name())
        );
        let why = Why::MovingPrior;
        assert_eq!(
            named(&format!("198.51.100.7:4000 backend 2 forwarded {}", why as u32)),
            format!("198.51.100.7:4000 backend 2 forwarded: {}", why.name())
        );
        assert_eq!(named("refused 4711"), "refused 4711");
        assert_eq!(named("something else"), "something else");
    }
}
