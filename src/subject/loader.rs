//! Whether a process is still being put together by its dynamic loader.

use std::os::fd::AsFd;

use super::maps;
use crate::sys::proc::Task;

/// The auxiliary vector's entry with the loader's address (`linux/auxvec.h`); 0 without a loader.
const AT_BASE: u64 = 7;
/// `/proc/<pid>/auxv` has some twenty entries of 16 bytes.
const AUXV_BYTES: usize = 1024;

/// Whether the process calls the kernel from its loader's code, to which `pc` leads back. `None`: cannot be told, of
/// 32-bit processes for one.
///
/// Once another file's code runs, everything that the program was linked with or `LD_PRELOAD` asked for is mapped. Where
/// loader and C library are one file (musl) it is always loading.
pub fn is_loading(task: &Task, pc: u64, buffer: &mut [u8]) -> Option<bool> {
    let mut vector = [0; AUXV_BYTES];
    let n = task.read_small(c"auxv", &mut vector).ok()?;
    let base = loader_of(&vector[..n])?;
    if base == 0 {
        return Some(false);
    }
    let (mut loader, mut caller) = (None, None);
    let maps = task.open(c"maps").ok()?;
    let are_all = maps::all(maps.as_fd(), buffer, |mapping| {
        let file = (mapping.device, mapping.inode);
        if mapping.contains(base) {
            loader = Some(file);
        }
        if mapping.contains(pc) {
            caller = Some(file);
        }
        true
    });
    are_all.then_some(loader? == caller?)
}

/// The address that the loader was mapped at.
fn loader_of(vector: &[u8]) -> Option<u64> {
    let number = |bytes: &[u8]| bytes.try_into().map(u64::from_ne_bytes).ok();
    let mut entries = vector.chunks_exact(16).map(|entry| (number(&entry[..8]), number(&entry[8..])));
    entries.find_map(|(kind, value)| if kind == Some(AT_BASE) { value } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::{self, Line};
    use crate::sys::proc::{Proc, SYSCALL_LINE_BYTES};

    #[test]
    fn the_address_is_found() {
        let vector: Vec<u8> =
            [6u64, 4096, 7, 0x7f00, 0, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(loader_of(&vector), Some(0x7f00));
        assert_eq!(loader_of(&vector[..16]), None);
        assert_eq!(loader_of(b"short"), None);
    }

    #[test]
    fn a_program_that_sleeps_is_not_loading() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let task = Proc::open().unwrap().task(child.id() as i32).unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
        let mut buffer = vec![0; 64 * 1024];
        let mut seen = || {
            let mut line = [0; SYSCALL_LINE_BYTES];
            let n = task.read_small(c"syscall", &mut line).ok()?;
            let Line::In(call) = classify::parse_line(&line[..n]) else { return None };
            is_loading(&task, call.pc, &mut buffer)
        };
        while seen() != Some(false) {
            assert!(std::time::Instant::now() < until);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
