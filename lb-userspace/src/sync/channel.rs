//! An encrypted channel over a byte stream: the handshake, and frames one way and the other.
//!
//! `Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s`: both sides prove that they have the key, and every
//! connection has secrets of its own. Frames are counted, so none can be replayed, dropped or
//! swapped.

use std::{sync::Arc, time::Duration};

use snow::{Builder, HandshakeState, StatelessTransportState};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

use super::{
    error::Error,
    key::Key,
    packet::{Message, PacketError, VERSION, preamble, version_in},
};

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// A handshake message has an ephemeral key of 32 bytes and a tag of 16.
const HANDSHAKE_MAX: usize = 48;
/// The tag that authenticates a frame.
const TAG: usize = 16;
/// Noise, section 3: no message is longer.
const FRAME_MAX: usize = 65_535;
/// How long the other side may take for the whole handshake.
pub(super) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(2);

/// The half that reads.
#[derive(Debug)]
pub(super) struct Reader<R> {
    stream: R,
    cipher: Arc<StatelessTransportState>,
    nonce: u64,
    frame: Vec<u8>,
    plain: Vec<u8>,
}

/// The half that writes.
#[derive(Debug)]
pub(super) struct Writer<W> {
    stream: W,
    cipher: Arc<StatelessTransportState>,
    nonce: u64,
    buffer: Vec<u8>,
}

/// Which side of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// We opened it.
    Dialling,
    /// They did.
    Accepting,
}

/// Agrees with the other side on a channel, within [`HANDSHAKE_LIMIT`].
pub(super) async fn open<R, W>(
    reader: R,
    writer: W,
    key: &Key,
    side: Side,
) -> Result<(Reader<R>, Writer<W>), Error>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let handshake = timeout(HANDSHAKE_LIMIT, shake_hands(reader, writer, key, side));
    handshake.await.map_err(|_| Error::Silent(HANDSHAKE_LIMIT))?
}

async fn shake_hands<R, W>(
    mut reader: R,
    mut writer: W,
    key: &Key,
    side: Side,
) -> Result<(Reader<R>, Writer<W>), Error>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let ours = preamble();
    writer.write_all(&ours).await?;
    let mut theirs = [0; 8];
    reader.read_exact(&mut theirs).await?;
    match version_in(theirs) {
        Some(VERSION) => {}
        Some(theirs) => return Err(Error::Version { theirs }),
        None => return Err(Error::Garbage),
    }
    let mut state = handshake_state(key, side)?;
    match side {
        Side::Dialling => {
            say(&mut state, &mut writer).await?;
            // Whoever has another key cannot read that, and hangs up.
            hear(&mut state, &mut reader).await.map_err(|error| match error {
                Error::Io(cause) if cause.kind() == std::io::ErrorKind::UnexpectedEof => Error::Key,
                Error::Io(cause) if cause.kind() == std::io::ErrorKind::ConnectionReset => {
                    Error::Key
                }
                other => other,
            })?;
        }
        Side::Accepting => {
            hear(&mut state, &mut reader).await?;
            say(&mut state, &mut writer).await?;
        }
    }
    let cipher = Arc::new(state.into_stateless_transport_mode().map_err(|_| Error::Key)?);
    let reader = Reader {
        stream: reader,
        cipher: Arc::clone(&cipher),
        nonce: 0,
        frame: Vec::new(),
        plain: vec![0; FRAME_MAX],
    };
    Ok((reader, Writer { stream: writer, cipher, nonce: 0, buffer: Vec::new() }))
}

fn handshake_state(key: &Key, side: Side) -> Result<HandshakeState, Error> {
    let pattern = PATTERN.parse().map_err(|_| Error::Key)?;
    // What was said in the clear is part of what both must agree on.
    let build = || -> Result<HandshakeState, snow::Error> {
        let preamble = preamble();
        let builder = Builder::new(pattern).psk(0, key.bytes())?.prologue(&preamble)?;
        match side {
            Side::Dialling => builder.build_initiator(),
            Side::Accepting => builder.build_responder(),
        }
    };
    build().map_err(|_| Error::Key)
}

async fn say(
    state: &mut HandshakeState,
    writer: &mut (impl AsyncWrite + Unpin),
) -> Result<(), Error> {
    let mut message = [0; HANDSHAKE_MAX];
    let length = state.write_message(&[], &mut message).map_err(|_| Error::Key)?;
    writer.write_all(&message[..length]).await?;
    Ok(())
}

async fn hear(
    state: &mut HandshakeState,
    reader: &mut (impl AsyncRead + Unpin),
) -> Result<(), Error> {
    let mut message = [0; HANDSHAKE_MAX];
    reader.read_exact(&mut message).await?;
    state.read_message(&message, &mut []).map_err(|_| Error::Key)?;
    Ok(())
}

// === impl Reader ===

impl<R: AsyncRead + Unpin> Reader<R> {
    /// The next message. Not cancel safe: half a frame may have been read.
    pub(super) async fn next(&mut self) -> Result<Message, Error> {
        let mut length = [0; 2];
        self.stream.read_exact(&mut length).await?;
        let length = usize::from(u16::from_be_bytes(length));
        if length < TAG {
            return Err(Error::Garbage);
        }
        self.frame.resize(length, 0);
        self.stream.read_exact(&mut self.frame).await?;
        let plain = self.cipher.read_message(self.nonce, &self.frame, &mut self.plain);
        let length = plain.map_err(|_| Error::Garbage)?;
        self.nonce += 1;
        Ok(Message::decode(&self.plain[..length])?)
    }
}

