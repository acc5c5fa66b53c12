//! Asking the program itself where a packet would go: an instance of the same object over the
//! same tables, run through `BPF_PROG_TEST_RUN`, which writes nothing but its answer.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use aya::{
    Ebpf,
    maps::Array,
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use lb_common::layout::Answer;

use super::{
    TablesId,
    error::Error,
    tables::{self, Ingress},
    verify,
};
use crate::{config::Protocol, core::ExplainRequest};

/// The instance that answers. Its own address is zero, like that in the questions.
pub struct Explainer(Ebpf);

impl fmt::Debug for Explainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Explainer").finish_non_exhaustive()
    }
}

impl Explainer {
    /// Loads the instance over the tables of an id.
    ///
    /// # Errors
    ///
    /// [`Error`] if the kernel refuses.
    pub fn load(object: &[u8], id: &TablesId, bpf_dir: &Path) -> Result<Self, Error> {
        let mut ebpf = tables::load(object, id, bpf_dir, Ingress::NONE)?;
        verify::program(program(&mut ebpf)?, "the program behind `weir explain`")?;
        Ok(Self(ebpf))
    }

    /// Asks about a packet that opens a TCP flow, or about a later one.
    ///
    /// # Errors
    ///
    /// [`Error`] if the two addresses are of different families, or the kernel refuses to run the
    /// program.
    pub fn ask(&mut self, question: &ExplainRequest) -> Result<Answer, Error> {
        let frame = frame(question)?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        let refused = |cause: String| Error::Refused { what: "a test run".to_owned(), cause };
        program(&mut self.0)?.test_run(options).map_err(|error| refused(error.to_string()))?;
        let map = self.0.map("ANSWER").ok_or_else(|| refused("no map ANSWER".to_owned()))?;
        let answers: Array<_, [u32; 6]> =
            map.try_into().map_err(|error: aya::maps::MapError| refused(error.to_string()))?;
        let [reason, backend, slot, why, service, interface] =
            answers.get(&0, 0).map_err(|error| refused(error.to_string()))?;
        Ok(Answer { reason, backend, slot, why, service, interface })
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, Error> {
    ebpf.program_mut("explain").and_then(|program| program.try_into().ok()).ok_or_else(|| {
        Error::Refused {
            what: "the object".to_owned(),
            cause: "it has no XDP program named explain".to_owned(),
        }
    })
}

/// A TCP segment with ACK, or with SYN if it is to open the flow, or a UDP datagram.
fn frame(question: &ExplainRequest) -> Result<Vec<u8>, Error> {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    let ExplainRequest { protocol, source, destination, opening } = *question;
    let flags = if opening { SYN } else { ACK };
    let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    let transport = match protocol {
        Protocol::Tcp => [&ports[..], &[0; 8], &[0x50, flags, 4, 0, 0, 0, 0, 0]].concat(),
        Protocol::Udp => [&ports[..], &[0, 8, 0, 0]].concat(),
    };
    // Ethernet addresses of zeros, which are the instance's own.
    let ethernet = vec![0; 12];
    Ok([ethernet, header(protocol, source, destination, transport.len())?, transport].concat())
}

/// The `EtherType` and the IP header before so many bytes.
fn header(
    protocol: Protocol,
    source: SocketAddr,
    destination: SocketAddr,
    length: usize,
) -> Result<Vec<u8>, Error> {
    // A TCP or UDP header: with twenty bytes of IPv4's it fits into one byte.
    let length = u8::try_from(length).unwrap_or(u8::MAX);
    let mut header = Vec::new();
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.extend([0x08, 0x00, 0x45, 0, 0, 20 + length]);
            header.extend([0, 0, 0x40, 0, 64, protocol.number(), 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            header.extend([0x86, 0xDD, 0x60, 0, 0, 0, 0, length, protocol.number(), 64]);
            header.extend(source.octets());
            header.extend(destination.octets());
        }
        (source_address, destination) => {
            return Err(Error::Families { source_address, destination });
        }
    }
    Ok(header)
}
