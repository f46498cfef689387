//! The service manager's notification protocol (`sd_notify(3)`): a datagram per message, no library needed.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// Talks to `$NOTIFY_SOCKET`, or to nobody.
pub struct Notifier {
    socket: Option<UnixDatagram>,
    /// Half of `$WATCHDOG_USEC`.
    interval: Option<Duration>,
    last: Instant,
}

impl Notifier {
    /// From the environment, which is then left as it is: workers do not look at it.
    pub fn from_environment() -> Self {
        let watchdog = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse::<u64>().ok());
        Self {
            socket: std::env::var_os("NOTIFY_SOCKET").and_then(|path| connect(path.as_bytes()).ok()),
            interval: watchdog.map(|micros| Duration::from_micros(micros / 2)),
            last: Instant::now(),
        }
    }

    fn send(&self, message: &[u8]) {
        if let Some(socket) = &self.socket {
            // A manager that does not listen is no reason to stop gating.
            let _ = socket.send(message);
        }
    }

    /// The gate is up.
    pub fn ready(&self) {
        self.send(b"READY=1");
    }

    /// The gate goes down on purpose.
    pub fn stopping(&self) {
        self.send(b"STOPPING=1");
    }

    /// All is well; sent as often as the manager wants it.
    pub fn alive(&mut self) {
        if let Some(interval) = self.interval
            && self.last.elapsed() >= interval
        {
            self.last = Instant::now();
            self.send(b"WATCHDOG=1");
        }
    }
}

fn connect(path: &[u8]) -> std::io::Result<UnixDatagram> {
    let address = match path {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
