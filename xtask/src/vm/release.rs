//! The kernels that there are to choose from: one for each Debian suite.

use std::fmt;

use clap::ValueEnum;

/// A kernel, named as its users know it. The order is that of the table.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
pub(crate) enum Release {
    /// Debian 11's, the oldest that Weir runs on
    #[value(name = "5.10")]
    V5_10,
    /// Debian 12's
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13's
    #[value(name = "6.12")]
    V6_12,
    /// Debian unstable's, whatever that is today
    #[value(name = "newest")]
    Newest,
}

impl Release {
    /// All of them, oldest first.
    pub(crate) const ALL: [Self; 4] = [Self::V5_10, Self::V6_1, Self::V6_12, Self::Newest];

    /// Where Debian keeps it.
    pub(crate) fn suite(self) -> &'static str {
        match self {
            Self::V5_10 => "bullseye",
            Self::V6_1 => "bookworm",
            Self::V6_12 => "trixie",
            Self::Newest => "sid",
        }
    }

    /// What `--kernel` calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V5_10 => "5.10",
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::Newest => "newest",
        }
    }

    /// Whether another version may come under the same name any day.
    pub(crate) fn moves(self) -> bool {
        self == Self::Newest
    }
}

impl fmt::Display for Release {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_shown_are_names_accepted() {
        for release in Release::ALL {
            assert_eq!(Release::from_str(release.name(), false), Ok(release));
        }
        let refusal = Release::from_str("4.19", false).expect_err("there is no such kernel");
        assert!(refusal.contains("4.19"), "{refusal}");
    }
}