// === impl Writer ===

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Sends these messages, within a limit.
    pub(super) async fn send(
        &mut self,
        messages: &[Arc<[u8]>],
        limit: Duration,
    ) -> Result<(), Error> {
        self.buffer.clear();
        for message in messages {
            self.encrypt(message)?;
        }
        let sent = timeout(limit, self.stream.write_all(&self.buffer)).await;
        Ok(sent.map_err(|_| Error::Stuck(limit))??)
    }

    fn encrypt(&mut self, message: &[u8]) -> Result<(), Error> {
        let too_large = || Error::Packet(PacketError::TooLarge(message.len()));
        let length = u16::try_from(message.len() + TAG).map_err(|_| too_large())?;
        let start = self.buffer.len() + 2;
        self.buffer.extend_from_slice(&length.to_be_bytes());
        self.buffer.resize(start + usize::from(length), 0);
        let frame = &mut self.buffer[start..];
        self.cipher.write_message(self.nonce, message, frame).map_err(|_| too_large())?;
        self.nonce += 1;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use tokio::io::{DuplexStream, duplex, split};

    use super::*;

    async fn pair(ours: Key, theirs: Key) -> (Result<(), Error>, Result<(), Error>) {
        let (a, b) = duplex(1 << 16);
        let dialling = async {
            let (reader, writer) = split(a);
            let (mut reader, mut writer) = open(reader, writer, &ours, Side::Dialling).await?;
            writer.send(&[Message::Compare.encode()?.into()], HANDSHAKE_LIMIT).await?;
            assert_eq!(reader.next().await?, Message::Ack { sequence: 5 });
            Ok(())
        };
        let accepting = async {
            let (reader, writer) = split(b);
            let (mut reader, mut writer) = open(reader, writer, &theirs, Side::Accepting).await?;
            assert_eq!(reader.next().await?, Message::Compare);
            let answer = Message::Ack { sequence: 5 }.encode()?;
            writer.send(&[answer.into()], HANDSHAKE_LIMIT).await
        };
        tokio::join!(dialling, accepting)
    }

    /// What an accepting side makes of these bytes.
    async fn accept(bytes: &[u8]) -> Error {
        let (mut a, b) = duplex(1 << 16);
        a.write_all(bytes).await.unwrap();
        // Not a word more; the other half stays open, or it would be told so.
        let (reader, writer) = split(b);
        let opened = open(reader, writer, &Key::generate(), Side::Accepting).await;
        drop::<DuplexStream>(a);
        opened.map(|_| ()).unwrap_err()
    }

    #[tokio::test]
    async fn who_has_the_key_is_understood() {
        let key = Key::generate();
        let (ours, theirs) = pair(key.clone(), key).await;
        ours.unwrap();
        theirs.unwrap();
    }

    #[tokio::test]
    async fn another_key_is_told_on_both_sides() {
        let (ours, theirs) = pair(Key::generate(), Key::generate()).await;
        assert!(matches!(ours, Err(Error::Key)), "{ours:?}");
        assert!(matches!(theirs, Err(Error::Key)), "{theirs:?}");
    }

    #[tokio::test]
    async fn strangers_are_turned_away() {
        assert!(matches!(accept(b"GET / HTTP/1.1\r\n\r\n").await, Error::Garbage));
        let mut newer = preamble();
        newer[7] = 9;
        let error = accept(&newer).await;
        assert!(matches!(error, Error::Version { theirs: 9 }), "{error}");
        let garbage = [&preamble()[..], &[0xAA; 48]].concat();
        assert!(matches!(accept(&garbage).await, Error::Key));
    }

    #[tokio::test]
    async fn who_says_nothing_is_not_waited_for() {
        let preamble = preamble();
        let half = [&preamble[..], &[0; 20]].concat();
        let (a, b, c, d) =
            tokio::join!(accept(b""), accept(b"weir"), accept(&preamble), accept(&half));
        for error in [a, b, c, d] {
            assert!(matches!(error, Error::Silent(_)), "{error}");
        }
    }

    #[tokio::test]
    async fn a_frame_that_was_changed_ends_the_channel() {
        let key = Key::generate();
        let (a, b) = duplex(1 << 16);
        let dialling = async {
            let (reader, writer) = split(a);
            let (_reader, mut writer) = open(reader, writer, &key, Side::Dialling).await.unwrap();
            writer.encrypt(&Message::Compare.encode().unwrap()).unwrap();
            *writer.buffer.last_mut().unwrap() ^= 1;
            let frame = std::mem::take(&mut writer.buffer);
            writer.stream.write_all(&frame).await.unwrap();
        };
        let accepting = async {
            let (reader, writer) = split(b);
            let (mut reader, _writer) = open(reader, writer, &key, Side::Accepting).await.unwrap();
            assert!(matches!(reader.next().await, Err(Error::Garbage)));
        };
        tokio::join!(dialling, accepting);
    }
}
