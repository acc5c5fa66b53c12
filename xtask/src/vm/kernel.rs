//! A kernel unpacked: the image that boots, and the few modules that Weir's tests use.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    archive,
    debian::{self, Packages},
    release::Release,
};
use crate::process;

/// What tests and benchmarks use, if the kernel has it as a module. The modules that these depend
/// on come along.
const MODULES: [&str; 24] = [
    "8021q",
    "bridge",
    "cls_bpf",
    // Asked for by name at run time, so no dependency of ip_vs; later kernels have it built in.
    "crc32c_generic",
    "crc32c_intel",
    "dummy",
    "fou",
    "fou6",
    "ip6_tunnel",
    "ip_vs",
    "ip_vs_mh",
    "ip_vs_rr",
    "ipip",
    "macvlan",
    "pktgen",
    "sch_fq_codel",
    "sch_ingress",
    "sch_netem",
    "sit",
    "tun",
    "veth",
    "virtio_net",
    "virtio_pci",
    "vxlan",
];

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub(crate) release: Release,
    /// As `uname -r` will say.
    pub(crate) version: String,
    /// The image that boots.
    pub(crate) image: PathBuf,
    /// An archive of `/lib/modules/VERSION`, as it is to stand in the machine.
    pub(crate) modules: PathBuf,
}

impl Kernel {
    /// Fetches a kernel's packages, unless they are there.
    pub(super) fn fetch(release: Release) -> Result<Packages> {
        let folder = folder_of(release);
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        debian::fetch(release, &folder)
    }

    /// Fetches and unpacks a kernel, unless it is there.
    pub(crate) fn prepare(release: Release) -> Result<Self> {
        let packages = Self::fetch(release)?;
        let folder = folder_of(release);
        let kernel = Self {
            release,
            version: packages.version.clone(),
            image: folder.join("ready/vmlinuz"),
            modules: folder.join("ready/modules.cpio"),
        };
        // What is unpacked depends on both.
        let stamp = format!("{} {}", packages.version, MODULES.join(" "));
        let stamp_file = folder.join("ready/stamp");
        if fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp) {
            return Ok(kernel);
        }
        process::announce(&format!("unpacking kernel {}", packages.version));
        kernel.unpack(&packages, &folder)?;
        fs::write(stamp_file, stamp)?;
        Ok(kernel)
    }

    fn unpack(&self, packages: &Packages, folder: &Path) -> Result<()> {
        let tree = Scratch::new(folder.join("tree"))?;
        for file in &packages.files {
            process::run(Command::new("dpkg-deb").arg("--extract").args([file, &tree.0]))?;
        }
        let unpacked = UnpackedTree::find(&tree.0, &self.version)?;
        let root = Scratch::new(folder.join("root"))?;
        let target = root.0.join("lib/modules").join(&self.version);
        for folder in [&folder.join("ready"), &target] {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        fs::copy(&unpacked.image, &self.image).context("copying the kernel's image")?;

        depmod(&unpacked.base, &self.version)?;
        let list = unpacked.modules.join("modules.dep");
        let list = fs::read_to_string(&list).with_context(|| naming(&list))?;
        for module in closure(&list, &MODULES) {
            copy_module(&unpacked.modules.join(&module), &target.join(&module))?;
        }
        // Newer packages come without them, and depmod does.
        for list in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
            let from = unpacked.modules.join(list);
            if from.is_file() {
                fs::copy(&from, target.join(list)).with_context(|| naming(&from))?;
            }
        }
        depmod(&root.0, &self.version)?;
        archive::pack(&root.0, &self.modules)
    }
}

fn folder_of(release: Release) -> PathBuf {
    super::folder().join(release.name())
}

/// Where a package put its files: `/boot` and `/lib/modules`, or all below `/usr/lib/modules`.
struct UnpackedTree {
    /// What `depmod -b` takes.
    base: PathBuf,
    modules: PathBuf,
    image: PathBuf,
}

