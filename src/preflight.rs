//! What must be true before there can be a gate: asked by `run`, `doctor` and `demo`.
#![forbid(unsafe_code)]

use std::io;

use crate::cli::report::{Exit, Failure};
use crate::sys::fanotify::Group;

/// What is missing.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// The kernel asks for the capability in the initial user namespace.
    #[error("writegate needs CAP_SYS_ADMIN to ask the kernel for permission events")]
    NotPermitted,
    /// Not built in.
    #[error("this kernel has no fanotify permission events")]
    NoPermissionEvents,
    /// Too old.
    #[error("this kernel does not say which thread opens a file")]
    NoThreadIds,
    /// Something else.
    #[error("failed to make a fanotify group: {0}")]
    Other(io::Error),
}

impl PreflightError {
    /// What to do.
    pub const fn help(&self) -> &'static str {
        match self {
            Self::NotPermitted => {
                "run it as root on the host, or in a container that has --cap-add SYS_ADMIN and no user namespace"
            }
            Self::NoPermissionEvents => {
                "use a kernel built with CONFIG_FANOTIFY_ACCESS_PERMISSIONS, or `writegate run --mode observe`"
            }
            Self::NoThreadIds => "use Linux 5.8 or newer",
            Self::Other(_) => {
                "look at the limits of open files (ulimit -n) and of this container's seccomp profile"
            }
        }
    }
}

impl From<PreflightError> for Failure {
    fn from(error: PreflightError) -> Self {
        Self::new(Exit::Unavailable, error.to_string(), error.help())
    }
}

/// Whether a gate that refuses can run here.
pub fn preflight() -> Result<(), PreflightError> {
    match Group::permission() {
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What a failed `fanotify_init(2)` means.
impl From<io::Error> for PreflightError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted,
            Some(libc::ENOSYS) => Self::NoPermissionEvents,
            Some(libc::EINVAL) => Self::NoThreadIds,
            _ => Self::Other(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_says_what_to_do() {
        for errno in [libc::EPERM, libc::ENOSYS, libc::EINVAL, libc::EMFILE] {
            let failure = Failure::from(PreflightError::from(io::Error::from_raw_os_error(errno)));
            assert_eq!(failure.exit, Exit::Unavailable);
            assert!(!failure.what.is_empty() && !failure.help.is_empty());
        }
    }
}
