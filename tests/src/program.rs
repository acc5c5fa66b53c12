//! The real program over real tables, run packet by packet through `BPF_PROG_TEST_RUN`.
//!
//! The tables are filled by the controller's own core, so a test that says "a service with two
//! backends" exercises the way from configuration to packet.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::{Deref, DerefMut},
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail};
use aya::{
    Ebpf,
    programs::{TestRun, TestRunOptions, Xdp},
};
use lb_common::echo::{EchoKey, Responder};
use weir::{
    config::{Config, Limits},
    core::{Action, Core, HealthReport, NextHop, NextHopReport, Now, saved::Saved},
    dataplane::{self, Ingress, Tables, TablesId},
};

use crate::bench::Counts;

/// The address of the interface that test packets arrive on.
pub const OWN_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

/// The interface that test packets arrive on: without a context of its own, a test run takes
/// place on loopback.
pub const INGRESS: u32 = 1;

/// How the program under test answers probes.
pub const ECHO: Responder = Responder {
    port: 9751,
    node: 0x0102_0304_0506_0708,
    key: EchoKey([0x0011_2233_4455_6677, 0x8899_AABB_CCDD_EEFF]),
};

/// An XDP action (`enum xdp_action` of `linux/bpf.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// `XDP_DROP`
    Drop,
    /// `XDP_PASS`
    Pass,
    /// `XDP_TX`
    Tx,
    /// `XDP_REDIRECT`
    Redirect,
}

/// The program in the kernel, over tables of its own; removed again when dropped.
#[derive(Debug)]
pub struct Runner {
    ebpf: Ebpf,
    /// The kernel's tables.
    pub tables: Tables,
    /// Which tables they are.
    pub id: TablesId,
    bpf_dir: PathBuf,
}

/// Another copy of the program in the kernel, somewhere else in memory.
#[derive(Debug)]
pub struct Instance(Ebpf);

/// A [`Runner`] whose tables a core has filled.
#[derive(Debug)]
pub struct Program {
    runner: Runner,
    core: Core,
}

/// The object under test: the rebuilt one if `WEIR_EBPF_OBJECT` names it, else the committed one.
///
/// # Errors
///
/// If that file cannot be read.
pub fn object() -> Result<Vec<u8>> {
    match std::env::var_os("WEIR_EBPF_OBJECT") {
        Some(path) => {
            fs::read(&path).with_context(|| format!("reading the object {}", path.display()))
        }
        None => Ok(dataplane::OBJECT.to_vec()),
    }
}

// === impl Verdict ===

impl Verdict {
    /// A verdict by its number in the kernel.
    ///
    /// # Errors
    ///
    /// It has none: the program was aborted.
    pub fn from_action(action: u32) -> Result<Self> {
        Ok(match action {
            1 => Self::Drop,
            2 => Self::Pass,
            3 => Self::Tx,
            4 => Self::Redirect,
            other => bail!("the program returned {other}"),
        })
    }
}

// === impl Instance ===

impl Instance {
    fn load(object: &[u8], id: &TablesId, bpf_dir: &Path) -> Result<Self> {
        let own = Ingress { index: INGRESS, mac: OWN_MAC, place: 0, echo: ECHO, log: 0 };
        let mut ebpf = dataplane::load(object, id, bpf_dir, own)?;
        for name in ["weir", "empty_tx"] {
            xdp(&mut ebpf, name)?.load()?;
        }
        Ok(Self(ebpf))
    }

    /// One of the object's programs in the kernel: `weir` or `empty_tx`.
    ///
    /// # Errors
    ///
    /// There is no such program.
    pub fn program(&self, name: &str) -> Result<BorrowedFd<'_>> {
        let program = self.0.program(name).with_context(|| format!("no program {name}"))?;
        let program: &Xdp = program.try_into()?;
        Ok(program.fd()?.as_fd())
    }
}

// === impl Runner ===