impl UnpackedTree {
    fn find(tree: &Path, version: &str) -> Result<Self> {
        let bases = [tree.to_owned(), tree.join("usr")];
        let base = bases.into_iter().find(|base| base.join("lib/modules").join(version).is_dir());
        let base = base.with_context(|| format!("the packages hold no modules of {version}"))?;
        let modules = base.join("lib/modules").join(version);
        let images = [tree.join(format!("boot/vmlinuz-{version}")), modules.join("vmlinuz")];
        let image = images.into_iter().find(|image| image.is_file());
        let image = image.with_context(|| format!("the packages hold no image of {version}"))?;
        Ok(Self { base, modules, image })
    }
}

/// A folder that goes when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(path: PathBuf) -> Result<Self> {
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn depmod(base: &Path, version: &str) -> Result<()> {
    let program = process::find_program("depmod").context("there is no depmod (package kmod)")?;
    process::capture(Command::new(program).arg("-b").arg(base).arg(version)).map(drop)
}

fn naming(path: &Path) -> String {
    format!("reading {}", path.display())
}

/// Copies a module under the same name, decompressed: busybox reads nothing else.
fn copy_module(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().context("a module without a folder")?;
    fs::create_dir_all(parent)?;
    fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    if to.extension().is_some_and(|extension| extension == "xz") {
        process::run(Command::new("xz").args(["--decompress", "--force"]).arg(to))?;
    }
    ensure!(
        to.extension().is_none_or(|extension| extension != "zst"),
        "{}: modules packed with zstd are not known here",
        from.display()
    );
    Ok(())
}

/// The files of modules and of all that they depend on, by `modules.dep`. Those that the kernel
/// does not have are left out: it may have them built in, and whoever needs one hears of it.
fn closure(list: &str, names: &[&str]) -> BTreeSet<String> {
    let entries: BTreeMap<&str, (&str, &str)> = list
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| (file, (file, needs)))
        .collect();
    let by_name: BTreeMap<String, &str> =
        entries.keys().map(|file| (module_name(file), *file)).collect();
    let mut wanted = BTreeSet::new();
    for file in names.iter().filter_map(|name| by_name.get(*name)) {
        let (file, needs) = entries[file];
        // modules.dep lists all that a module needs, however far.
        wanted.insert(file.to_owned());
        wanted.extend(needs.split_whitespace().map(str::to_owned));
    }
    wanted
}

/// `kernel/arch/x86/crypto/crc32c-intel.ko.xz` is the module `crc32c_intel`.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split('.').next().unwrap_or(name).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "kernel/net/netfilter/ipvs/ip_vs.ko.xz: kernel/net/nf.ko kernel/lib/crc.ko\n\
        kernel/net/netfilter/ipvs/ip_vs_mh.ko.xz: kernel/net/netfilter/ipvs/ip_vs.ko.xz \
        kernel/net/nf.ko kernel/lib/crc.ko\n\
        kernel/net/nf.ko:\nkernel/lib/crc.ko:\nkernel/fs/other.ko:\n\
        kernel/arch/x86/crc32c-intel.ko:\n";

    #[test]
    fn a_module_comes_with_what_it_needs_and_nothing_else() {
        let files = closure(LIST, &["ip_vs_mh", "crc32c_intel", "built_in"]);
        let expected = [
            "kernel/arch/x86/crc32c-intel.ko",
            "kernel/lib/crc.ko",
            "kernel/net/netfilter/ipvs/ip_vs.ko.xz",
            "kernel/net/netfilter/ipvs/ip_vs_mh.ko.xz",
            "kernel/net/nf.ko",
        ];
        assert!(files.iter().map(String::as_str).eq(expected), "{files:?}");
    }

    #[test]
    fn both_ways_to_lay_a_package_out_are_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        for path in ["old/boot", "old/lib/modules/6.1", "new/usr/lib/modules/7.2"] {
            fs::create_dir_all(folder.path().join(path)).expect("a folder");
        }
        fs::write(old.join("boot/vmlinuz-6.1"), "").expect("a file");
        fs::write(new.join("usr/lib/modules/7.2/vmlinuz"), "").expect("a file");
        assert_eq!(UnpackedTree::find(&old, "6.1").expect("found").base, old);
        assert_eq!(UnpackedTree::find(&new, "7.2").expect("found").base, new.join("usr"));
        assert!(UnpackedTree::find(&old, "7.2").is_err());
    }
}
