//! Colours, where somebody looks at them.

use std::{
    env,
    io::{self, IsTerminal},
};

use crate::{
    core::{BackendState, Health},
    vrrp::fsm::State,
};

/// Whether text is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Colour,
}

const GREEN: u8 = 32;
const YELLOW: u8 = 33;
const RED: u8 = 31;
const CYAN: u8 = 36;

impl Style {
    pub(super) fn of_stdout() -> Self {
        Self::of(&io::stdout())
    }

    pub(super) fn of_stderr() -> Self {
        Self::of(&io::stderr())
    }

    /// Colours on a terminal that has them, unless `NO_COLOR` is set (no-color.org).
    fn of(out: &impl IsTerminal) -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        if out.is_terminal() && !refused && !dumb { Self::Colour } else { Self::Plain }
    }

    pub(super) fn colour(self) -> bool {
        self == Self::Colour
    }

    pub(super) fn health(self, health: Health, text: &str) -> String {
        let colour = match health {
            Health::Green => GREEN,
            Health::Yellow => YELLOW,
            Health::Red => RED,
        };
        self.paint(colour, text)
    }

    pub(super) fn state(self, state: BackendState, text: &str) -> String {
        let colour = match state {
            BackendState::Up => GREEN,
            BackendState::Suspect => YELLOW,
            BackendState::Down => RED,
            BackendState::Draining | BackendState::Maintenance => CYAN,
        };
        self.paint(colour, text)
    }

    /// What is wrong.
    pub(super) fn finding(self, text: &str) -> String {
        self.paint(YELLOW, text)
    }

    pub(super) fn vrrp(self, state: State, text: &str) -> String {
        let colour = match state {
            State::Master => GREEN,
            State::Backup => CYAN,
            State::Fault => RED,
        };
        self.paint(colour, text)
    }

    /// What makes room for the next picture: a clear screen, or a blank line.
    pub(super) fn clear_screen(self) -> &'static str {
        if self.colour() { "\x1b[H\x1b[2J" } else { "" }
    }

    fn paint(self, colour: u8, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Colour => format!("\x1b[{colour}m{text}\x1b[0m"),
        }
    }
}

/// A state as the JSON has it.
pub(super) fn state_name(state: BackendState) -> &'static str {
    match state {
        BackendState::Up => "up",
        BackendState::Suspect => "suspect",
        BackendState::Down => "down",
        BackendState::Draining => "draining",
        BackendState::Maintenance => "maintenance",
    }
}
