//! The kernel's process events (`CONFIG_PROC_EVENTS`, `linux/cn_proc.h`): who forked whom, and who ended.
//!
//! Only in the initial user and network namespaces, and only with `CAP_NET_ADMIN`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const CN_IDX_PROC: u32 = 1;
const CN_VAL_PROC: u32 = 1;
const PROC_CN_MCAST_LISTEN: u32 = 1;
const NLMSG_DONE: u16 = 3;
const NETLINK_HEADER_BYTES: usize = 16;
const CONNECTOR_HEADER_BYTES: usize = 20;
/// `what`, `cpu`, `timestamp_ns`.
const EVENT_HEADER_BYTES: usize = 16;
/// Where the last of these is; `ktime_get_ns()`, the monotonic clock.
const TIMESTAMP_AT: usize = 8;
const WHAT_FORK: u32 = 1;
const WHAT_EXEC: u32 = 2;
const WHAT_EXIT: u32 = 0x8000_0000;
/// So that a burst of forks does not overflow it while the reader heals.
static RECEIVE_BYTES: libc::c_int = 8 << 20;

/// One event that matters here. Numbers are those of the initial process namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessEvent {
    /// A new thread or process.
    Fork {
        /// The process that forked.
        parent: i32,
        /// The new thread.
        tid: i32,
        /// The process it belongs to.
        tgid: i32,
        /// When, by the monotonic clock.
        at_ns: u64,
    },
    /// A process runs another program from now on.
    Exec {
        /// Which.
        tgid: i32,
        /// When, by the monotonic clock.
        at_ns: u64,
    },
    /// A thread ended.
    Exit {
        /// Which.
        tid: i32,
        /// Of which process.
        tgid: i32,
    },
}

/// A subscription.
#[derive(Debug)]
pub struct Connector {
    socket: OwnedFd,
}

impl Connector {
    /// Subscribes.
    ///
    /// # Errors
    /// `EPERM`, `ECONNREFUSED` or `EPROTONOSUPPORT` where the kernel or the namespace has none.
    pub fn listen() -> io::Result<Self> {
        // SAFETY: socket(2) takes three integers.
        let fd = unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
                libc::NETLINK_CONNECTOR,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let address = address(CN_IDX_PROC);
        // SAFETY: `address` is a sockaddr_nl of the length given; the option is an int of the length given.
        let bound = unsafe {
            libc::setsockopt(
                fd,
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                (&raw const RECEIVE_BYTES).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            );
            libc::bind(fd, (&raw const address).cast(), size_of::<libc::sockaddr_nl>() as libc::socklen_t)
        };
        if bound < 0 {
            return Err(io::Error::last_os_error());
        }
        let connector = Self { socket };
        connector.subscribe()?;
        Ok(connector)
    }

    /// Another descriptor of the same subscription: what one reads the other does not see.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()? })
    }

    fn subscribe(&self) -> io::Result<()> {
        const BYTES: usize = NETLINK_HEADER_BYTES + CONNECTOR_HEADER_BYTES + 4;
        let mut message = Vec::with_capacity(BYTES);
        message.extend((BYTES as u32).to_ne_bytes());
        message.extend(NLMSG_DONE.to_ne_bytes());
        // Flags, sequence and port of the netlink header.
        message.extend([0; 10]);
        message.extend(CN_IDX_PROC.to_ne_bytes());
        message.extend(CN_VAL_PROC.to_ne_bytes());
        // Sequence and acknowledgement of the connector's header.
        message.extend([0; 8]);
        message.extend(4u16.to_ne_bytes());
        message.extend([0; 2]);
        message.extend(PROC_CN_MCAST_LISTEN.to_ne_bytes());
        // SAFETY: `message` is valid for its length.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next message, parsed; `WouldBlock` when there is none. Whoever has `CAP_NET_ADMIN` may send to the same
    /// group (netlink(7)): what is not from port 0, the kernel, is nothing.
    ///
    /// # Errors
    /// `ENOBUFS`: events were lost.
    pub fn next(&self) -> io::Result<Option<ProcessEvent>> {
        let mut buffer = [0u8; 256];
        let mut sender = address(0);
        let mut length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // SAFETY: `buffer` is valid and writable for its length, `sender` for `length`.
        let n = unsafe {
            libc::recvfrom(
                self.socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
                (&raw mut sender).cast(),
                &raw mut length,
            )
        };
        if n < 0 {
            return Err(io::Error::last_os_error());
        }
        let is_kernel = length as usize == size_of::<libc::sockaddr_nl>() && sender.nl_pid == 0;
        Ok(parse(&buffer[..n as usize]).filter(|_| is_kernel))
    }
}

