//! Wireshark's opinion of what was captured: a decoder that nobody here wrote.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};

use crate::{process, requirements, sniffer::Frame};

/// It loads a thousand dissectors before it reads.
const LIMIT: Duration = Duration::from_secs(60);

/// What is asked of every frame.
const FIELDS: [&str; 8] = [
    "frame.protocols",
    "_ws.malformed",
    "_ws.expert.message",
    "vrrp.checksum.status",
    "vrrp.type",
    "ip.checksum.status",
    "ip.ttl",
    "ipv6.hlim",
];

/// `PROTO_CHECKSUM_E_GOOD`: `tshark` computed the same checksum.
const GOOD: &str = "1";

/// Has `tshark` decode every frame, and checks that it finds each a well-formed advert: with the
/// right checksums (RFC 9568, section 5.2.8), of type 1 (section 5.2.2), with a TTL or hop limit of
/// 255 (sections 5.1.1.3 and 5.1.2.3), and with nothing to remark.
///
/// # Errors
///
/// It does not, with all that it says of the first such frame; or there is no frame, or no
/// `tshark`.
pub fn check_adverts(frames: &[Frame], directory: &Path) -> Result<()> {
    ensure!(!frames.is_empty(), "no advert was captured");
    requirements::require(&[("tshark", "tshark")])?;
    let file = directory.join("adverts.pcap");
    fs::write(&file, pcap(frames)?).with_context(|| format!("write {}", file.display()))?;

    let mut tshark = Command::new("tshark");
    tshark.args(["-n", "-o", "ip.check_checksum:TRUE", "-T", "fields", "-E", "separator=;", "-r"]);
    tshark.arg(&file).args(FIELDS.iter().flat_map(|field| ["-e", field]));
    let output = process::run(tshark, LIMIT)?;
    ensure!(output.lines().count() == frames.len(), "tshark left out frames:\n{output}");
    for (line, frame) in output.lines().zip(frames) {
        ensure!(
            is_good(line),
            "tshark finds fault: {line}\n({})\nwith this frame of {}: {:02x?}",
            FIELDS.join(";"),
            frame.from,
            frame.bytes
        );
    }
    Ok(())
}

fn is_good(line: &str) -> bool {
    let fields: Vec<_> = line.split(';').collect();
    let &[protocols, malformed, remarks, checksum, kind, ip_checksum, ttl, hop_limit] = &fields[..]
    else {
        return false;
    };
    let ip = match protocols {
        "eth:ethertype:ip:vrrp" => ip_checksum == GOOD && ttl == "255",
        "eth:ethertype:ipv6:vrrp" => hop_limit == "255",
        _ => false,
    };
    ip && malformed.is_empty() && remarks.is_empty() && checksum == GOOD && kind == "1"
}

/// The format that every capture tool reads: a header, and before each frame its time and length.
fn pcap(frames: &[Frame]) -> Result<Vec<u8>> {
    /// Microseconds, in this machine's byte order.
    const MAGIC: u32 = 0xa1b2_c3d4;
    const VERSION: [u16; 2] = [2, 4];
    const ETHERNET: u32 = 1;
    let mut file = Vec::new();
    file.extend_from_slice(&MAGIC.to_ne_bytes());
    file.extend(VERSION.into_iter().flat_map(u16::to_ne_bytes));
    // Time zone and precision, which nobody uses; the longest frame; the kind of network.
    file.extend([0, 0, u32::from(u16::MAX), ETHERNET].into_iter().flat_map(u32::to_ne_bytes));
    for Frame { at, bytes, .. } in frames {
        let at = at.duration_since(UNIX_EPOCH)?;
        let length = u32::try_from(bytes.len())?;
        for word in [u32::try_from(at.as_secs())?, at.subsec_micros(), length, length] {
            file.extend_from_slice(&word.to_ne_bytes());
        }
        file.extend_from_slice(bytes);
    }
    Ok(file)
}
