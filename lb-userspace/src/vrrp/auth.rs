//! What a v2 advert proves itself with (RFC 3768 section 10 and RFC 2338 section 5.3.6): nothing, or
//! a password in clear text, which keeps misconfigured neighbours out and nobody else.

use std::fmt;

/// Octets of authentication data in a v2 advert, whatever its type.
pub const DATA_LENGTH: usize = 8;

/// How v2 adverts are authenticated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Authentication {
    /// Not at all.
    #[default]
    None,
    /// By a password ("simple text password").
    Simple(Password),
}

/// A password of 1 to 8 octets, padded with zeros as it stands in an advert.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Password([u8; DATA_LENGTH]);

/// Why a text is no [`Password`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a VRRP v2 password is 1 to 8 ASCII characters without spaces")]
pub struct InvalidPassword;

impl Authentication {
    /// The Auth Type field.
    pub(super) fn kind(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Simple(_) => 1,
        }
    }

    /// The Authentication Data field; zeros without a password.
    pub(super) fn data(self) -> [u8; DATA_LENGTH] {
        match self {
            Self::None => [0; DATA_LENGTH],
            Self::Simple(Password(data)) => data,
        }
    }
}

impl Password {
    /// Checks a text and makes it a password.
    ///
    /// # Errors
    ///
    /// [`InvalidPassword`] if it is empty, longer than 8 characters, or has one that is not
    /// printable ASCII.
    pub fn new(text: &str) -> Result<Self, InvalidPassword> {
        let bytes = text.as_bytes();
        if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_graphic) {
            return Err(InvalidPassword);
        }
        let mut data = [0; DATA_LENGTH];
        data.get_mut(..bytes.len()).ok_or(InvalidPassword)?.copy_from_slice(bytes);
        Ok(Self(data))
    }
}

/// Logs are read by more people than configurations.
impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}
