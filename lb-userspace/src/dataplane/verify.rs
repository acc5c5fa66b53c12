//! Handing objects and programs to the kernel's verifier, which a signal would interrupt.

use aya::{Ebpf, EbpfLoader, programs::Xdp};
use nix::sys::signal::{SigSet, SigmaskHow};

use super::error::Error;

/// Makes an object's maps and readies its programs; `what` names it in an error.
///
/// # Errors
///
/// [`Error`] with what the kernel says.
pub(super) fn object(
    loader: &mut EbpfLoader<'_>,
    object: &[u8],
    what: &str,
) -> Result<Ebpf, Error> {
    undisturbed(|| loader.load(object)).map_err(|error| Error::from_load(what, &error))
}

/// Has a program verified and compiled; `what` names it in an error.
///
/// # Errors
///
/// [`Error`] with what the verifier says.
pub(super) fn program(program: &mut Xdp, what: &str) -> Result<(), Error> {
    undisturbed(|| program.load()).map_err(|error| Error::from_load(what, &error))
}

/// Holds this thread's signals back meanwhile; another thread takes those of the process.
///
/// The verifier gives up with `EAGAIN` when one is pending, as when a check's script ends just
/// now. aya loads once more, which is not enough beside several scripts, and takes a probe of the
/// kernel's features that was interrupted for a feature that is not there.
fn undisturbed<T>(work: impl FnOnce() -> T) -> T {
    let _held = Held(
        SigSet::all()
            .thread_swap_mask(SigmaskHow::SIG_BLOCK)
            .expect("pthread_sigmask(3) refuses unknown ways to change a mask alone"),
    );
    work()
}

/// The mask to go back to.
struct Held(SigSet);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.thread_set_mask().expect("pthread_sigmask(3) took this mask before");
    }
}