/// Of whoever listens to these groups, in netlink.
fn address(groups: u32) -> libc::sockaddr_nl {
    // SAFETY: sockaddr_nl is plain old data; all zero is valid.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address.nl_groups = groups;
    address
}

/// Takes a message apart; `None` for kinds that do not matter and for what is too short.
pub fn parse(message: &[u8]) -> Option<ProcessEvent> {
    let of = [CN_IDX_PROC, CN_VAL_PROC].map(u32::to_ne_bytes);
    let event = message.get(NETLINK_HEADER_BYTES + CONNECTOR_HEADER_BYTES..)?;
    if message[NETLINK_HEADER_BYTES..][..8] != *of.as_flattened() {
        return None;
    }
    let number =
        |at: usize| -> Option<i32> { Some(i32::from_ne_bytes(event.get(at..at + 4)?.try_into().ok()?)) };
    let body = |index: usize| number(EVENT_HEADER_BYTES + 4 * index);
    let at_ns = u64::from_ne_bytes(event.get(TIMESTAMP_AT..TIMESTAMP_AT + 8)?.try_into().ok()?);
    match number(0)? as u32 {
        WHAT_FORK => Some(ProcessEvent::Fork { parent: body(1)?, tid: body(2)?, tgid: body(3)?, at_ns }),
        WHAT_EXEC => Some(ProcessEvent::Exec { tgid: body(1)?, at_ns }),
        WHAT_EXIT => Some(ProcessEvent::Exit { tid: body(0)?, tgid: body(1)? }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(what: u32, body: &[i32]) -> Vec<u8> {
        let mut bytes = vec![0; NETLINK_HEADER_BYTES];
        bytes.extend([CN_IDX_PROC, CN_VAL_PROC].map(u32::to_ne_bytes).as_flattened());
        bytes.extend([0; CONNECTOR_HEADER_BYTES - 8]);
        bytes.extend(what.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(77u64.to_ne_bytes());
        bytes.extend(body.iter().flat_map(|number| number.to_ne_bytes()));
        bytes
    }

    #[test]
    fn forks_and_exits() {
        let fork = parse(&message(WHAT_FORK, &[10, 10, 11, 11]));
        assert_eq!(fork, Some(ProcessEvent::Fork { parent: 10, tid: 11, tgid: 11, at_ns: 77 }));
        let exit = parse(&message(WHAT_EXIT, &[12, 11, 0, 17]));
        assert_eq!(exit, Some(ProcessEvent::Exit { tid: 12, tgid: 11 }));
        assert_eq!(parse(&message(2, &[13, 13])), Some(ProcessEvent::Exec { tgid: 13, at_ns: 77 }));
        assert_eq!(parse(&message(4, &[1, 1])), None);
        assert_eq!(parse(&message(WHAT_FORK, &[10])), None);
        assert_eq!(parse(b""), None);
        let mut other = message(WHAT_FORK, &[10, 10, 11, 11]);
        other[NETLINK_HEADER_BYTES] ^= 2;
        assert_eq!(parse(&other), None);
    }

    #[test]
    fn what_somebody_else_sends_is_nothing() {
        let Ok(connector) = Connector::listen() else {
            eprintln!("SKIPPED: process events need CAP_NET_ADMIN and the initial namespaces");
            return;
        };
        let forged = ProcessEvent::Fork { parent: 1, tid: i32::MAX, tgid: 7, at_ns: 77 };
        let bytes = message(WHAT_FORK, &[1, 1, i32::MAX, 7]);
        assert_eq!(parse(&bytes), Some(forged));
        let sender = Connector::listen().expect("another");
        let group = address(CN_IDX_PROC);
        // SAFETY: `bytes` and `group` are valid for the lengths given.
        let sent = unsafe {
            libc::sendto(
                sender.socket.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                0,
                (&raw const group).cast(),
                size_of::<libc::sockaddr_nl>() as libc::socklen_t,
            )
        };
        assert_eq!(sent, bytes.len() as isize);
        let (mut read, mut believed) = (0, false);
        while let Ok(event) = connector.next() {
            read += 1;
            believed |= event == Some(forged);
        }
        assert!(read > 0 && !believed);
    }
}
