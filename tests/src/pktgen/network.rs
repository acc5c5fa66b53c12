//! Two namespaces, the link between generator and balancer, and who polls it on which processor.

use std::{fs, net::Ipv4Addr, process::Command, sync::Mutex, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use super::{Scenario, Source};
use crate::{
    Namespace, namespace, process,
    sweep::{self, LabName},
    xdp::{Attachment, Instruction, Program},
};

/// The generator's end of the link.
pub(super) const GENERATOR_MAC: &str = "02:00:00:00:00:01";
/// The balancer's end of the link.
pub(super) const BALANCER_MAC: &str = "02:00:00:00:00:02";
/// The service's port.
pub(super) const PORT: u16 = 80;
/// The balancer's own address on the link, with the length of its prefix.
const BALANCER: &str = "198.18.0.2/15";
/// The service's address, on the balancer.
pub(super) const VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 100);
/// Behind the first backend, for plain forwarding.
pub(super) const BEYOND: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The backends, none of which is there: the far end counts what would reach them.
pub(super) const BACKENDS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(198, 18, 0, 11),
    Ipv4Addr::new(198, 18, 0, 12),
    Ipv4Addr::new(198, 18, 0, 13),
    Ipv4Addr::new(198, 18, 0, 14),
];
/// The processors: one makes and counts, the other does nothing but balance.
pub(super) const GENERATORS_CPU: &str = "0";
const BALANCERS_CPU: &str = "1";
const LIMIT: Duration = Duration::from_secs(20);

/// The network of one benchmark; removed when dropped.
#[derive(Debug)]
pub(super) struct Network {
    generator: Namespace,
    balancer: Namespace,
    relay: Mutex<Option<Attachment>>,
    gen_index: i32,
    _counter: Attachment,
    // After what lives in it.
    remains: Remains,
}

/// Names and files, removed on drop: also when building fails half-way.
#[derive(Debug)]
struct Remains {
    name: LabName,
    directory: tempfile::TempDir,
}

impl Drop for Remains {
    fn drop(&mut self) {
        sweep::remove_lab(&self.name);
    }
}

// === impl Network ===

impl Network {
    /// Builds it.
    ///
    /// # Errors
    ///
    /// The kernel lacks the source or threaded NAPI, or refuses something.
    pub(super) fn build(source: Source) -> Result<Self> {
        require_kernel(source)?;
        sweep::remove_leftovers();
        let name = LabName::new();
        let directory = tempfile::tempdir().context("making the network's directory")?;
        let remains = Remains { name, directory };
        let generator = remains.namespace("gen")?;
        let balancer = remains.namespace("bal")?;
        cable(&generator, &balancer)?;

        // The far end counts and drops, as early as it can. Any program there also makes veth
        // take what the balancer sends by XDP_TX.
        let counter = Program::load(&DROP)?.attach(&generator, "wgen")?;
        let gen_index = generator.enter(|| nix::net::if_::if_nametoindex("wgen"))??;
        let gen_index = i32::try_from(gen_index).context("the interface's index")?;
        let network = Self {
            generator,
            balancer,
            relay: Mutex::new(None),
            gen_index,
            _counter: counter,
            remains,
        };
        network.relay_as(Scenario::OneFlow64)?;
        network.place_threads()?;
        Ok(network)
    }

    pub(super) fn generator(&self) -> &Namespace {
        &self.generator
    }

    /// The interface over which the generator sends.
    pub(super) fn interface(&self) -> i32 {
        self.gen_index
    }

    pub(super) fn balancer(&self) -> &Namespace {
        &self.balancer
    }

    /// A path for a file that ends with the network.
    pub(super) fn file(&self, name: &str) -> std::path::PathBuf {
        self.remains.directory.path().join(name)
    }

    /// Where programs may be pinned.
    pub(super) fn pins(&self) -> std::path::PathBuf {
        self.remains.name.bpf_directory("bal")
    }

    /// Makes the relay send what the scenario asks for.
    pub(super) fn relay_as(&self, scenario: Scenario) -> Result<()> {
        let program = match scenario {
            Scenario::SynFlood64 => [syn().as_slice(), &redirect(self.gen_index)].concat(),
            _ => redirect(self.gen_index).to_vec(),
        };
        let program = Program::load(&program).context("loading the relay")?;
        let mut relay =
            self.relay.lock().map_err(|_| anyhow::anyhow!("the relay's lock is broken"))?;
        // One at a time on the interface.
        *relay = None;
        *relay = Some(program.attach(&self.generator, "wrelay")?);
        drop(relay);
        self.place_threads()
    }

