//! Mounts over what is protected, in the namespace of the gate.

use std::fs;
use std::io;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{CONTENT, Place, Way, way};
use crate::support::raw;

const OVERLAY: &str = "empty or extend a file: truncate through an overlay that was mounted on its directory";
const OVER: &str = "mount something over a protected path";
const ABOVE: &str = "mount something over a directory above the tree";
const DETACH: &str = "mount = 'detach'";
const GONE: &str = "take away a mount inside the tree: umount, mount --move";
const REMOUNT: &str = "change the options of a mount with protected paths: remount";
const DETACHED: &str = "mount something over a protected path whose policy says `mount = \"detach\"`";
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

/// Resizes the file below it without an event to refuse.
fn truncate_through_overlay(place: &Place) -> io::Result<()> {
    let [lower, work, merged] = ["lower", "work", "merged"].map(|name| place.out(name));
    for directory in [&lower, &work, &merged] {
        fs::create_dir(directory)?;
    }
    let [lower, upper, work] = [&lower, &place.inside, &work].map(|path| path.display());
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
    let truncated = raw::truncate(&merged.join("file"), 3);
    umount2(&merged, MntFlags::MNT_DETACH)?;
    truncated
}

/// Takes away what the intruder has mounted: the test's own end of it.
pub fn unmount(place: &Place) {
    let above = place.inside.parent().expect("above");
    for path in [place.file(), place.at("dir"), place.inside.clone(), above.to_owned()] {
        // Most are no mount, some are several.
        while umount2(&path, MntFlags::MNT_DETACH).is_ok() {}
    }
}

fn moved(from: &Path, to: &Path) -> io::Result<()> {
    Ok(mount(Some(from), to, None::<&str>, MsFlags::MS_MOVE, None::<&str>)?)
}

/// A filesystem of its own in the tree, there from the start.
fn inner_filesystem(place: &Place) -> io::Result<()> {
    tmpfs(&place.at("dir"))?;
    fs::write(place.at("dir/inner"), CONTENT)
}

fn remount(target: &Path, flags: MsFlags) -> io::Result<()> {
    Ok(mount(None::<&str>, target, None::<&str>, MsFlags::MS_REMOUNT | flags, None::<&str>)?)
}

pub const WAYS: &[Way] = &[
    way(OVERLAY, "as its upper directory", truncate_through_overlay),
    way(OVER, "bind over a file", |p| bind(&p.out("file"), &p.file())),
    way(OVER, "bind over a directory", |p| bind(&p.out("dir"), &p.at("dir"))),
    way(OVER, "tmpfs over the tree", |p| tmpfs(&p.inside)).at_root(),
    way(OVER, "overlay over a directory", overlay),
    way(ABOVE, "tmpfs", |p| tmpfs(p.inside.parent().expect("above"))).at_root(),
    way(MOVED, "open_tree, move_mount", |p| raw::move_mount(&raw::open_tree(&p.out("dir"))?, &p.at("dir"))),
    way(DETACHED, "bind over a file", |p| bind(&p.out("file"), &p.file())).policy(DETACH),
    way(DETACHED, "tmpfs over the tree", |p| tmpfs(&p.inside)).at_root().policy(DETACH),
    way(DETACHED, "tmpfs over the directory above", |p| tmpfs(p.inside.parent().expect("above")))
        .at_root()
        .policy(DETACH),
    way(DETACHED, "one over the other", |p| {
        tmpfs(&p.at("dir"))?;
        bind(&p.out("dir"), &p.at("dir"))?;
        tmpfs(&p.inside)
    })
    .policy(DETACH),
    way(DETACHED, "move_mount", |p| raw::move_mount(&raw::open_tree(&p.out("dir"))?, &p.at("dir")))
        .policy(DETACH),
    way(DETACHED, "mount elsewhere, move", |p| {
        tmpfs(&p.out("dir"))?;
        moved(&p.out("dir"), &p.at("dir"))
    })
    .policy(DETACH),
    way(GONE, "umount", |p| Ok(umount2(&p.at("dir"), MntFlags::empty())?)).prepare(inner_filesystem),
    way(GONE, "umount -l", |p| Ok(umount2(&p.at("dir"), MntFlags::MNT_DETACH)?)).prepare(inner_filesystem),
    way(GONE, "mount --move", |p| moved(&p.at("dir"), &p.out("dir"))).prepare(inner_filesystem),
    way(REMOUNT, "the mount", |p| remount(&p.inside, MsFlags::MS_BIND | MsFlags::MS_RDONLY))
        .prepare(|p| bind(&p.inside, &p.inside)),
    way(REMOUNT, "the filesystem", |p| remount(&p.at("dir"), MsFlags::MS_RDONLY)).prepare(inner_filesystem),
    way(REMOUNT, "noexec", |p| remount(&p.at("dir"), MsFlags::MS_NOEXEC)).prepare(inner_filesystem),
    way("delete a file: unlink", "on a filesystem in the tree", |p| fs::remove_file(p.at("dir/inner")))
        .prepare(inner_filesystem),
];
