//! Asks the running gate. Every wait has an end, whatever listens on the socket.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use super::protocol::{Command, REPLY_BYTES_MAX, Request};

/// A gate says how it is in a millisecond.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);
/// It answers a reload when all new marks are in place, some 20,000 directories a second.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Between attempts to connect to a socket with a full backlog.
const RETRY_EVERY: Duration = Duration::from_millis(10);
/// Read at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no gate listens on {socket}")]
    NotUp {
        /// Where.
        socket: PathBuf,
    },
    /// The socket is not for this user.
    #[error("not permitted to talk to the gate on {socket}")]
    NotPermitted {
        /// Where.
        socket: PathBuf,
    },
    /// It takes too long.
    #[error("the gate on {socket} did not answer in time")]
    NoAnswer {
        /// Where.
        socket: PathBuf,
    },
    /// Something else.
    #[error("failed to ask the gate on {socket}")]
    Io {
        /// Where.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Sends `command` to the gate that listens on `socket` and returns the document it answers with.
pub fn ask(socket: &Path, command: Command) -> Result<Vec<u8>, ClientError> {
    let timeout = match command {
        Command::Status => STATUS_TIMEOUT,
        Command::Reload => RELOAD_TIMEOUT,
    };
    exchange(socket, command, Instant::now() + timeout).map_err(|error| named(socket, error))
}

fn named(socket: &Path, source: io::Error) -> ClientError {
    use io::ErrorKind::{
        ConnectionRefused, ConnectionReset, NotADirectory, NotFound, PermissionDenied, TimedOut, WouldBlock,
    };
    let socket = socket.to_owned();
    match source.kind() {
        // A reset, or no answer at all, is a gate that ends just now.
        NotFound | NotADirectory | ConnectionRefused | ConnectionReset | io::ErrorKind::BrokenPipe => {
            ClientError::NotUp { socket }
        }
        PermissionDenied => ClientError::NotPermitted { socket },
        TimedOut | WouldBlock => ClientError::NoAnswer { socket },
        _ => ClientError::Io { socket, source },
    }
}

fn exchange(path: &Path, command: Command, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut stream = connect_by(path, deadline)?;
    let mut line = serde_json::to_vec(&Request { command })?;
    line.push(b'\n');
    stream.set_write_timeout(Some(remaining(deadline)?))?;
    stream.write_all(&line)?;
    stream.shutdown(Shutdown::Write)?;
    let mut reply = Vec::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        stream.set_read_timeout(Some(remaining(deadline)?))?;
        match stream.read(&mut chunk) {
            Ok(0) if reply.is_empty() => return Err(io::ErrorKind::ConnectionReset.into()),
            Ok(0) => return Ok(reply),
            Ok(length) if reply.len() + length <= REPLY_BYTES_MAX => {
                reply.extend_from_slice(&chunk[..length]);
            }
            Ok(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer has no end")),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A blocking connect(2) to a Unix socket waits without end while the backlog is full.
fn connect_by(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let address = UnixAddr::new(path)?;
    loop {
        match connect(fd.as_raw_fd(), &address) {
            Ok(()) => break,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => {
                thread::sleep(RETRY_EVERY.min(remaining(deadline)?));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn remaining(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        remaining => Ok(remaining),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn socket() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        (directory, path)
    }

    #[test]
    fn one_line_there_and_one_document_back() {
        let (_directory, path) = socket();
        let listener = UnixListener::bind(&path).unwrap();
        let gate = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            stream.read_to_string(&mut request).unwrap();
            stream.write_all(b"{\"rea").unwrap();
            stream.write_all(b"dy\":true}").unwrap();
            request
        });
        assert_eq!(ask(&path, Command::Status).unwrap(), br#"{"ready":true}"#);
        assert_eq!(gate.join().unwrap(), "{\"command\":\"status\"}\n");
    }

    #[test]
    fn nobody_there() {
        let (directory, path) = socket();
        assert!(matches!(ask(&path, Command::Status), Err(ClientError::NotUp { .. })));
        drop(UnixListener::bind(&path).unwrap());
        assert!(matches!(ask(&path, Command::Status), Err(ClientError::NotUp { .. })));
        let long = directory.path().join("x".repeat(200));
        assert!(matches!(ask(&long, Command::Status), Err(ClientError::Io { .. })));
    }

    #[test]
    fn a_gate_that_hangs_is_left() {
        let (_directory, path) = socket();
        let _listener = UnixListener::bind(&path).unwrap();
        let deadline = Instant::now() + Duration::from_millis(50);
        let error = exchange(&path, Command::Status, deadline).unwrap_err();
        assert!(matches!(named(&path, error), ClientError::NoAnswer { .. }));
    }
}