    /// Packets that reached the far end.
    pub(super) fn count(&self) -> Result<u64> {
        self.generator.enter(|| {
            let text = fs::read_to_string("/proc/thread-self/net/dev")?;
            received(&text, "wgen").context("wgen is not in /proc/net/dev")
        })?
    }

    /// Lets each end be polled by a thread of its own, on the processor that is meant for it.
    ///
    /// To be called again when a program came or went: that may make the kernel begin new threads.
    pub(super) fn place_threads(&self) -> Result<()> {
        let places = [
            (&self.generator, "wrelay", GENERATORS_CPU),
            (&self.generator, "wgen", GENERATORS_CPU),
            (&self.balancer, "wbal", BALANCERS_CPU),
        ];
        for (namespace, device, cpu) in places {
            // `ip netns exec` mounts the namespace's own /sys.
            let write = format!("echo 1 > /sys/class/net/{device}/threaded");
            run(&["ip", "netns", "exec", namespace.name(), "sh", "-c", &write]).context(
                "polling a network device by a thread, which this benchmark needs, is there since \
                 Linux 5.12",
            )?;
            let thread = thread_of(device)?;
            run(&["taskset", "--pid", "--cpu-list", cpu, &thread])?;
            if device == "wgen" {
                // The far end comes before the generator, or it would lose what it should count.
                run(&["chrt", "--fifo", "--pid", "1", &thread])?;
            }
        }
        Ok(())
    }
}

// === impl Remains ===

impl Remains {
    fn namespace(&self, role: &str) -> Result<Namespace> {
        let name = self.name.namespace(role);
        let script = self.directory.path().join("namespaces.batch");
        namespace::ip_batch(Command::new("ip"), &script, &[format!("netns add {name}")])?;
        let directory = self.directory.path().join(role);
        fs::create_dir(&directory).with_context(|| format!("making {}", directory.display()))?;
        Namespace::open(&name, role, directory)
    }
}

/// What the thread that polls the balancer's end has used of its processor.
pub(super) fn processor_time() -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{}/schedstat", thread_of("wbal")?))
        .context("the kernel keeps no times of its threads (CONFIG_SCHED_INFO)")?;
    let nanoseconds = text.split_whitespace().next().and_then(|word| word.parse().ok());
    Ok(Duration::from_nanos(nanoseconds.context("schedstat holds no number")?))
}

// === helpers ===

fn require_kernel(source: Source) -> Result<()> {
    ensure!(
        source == Source::LiveFrames || fs::exists("/proc/net/pktgen")?,
        "this kernel has no pktgen: `modprobe pktgen` loads it where the module is installed; \
         `cargo xtask bench live` measures without it"
    );
    let cpus = std::thread::available_parallelism()?.get();
    ensure!(cpus >= 2, "the generator and the balancer need a processor each");
    Ok(())
}

/// Lays the two links and gives the balancer its addresses, routes and neighbours.
fn cable(generator: &Namespace, balancer: &Namespace) -> Result<()> {
    generator.ip(&[
        "link add wfeed type veth peer name wrelay".to_owned(),
        format!(
            "link add wgen address {GENERATOR_MAC} type veth peer name wbal address \
             {BALANCER_MAC} netns {balancer}"
        ),
        "link set dev wfeed up".to_owned(),
        "link set dev wrelay up".to_owned(),
        "link set dev wgen up".to_owned(),
    ])?;
    let mut lines = vec![
        "link set dev lo up".to_owned(),
        "link set dev wbal up".to_owned(),
        format!("address add {BALANCER} dev wbal"),
        format!("address add {VIP}/32 dev wbal"),
        format!("route add {BEYOND}/32 via {} dev wbal", BACKENDS[0]),
        "route add default dev wbal via 198.18.0.1 onlink".to_owned(),
    ];
    for (number, backend) in BACKENDS.iter().enumerate() {
        let mac = format!("02:00:00:00:01:{number:02x}");
        lines.push(format!("neighbour add {backend} lladdr {mac} dev wbal nud permanent"));
    }
    balancer.ip(&lines)?;
    balancer.sysctl(&[
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/wbal/rp_filter", "0"),
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/wbal/send_redirects", "0"),
    ])?;
    // Checksums are finished where frames are made. GRO is what makes veth poll.
    balancer.run(&["ethtool", "-K", "wbal", "tx", "off", "gro", "on"])?;
    generator.run(&["ethtool", "-K", "wgen", "tx", "off", "gro", "on"])?;
    generator.run(&["ethtool", "-K", "wrelay", "gro", "on"]).map(drop)
}

