//! Signals that are read from a descriptor, each with who sent it.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Signals that wait for us instead of acting on us.
pub struct HeldSignals {
    descriptor: OwnedFd,
    /// What was held back before.
    before: libc::sigset_t,
}

/// The same in a runtime.
#[derive(Debug)]
pub struct Signals(AsyncFd<OwnedFd>);

/// A signal that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    pub number: i32,
    /// The terminal sent it, to every process of its foreground group, and not another process to us alone.
    pub by_kernel: bool,
}

impl HeldSignals {
    /// Holds these signals back from now on. To be called before there is a second thread, which would not know of it.
    ///
    /// # Errors
    /// When there is no descriptor left.
    #[expect(unsafe_code, reason = "signal masks and signalfd have no safe wrapper")]
    pub fn hold(numbers: &[i32]) -> io::Result<Self> {
        use std::os::fd::FromRawFd;
        // SAFETY: a set of signals is plain data, valid when zeroed, and is passed to functions that read or write
        // just that. The descriptor is new and owned by nobody else.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for number in numbers {
                libc::sigaddset(&raw mut set, *number);
            }
            let descriptor = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if descriptor < 0 {
                return Err(io::Error::last_os_error());
            }
            let descriptor = OwnedFd::from_raw_fd(descriptor);
            match libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before) {
                0 => Ok(Self { descriptor, before }),
                error => Err(io::Error::from_raw_os_error(error)),
            }
        }
    }

    /// Has a child start with what was held back before, and no more.
    #[expect(unsafe_code, reason = "what runs between fork and exec is in its caller's care")]
    pub fn release_in(&self, command: &mut std::process::Command) {
        use std::os::unix::process::CommandExt;
        let before = self.before;
        // SAFETY: the one call between fork and exec is safe there (POSIX lists it), and reads a set that the closure
        // owns.
        unsafe {
            command.pre_exec(move || {
                match libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) {
                    0 => Ok(()),
                    error => Err(io::Error::from_raw_os_error(error)),
                }
            });
        }
    }

    /// Begins to wait for them.
    ///
    /// # Errors
    /// When there is no runtime.
    #[expect(unsafe_code, reason = "tokio asks its caller to vouch for the descriptor")]
    pub fn listen(self) -> io::Result<Signals> {
        // SAFETY: the descriptor is owned by the value that is registered, is non-blocking, and is closed by its drop only,
        // after tokio has deregistered it.
        Ok(Signals(unsafe { AsyncFd::register(self.descriptor) }?))
    }
}

impl std::fmt::Debug for HeldSignals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("HeldSignals").field(&self.descriptor).finish()
    }
}

impl Signals {
    /// Waits for the next one.
    ///
    /// # Errors
    /// When the runtime ends.
    pub async fn next(&self) -> io::Result<Arrived> {
        // `struct signalfd_siginfo`: number at 0, error at 4, origin at 8.
        let mut record = [0; 128];
        loop {
            let mut ready = self.0.readable().await?;
            match rustix::io::read(self.0.get_ref(), &mut record) {
                Ok(128) => {
                    let field = |at: usize| {
                        i32::from_ne_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]])
                    };
                    return Ok(Arrived { number: field(0), by_kernel: field(8) > 0 });
                }
                Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
