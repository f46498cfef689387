//! Mounts over what is protected, in the namespace of the gate.

use std::io;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{Place, Way, way};
use crate::support::raw;

const OVER: &str = "mount something over a protected path";
const ABOVE: &str = "mount something over a directory above the tree";
const MOVED: &str = "attach a detached mount over a protected path: move_mount";

fn bind(source: &Path, target: &Path) -> io::Result<()> {
    Ok(mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

fn tmpfs(target: &Path) -> io::Result<()> {
    Ok(mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::empty(), None::<&str>)?)
}

fn overlay(place: &Place) -> io::Result<()> {
    let lower = format!("lowerdir={}:{}", place.out("dir").display(), place.at("dir").display());
    Ok(mount(Some("overlay"), &place.at("dir"), Some("overlay"), MsFlags::empty(), Some(lower.as_str()))?)
}

/// Takes away what the intruder has mounted: the test's own end of it.
pub fn unmount(place: &Place) {
    let above = place.inside.parent().expect("above");
    for path in [place.file(), place.at("dir"), place.inside.clone(), above.to_owned()] {
        // Most are no mount.
        let _ = umount2(&path, MntFlags::MNT_DETACH);
    }
}

pub const WAYS: &[Way] = &[
    way(OVER, "bind over a file", |p| bind(&p.out("file"), &p.file())),
    way(OVER, "bind over a directory", |p| bind(&p.out("dir"), &p.at("dir"))),
    way(OVER, "tmpfs over the tree", |p| tmpfs(&p.inside)).at_root(),
    way(OVER, "overlay over a directory", overlay),
    way(ABOVE, "tmpfs", |p| tmpfs(p.inside.parent().expect("above"))).at_root(),
    way(MOVED, "open_tree, move_mount", |p| raw::move_mount(&raw::open_tree(&p.out("dir"))?, &p.at("dir"))),
];