/// The thread that polls a device: `napi/DEVICE-NUMBER`.
fn thread_of(device: &str) -> Result<String> {
    let prefix = format!("napi/{device}-");
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.starts_with(&prefix) {
            return Ok(entry.file_name().to_string_lossy().into_owned());
        }
    }
    bail!("no kernel thread polls {device}")
}

fn run(words: &[&str]) -> Result<String> {
    let [program, arguments @ ..] = words else { bail!("no program to run") };
    let mut command = Command::new(program);
    command.args(arguments);
    process::run(command, LIMIT)
}

/// Packets received by a device, of `/proc/net/dev`.
fn received(text: &str, device: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(device))?;
    line.strip_prefix(':')?.split_whitespace().nth(1)?.parse().ok()
}

/// Counted by the device already; nothing to be done with it.
const DROP: [Instruction; 2] = [
    Instruction::new(0xb7, 0, 0, 0, 1), // r0 = XDP_DROP
    Instruction::new(0x95, 0, 0, 0, 0), // exit
];

/// Sends every frame out of another interface.
fn redirect(interface: i32) -> [Instruction; 4] {
    [
        Instruction::new(0xb7, 1, 0, 0, interface), // r1 = interface
        Instruction::new(0xb7, 2, 0, 0, 0),         // r2 = no flags
        Instruction::new(0x85, 0, 0, 0, 23),        // call bpf_redirect
        Instruction::new(0x95, 0, 0, 0, 0),         // exit
    ]
}

/// Makes a TCP SYN of pktgen's UDP datagram, which has its ports in the same place.
fn syn() -> [Instruction; 20] {
    [
        Instruction::new(0x61, 2, 1, 0, 0),     // r2 = data
        Instruction::new(0x61, 3, 1, 4, 0),     // r3 = data_end
        Instruction::new(0xbf, 4, 2, 0, 0),     // r4 = r2
        Instruction::new(0x07, 4, 0, 0, 54),    // r4 += Ethernet, IPv4 and TCP header
        Instruction::new(0x2d, 4, 3, 15, 0),    // if r4 > r3 goto the redirection
        Instruction::new(0x72, 2, 0, 23, 6),    // protocol = TCP, 11 less than UDP
        Instruction::new(0x69, 5, 2, 24, 0),    // r5 = the IP header's checksum
        Instruction::new(0xdc, 5, 0, 0, 16),    // in the host's order
        Instruction::new(0x07, 5, 0, 0, 11),    // 11 more (RFC 1624)
        Instruction::new(0xbf, 0, 5, 0, 0),     // r0 = r5
        Instruction::new(0x77, 0, 0, 0, 16),    // r0 >>= 16
        Instruction::new(0x0f, 5, 0, 0, 0),     // r5 += the carry
        Instruction::new(0xdc, 5, 0, 0, 16),    // in the network's order
        Instruction::new(0x6b, 2, 5, 24, 0),    // store it
        Instruction::new(0x62, 2, 0, 42, 0),    // acknowledgement = 0
        Instruction::new(0x72, 2, 0, 46, 0x50), // header of 20 bytes
        Instruction::new(0x72, 2, 0, 47, 0x02), // SYN
        Instruction::new(0x6a, 2, 0, 48, -1),   // window: the largest
        Instruction::new(0x62, 2, 0, 50, 0),    // checksum and urgent pointer: nobody looks
        Instruction::new(0xb7, 0, 0, 0, 0),     // r0 = 0
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_columns_are_read_by_name() {
        let text = "Inter-|   Receive\n face |bytes    packets errs\n\
            \x20 wgen: 6000     100    0    0    0     0          0         0  900  15\n\
            wbal:12 3 0\n";
        assert_eq!(received(text, "wgen"), Some(100));
        assert_eq!(received(text, "wbal"), Some(3));
        assert_eq!(received(text, "wg"), None);
    }
}
