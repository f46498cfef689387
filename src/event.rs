//! Notification events: bytes that the kernel wrote, taken apart without copying.
//!
//! Pure over `&[u8]`; layouts from fanotify(7). Whatever does not fit ends the batch instead of panicking.
#![forbid(unsafe_code)]

const METADATA_BYTES: usize = 24;
const HEADER_BYTES: usize = 4;
const FSID_BYTES: usize = 8;
const HANDLE_HEADER_BYTES: usize = 8;

const INFO_FID: u8 = 1;
const INFO_DFID_NAME: u8 = 2;
const INFO_DFID: u8 = 3;
const INFO_OLD_DFID_NAME: u8 = 10;
const INFO_NEW_DFID_NAME: u8 = 12;

/// An object as an event names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectRef<'a> {
    /// `f_fsid` of its filesystem.
    pub filesystem: u64,
    /// Type number of the handle.
    pub handle_type: i32,
    /// The handle's opaque bytes.
    pub handle: &'a [u8],
}

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The directory.
    pub directory: ObjectRef<'a>,
    /// The entry's name; empty or `.` stands for the directory itself.
    pub name: &'a [u8],
}

/// One notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification<'a> {
    /// How many bytes of the buffer it takes.
    pub length: usize,
    /// `FAN_*` bits; several may have been merged.
    pub mask: u64,
    /// The thread that did it; 0 when the kernel does not say.
    pub tid: i32,
    /// Where; for a rename its old place.
    pub place: Option<Place<'a>>,
    /// A rename's new place.
    pub new_place: Option<Place<'a>>,
    /// The object itself.
    pub target: Option<ObjectRef<'a>>,
}

/// Iterates over a buffer that read(2) filled.
#[derive(Debug, Clone)]
pub struct Notifications<'a> {
    rest: &'a [u8],
}

impl<'a> Notifications<'a> {
    /// Over the filled part of a buffer.
    pub const fn new(filled: &'a [u8]) -> Self {
        Self { rest: filled }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

impl<'a> Iterator for Notifications<'a> {
    type Item = Notification<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let length = u32_at(self.rest, 0)? as usize;
        if length < METADATA_BYTES || length > self.rest.len() {
            self.rest = &[];
            return None;
        }
        let (event, rest) = self.rest.split_at(length);
        self.rest = rest;
        let metadata = usize::from(u16_at(event, 6)?);
        let mut notification = Notification {
            length,
            mask: u64_at(event, 8)?,
            tid: u32_at(event, 20)? as i32,
            place: None,
            new_place: None,
            target: None,
        };
        let mut infos = event.get(metadata..).unwrap_or_default();
        while let Some(length) = u16_at(infos, 2) {
            let length = usize::from(length);
            if length < HEADER_BYTES || length > infos.len() {
                break;
            }
            let (info, rest) = infos.split_at(length);
            infos = rest;
            if let Some((object, tail)) = object_of(&info[HEADER_BYTES..]) {
                let place = || Place { directory: object, name: until_nul(tail) };
                match info[0] {
                    INFO_FID => notification.target = Some(object),
                    INFO_DFID_NAME | INFO_DFID | INFO_OLD_DFID_NAME => notification.place = Some(place()),
                    INFO_NEW_DFID_NAME => notification.new_place = Some(place()),
                    _ => {}
                }
            }
        }
        Some(notification)
    }
}

fn object_of(body: &[u8]) -> Option<(ObjectRef<'_>, &[u8])> {
    let filesystem = u64_at(body, 0)?;
    let handle_bytes = u32_at(body, FSID_BYTES)? as usize;
    let handle_type = u32_at(body, FSID_BYTES + 4)? as i32;
    let start = FSID_BYTES + HANDLE_HEADER_BYTES;
    let end = start.checked_add(handle_bytes)?;
    let handle = body.get(start..end)?;
    Some((ObjectRef { filesystem, handle_type, handle }, &body[end..]))
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn info(kind: u8, fsid: u64, handle: &[u8], name: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend(fsid.to_ne_bytes());
        body.extend((handle.len() as u32).to_ne_bytes());
        body.extend(1i32.to_ne_bytes());
        body.extend(handle);
        body.extend(name);
        body.push(0);
        while body.len() % 4 != 0 {
            body.push(0);
        }
        let mut info = vec![kind, 0];
        info.extend((body.len() as u16 + 4).to_ne_bytes());
        info.extend(body);
        info
    }

    fn event(mask: u64, tid: i32, infos: &[Vec<u8>]) -> Vec<u8> {
        let tail: Vec<u8> = infos.concat();
        let mut event = Vec::new();
        event.extend((24 + tail.len() as u32).to_ne_bytes());
        event.extend([3, 0, 24, 0]);
        event.extend(mask.to_ne_bytes());
        event.extend((-1i32).to_ne_bytes());
        event.extend(tid.to_ne_bytes());
        event.extend(tail);
        event
    }

    #[test]
    fn a_create_names_directory_name_and_target() {
        let mut bytes =
            event(0x100, 7, &[info(2, 9, b"dirhandl", b"new\nname"), info(1, 9, b"filehand", b"")]);
        bytes.extend(event(0x4000_0000, 0, &[]));
        let events: Vec<_> = Notifications::new(&bytes).collect();
        assert_eq!(events.len(), 2);
        assert_eq!(events[0].tid, 7);
        let place = events[0].place.unwrap();
        assert_eq!((place.name, place.directory.handle), (&b"new\nname"[..], &b"dirhandl"[..]));
        assert_eq!(events[0].target.unwrap().handle, b"filehand");
        assert_eq!(events[1].place, None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_loop(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Notifications::new(&bytes).count();
        }
    }
}