impl Runner {
    /// Loads the program over new tables.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn new(id: TablesId) -> Result<Self> {
        Self::with_object(&object()?, id)
    }

    /// Loads the program of an object over new tables.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, or the object's tables are not those of this version.
    pub fn with_object(object: &[u8], id: TablesId) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let bpf_dir =
            PathBuf::from(format!("/sys/fs/bpf/weir-program-{}-{count}", std::process::id()));
        let tables = Tables::open(object, &id, &bpf_dir)?;
        let ebpf = Instance::load(object, &id, &bpf_dir)?.0;
        Ok(Self { ebpf, tables, id, bpf_dir })
    }

    /// Another copy of the program over the same tables.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn instance(&self, object: &[u8]) -> Result<Instance> {
        Instance::load(object, &self.id, &self.bpf_dir)
    }

    /// Where its tables are pinned.
    pub fn bpf_dir(&self) -> &Path {
        &self.bpf_dir
    }

    /// Runs the program on a frame.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to run it.
    pub fn run(&mut self, frame: &[u8]) -> Result<(Verdict, Vec<u8>)> {
        self.run_times(frame, 1)
    }

    /// Runs the program on a frame, then on what came of it, so many times. Returns the last verdict.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to run it.
    pub fn run_times(&mut self, frame: &[u8], times: u32) -> Result<(Verdict, Vec<u8>)> {
        let mut out = vec![0; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.repeat = times;
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let result = xdp(&mut self.ebpf, "weir")?.test_run(options)?;
        let verdict = Verdict::from_action(result.return_value)?;
        out.truncate(result.data_size_out as usize);
        Ok((verdict, out))
    }

    /// The program's size.
    ///
    /// # Errors
    ///
    /// If the kernel does not describe the program.
    pub fn counts(&mut self) -> Result<Counts> {
        let info = xdp(&mut self.ebpf, "weir")?.info()?;
        Ok(Counts {
            verified_instructions: info.verified_instruction_count(),
            translated_bytes: info.size_translated(),
            jitted_bytes: info.size_jitted(),
        })
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // Nothing to be done about a failure here; the directory's name is this process's own.
        let _ = dataplane::detach(&self.bpf_dir);
    }
}

// === impl Program ===

impl Program {
    /// Loads the program with the tables of a configuration in which every backend is up.
    /// `hop` says how each backend is reached.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn new(config: Config, hop: impl Fn(IpAddr) -> NextHop) -> Result<Self> {
        Self::with_object(&object()?, config, hop)
    }

    /// The same with another object than the one under test.
    ///
    /// # Errors
    ///
    /// As for [`Program::new`] and [`Runner::with_object`].
    pub fn with_object(
        object: &[u8],
        config: Config,
        hop: impl Fn(IpAddr) -> NextHop,
    ) -> Result<Self> {
        let limits = config.limits;
        let seed = [0x0123_4567_89AB_CDEF, 0x0F1E_2D3C_4B5A_6978];
        let runner = Runner::with_object(object, TablesId::new(limits, seed))?;
        let core = Core::new(config, limits, &Saved::default(), None, now())
            .map_err(|error| anyhow!(error))?;
        let mut program = Self { runner, core };
        program.bring_up(hop);
        Ok(program)
    }

    /// Lets the core have inputs, and writes what it decides.
    pub fn with_core<T>(&mut self, inputs: impl FnOnce(&mut Core) -> T) -> T {
        let result = inputs(&mut self.core);
        for action in self.core.commit() {
            if let Action::Write(write) = action {
                self.runner.tables.mapped.write(&write);
            }
        }
        result
    }

    /// The name of the backend with a number in the tables.
    pub fn backend(&self, number: u16) -> Option<String> {
        self.core.backend_named(number).map(|id| id.backend.to_string())
    }

    fn bring_up(&mut self, hop: impl Fn(IpAddr) -> NextHop) {
        self.with_core(|core| {
            for address in core.addresses() {
                core.next_hop(NextHopReport { address, outcome: Ok(hop(address)) }, now());
            }
            for target in core.targets() {
                let (started, finished) = (now(), now());
                let passed = HealthReport { id: target.id, outcome: Ok(()), started, finished };
                core.health(&passed, now());
            }
        });
    }
}

impl Deref for Program {
    type Target = Runner;

    fn deref(&self) -> &Runner {
        &self.runner
    }
}

impl DerefMut for Program {
    fn deref_mut(&mut self) -> &mut Runner {
        &mut self.runner
    }
}

/// Small tables: quick to make, large enough for tests.
pub const SMALL: Limits = Limits { services: 64, backends: 256, ring_slots: 1 << 20, flows: 1024 };

/// A next hop behind the interface that packets come from, with a MAC made of the address.
pub fn same_interface(address: IpAddr) -> NextHop {
    NextHop { destination: mac_of(address), ..to_us(address) }
}

/// A next hop that is the program's own interface, so that what left it comes back.
pub fn to_us(address: IpAddr) -> NextHop {
    let local = match address {
        IpAddr::V4(_) => SOURCE.into(),
        IpAddr::V6(_) => SOURCE6.into(),
    };
    let mtu = 1500;
    NextHop { interface: INGRESS, source: OWN_MAC, destination: OWN_MAC, local: Some(local), mtu }
}

/// This host's addresses on the way to every backend.
pub const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
/// The same over IPv6.
pub const SOURCE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xDB8, 1, 0, 0, 0, 0, 0xFE);

/// A MAC that says whose it is: it ends with the address, or with its last four bytes.
pub fn mac_of(address: IpAddr) -> [u8; 6] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [0x02, 0xBE, a, b, c, d]
        }
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [0x02, 0xB6, a, b, c, d]
        }
    }
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}

fn now() -> Now {
    Now { monotonic: Duration::ZERO, wall: SystemTime::UNIX_EPOCH }
}
