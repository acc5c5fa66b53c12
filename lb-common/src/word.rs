//! Words that the controller writes while the kernel program reads.
//!
//! What is read as one decision is written as one aligned word, so a packet sees the old or the
//! new decision and never half of either.

#![allow(unsafe_code, reason = "the one place that reads memory another world writes")]

/// Makes a word type of the given width: volatile reads in the kernel program, atomics on the host.
macro_rules! word {
    ($name:ident, $int:ty, $atomic:ty, $doc:literal) => {
        #[doc = $doc]
        #[repr(transparent)]
        #[derive(Debug, Default)]
        #[cfg(not(target_arch = "bpf"))]
        pub struct $name($atomic);

        #[cfg(not(target_arch = "bpf"))]
        impl $name {
            /// A word with this value.
            pub const fn new(value: $int) -> Self {
                Self(<$atomic>::new(value))
            }

            /// Reads the word; what was written before it is visible afterwards.
            pub fn load(&self) -> $int {
                self.0.load(core::sync::atomic::Ordering::Acquire)
            }

            /// Writes the word, after everything written before it.
            pub fn store(&self, value: $int) {
                self.0.store(value, core::sync::atomic::Ordering::Release);
            }
        }

        #[doc = $doc]
        #[repr(transparent)]
        #[derive(Debug)]
        #[cfg(target_arch = "bpf")]
        pub struct $name(core::cell::UnsafeCell<$int>);

        #[cfg(target_arch = "bpf")]
        impl $name {
            /// Reads the word, once: aligned loads of this width are single accesses in eBPF.
            #[inline(always)]
            pub fn load(&self) -> $int {
                // SAFETY: the pointer comes from a reference, so it is valid and aligned; volatile,
                // because user space writes the word through its own mapping.
                unsafe { core::ptr::read_volatile(self.0.get()) }
            }

            /// Writes the word, once.
            #[inline(always)]
            pub fn store(&self, value: $int) {
                // SAFETY: as in `load`; every access to the word is volatile.
                unsafe { core::ptr::write_volatile(self.0.get(), value) }
            }

            /// A word with this value.
            #[inline(always)]
            pub const fn new(value: $int) -> Self {
                Self(core::cell::UnsafeCell::new(value))
            }
        }

        // SAFETY: every access is one volatile load or store of an aligned word.
        #[cfg(target_arch = "bpf")]
        unsafe impl Sync for $name {}
    };
}

word!(Word32, u32, core::sync::atomic::AtomicU32, "A shared 32-bit word.");
word!(Word64, u64, core::sync::atomic::AtomicU64, "A shared 64-bit word.");

impl Word64 {
    /// Adds to the word, which wraps round, whoever else does so meanwhile.
    #[cfg(not(target_arch = "bpf"))]
    pub fn add(&self, change: i64) {
        self.0.fetch_add(change.cast_unsigned(), core::sync::atomic::Ordering::Relaxed);
    }

    /// Adds to the word, which wraps round, whoever else does so meanwhile.
    ///
    /// Rust has no atomic additions for eBPF, since the target cannot compare and swap before
    /// version 3 of its instructions. This one is older than those (`BPF_XADD`), and returns nothing.
    #[cfg(target_arch = "bpf")]
    #[inline(always)]
    pub fn add(&self, change: i64) {
        // SAFETY: one instruction that writes the word alone, which is valid and aligned as in
        // `load`.
        unsafe {
            core::arch::asm!(
                "lock *(u64 *)({word} + 0) += {change}",
                word = in(reg) self.0.get(),
                change = in(reg) change,
                options(nostack),
            );
        }
    }
}
