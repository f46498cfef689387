//! What a trusted writer changes stays, and is what is put back from then on.
#![cfg(target_arch = "x86_64")]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use support::look::{Inodes, look};
use support::{Gate, Lab, actor, in_lab};

/// The patrol leaves what trusted writers have just done alone for two seconds, and looks twice.
const PATROLLED: Duration = Duration::from_secs(3);
/// What was written a moment ago is in the vault after so long.
const HELD_WITHIN: Duration = Duration::from_millis(50);
const POLICY: &str = "[[policy]]\nname = 'p'\npaths = ['@/tree/']\nwriters = ['w']\n\
                      [[writer]]\nname = 'w'\nexe = ['@/tree/writer']\ndescendants = true\n";
/// Every child of this shell is gone before what it did is read.
const SCRIPT: &str = "cd \"$0\" && rm gone && mv old new && ln kept link && ln -s kept symlink && mkdir made && \
                      echo written >made/file && chmod 600 kept && chown 7:8 kept && rm -r dir && \
                      touch -d @1 dated && echo more >>grown && mv outside/in made/ && mkfifo fifo";

struct Scene {
    writer: PathBuf,
}

fn scene(lab: &Lab) -> Scene {
    let writer = lab.path("tree/writer");
    actor::build(&writer, &[]);
    for name in ["gone", "old", "kept", "dir/deep/file", "dated", "grown"] {
        lab.file(&format!("tree/{name}"), name);
    }
    lab.file("free/in", "from outside");
    std::os::unix::fs::symlink(lab.path("free"), lab.path("tree/outside")).unwrap();
    Scene { writer }
}

fn run(scene: &Scene, lab: &Lab, script: &str) {
    let arguments = [Path::new("run"), Path::new("/bin/sh"), Path::new("-c"), Path::new(script), &lab.tree()];
    let done = std::process::Command::new(&scene.writer).args(arguments).output().unwrap();
    assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
}

fn healed(records: &[Value]) -> Vec<String> {
    let bad = records.iter().filter(|record| {
        !["started", "stopped", "reloaded"].contains(&record["verdict"].as_str().unwrap_or_default())
    });
    bad.map(|record| format!("{} {} {}", record["verdict"], record["path"], record["reason"])).collect()
}

/// Each is changed by somebody else, and is again what the writer made it.
fn is_what_is_put_back(gate: &Gate<'_>, lab: &Lab) {
    let before = look(&lab.tree(), Inodes::OfFiles);
    let inode = fs::metadata(lab.path("tree/made/file")).unwrap().ino();
    fs::remove_file(lab.path("tree/made/file")).unwrap();
    fs::remove_file(lab.path("tree/new")).unwrap();
    fs::remove_dir_all(lab.path("tree/made")).unwrap_or_default();
    fs::set_permissions(lab.path("tree/kept"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::rename(lab.path("tree/grown"), lab.path("tree/dated")).unwrap();
    fs::write(lab.path("free/evil"), "evil").unwrap();
    fs::rename(lab.path("free/evil"), lab.path("tree/link")).unwrap();
    gate.until(|| (look(&lab.tree(), Inodes::OfFiles) == before).then_some(()));
    assert_eq!(fs::metadata(lab.path("tree/made/file")).unwrap().ino(), inode);
    assert_eq!(fs::read_to_string(lab.path("tree/made/file")).unwrap(), "written\n");
    assert_eq!(fs::read_to_string(lab.path("tree/grown")).unwrap(), "grownmore\n");
}

/// No event tells of it before it is over, and the patrol comes by.
#[test]
fn what_a_writer_writes_through_a_mapping_stays() {
    in_lab(60, |lab| {
        let scene = scene(lab);
        let gate = lab.gate(POLICY);
        let mapped = lab.path("tree/grown");
        // Somebody else's work next to it has all of the directory looked at.
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| actor::errno(&scene.writer, &[Path::new("map"), &mapped]));
            while !writer.is_finished() {
                let _ = fs::remove_file(lab.path("tree/gone"));
                std::thread::sleep(Duration::from_millis(50));
            }
            assert_eq!(writer.join().unwrap(), 0);
        });
        std::thread::sleep(PATROLLED);
        assert_eq!(fs::read_to_string(&mapped).unwrap(), "Drown");
        let records = healed(&gate.records());
        assert!(records.iter().all(|record| record.contains("/gone")), "{records:?}");
        // And it is what is put back from then on.
        fs::remove_file(&mapped).unwrap();
        gate.until(|| mapped.exists().then_some(()));
        assert_eq!(fs::read_to_string(&mapped).unwrap(), "Drown");
    });
}

#[test]
fn what_a_writers_children_do_stays() {
    in_lab(60, |lab| {
        let scene = scene(lab);
        let gate = lab.gate(POLICY);
        run(&scene, lab, SCRIPT);
        let made = look(&lab.tree(), Inodes::All);
        std::thread::sleep(PATROLLED);
        assert_eq!(look(&lab.tree(), Inodes::All), made);
        assert_eq!(healed(&gate.records()), Vec::<String>::new());
        is_what_is_put_back(&gate, lab);
    });
}

/// Deletes files of the tree, each by a process of its own that reads another first, and ends at once.
fn delete_quickly(writer: &Path, lab: &Lab, names: &[String], preload: Option<&Path>) {
    let children: Vec<_> = names
        .iter()
        .map(|name| {
            let mut command = std::process::Command::new(writer);
            command.args(["read".as_ref(), lab.path("tree/kept").as_os_str(), "then".as_ref()]);
            command.args(["unlink".as_ref(), lab.path(&format!("tree/{name}")).as_os_str()]);
            if let Some(library) = preload {
                command.env("LD_PRELOAD", library);
            }
            command.stdout(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        assert_eq!(child.wait_with_output().unwrap().stdout, b"0\n");
    }
}

/// It has asked for nothing that only a writer may do, and is gone when its deletion is read.
#[test]
fn a_writer_that_only_deletes_is_known_when_it_is_gone() {
    const AT_ONCE: usize = 16;
    const ROUNDS: usize = 10;
    in_lab(60, |lab| {
        let scene = scene(lab);
        actor::build(&scene.writer, &["-pie"]);
        let names: Vec<_> = (0..AT_ONCE * ROUNDS).map(|number| format!("n{number}")).collect();
        for name in &names {
            lab.file(&format!("tree/{name}"), name);
        }
        let source = lab.file("free/empty.c", "static int nothing;\n");
        let library = lab.path("free/empty.so");
        actor::compile(&source, &library, &["-shared", "-fPIC"]);
        let gate = lab.gate(POLICY);
        for names in names.chunks(AT_ONCE) {
            delete_quickly(&scene.writer, lab, names, None);
        }
        std::thread::sleep(PATROLLED);
        assert_eq!(healed(&gate.records()), Vec::<String>::new());
        assert!(names.iter().all(|name| !lab.path(&format!("tree/{name}")).exists()));
        // With code that nobody vouches for it is no writer.
        delete_quickly(&scene.writer, lab, &["old".to_owned()], Some(&library));
        gate.until(|| lab.path("tree/old").exists().then_some(()));
    });
}

/// Whose program does it does not depend on what is executed a moment later, or on when the watcher comes to look.
#[test]
fn whoever_becomes_a_writer_has_not_been_one() {
    const TRIES: usize = 20;
    in_lab(60, |lab| {
        let scene = scene(lab);
        let stranger = lab.path("free/stranger");
        actor::build(&stranger, &[]);
        for number in 0..TRIES {
            lab.file(&format!("tree/n{number}"), "mine");
        }
        let gate = lab.gate(POLICY);
        for number in 0..TRIES {
            // In the last few the worker dies, and another one reads it.
            if number + 3 >= TRIES {
                gate.signal(gate.worker(), Signal::SIGKILL);
            }
            let name = lab.path(&format!("tree/n{number}"));
            let kept = lab.path("tree/kept");
            let then = [Path::new("read"), &kept, Path::new("then"), Path::new("map"), &kept];
            let become_it = [Path::new("become"), &name, &scene.writer];
            let mut it = std::process::Command::new(&stranger).args(become_it).args(then).spawn().unwrap();
            let exe = format!("/proc/{}/exe", it.id());
            // It is the writer, or has been.
            gate.until(|| fs::read_link(&exe).map_or(true, |exe| exe == scene.writer).then_some(()));
            gate.until(|| name.exists().then_some(()));
            it.kill().unwrap();
            it.wait().unwrap();
            gate.until(|| (gate.try_status()?["ready"] == true).then_some(()));
        }
    });
}

/// What went in a directory that is gone itself, nothing tells any more; and what stands in its place may have its number.
#[test]
fn a_directory_makes_way_for_something_else() {
    in_lab(60, |lab| {
        let scene = scene(lab);
        actor::build(&scene.writer, &["-pie"]);
        for number in 0..16 {
            lab.file(&format!("tree/d{number}/file"), "old");
        }
        let gate = lab.gate(POLICY);
        let mut made = Vec::new();
        for number in 0..16 {
            let directory = format!("tree/d{number}");
            let (again, new) = match number % 2 {
                0 => ("", directory.clone()),
                _ => ("mkdir @ then ", format!("{directory}/new")),
            };
            let steps = format!("read @/file then unlink @/file then rmdir @ then {again}create %");
            let steps = steps.replace('@', lab.path(&directory).to_str().unwrap());
            let steps = steps.replace('%', lab.path(&new).to_str().unwrap());
            let steps: Vec<_> = steps.split(' ').map(Path::new).collect();
            assert_eq!(actor::errno(&scene.writer, &steps), 0);
            made.push(lab.path(&new));
        }
        let before = look(&lab.tree(), Inodes::OfFiles);
        std::thread::sleep(PATROLLED);
        assert_eq!(healed(&gate.records()), Vec::<String>::new());
        assert_eq!(look(&lab.tree(), Inodes::OfFiles), before);
        // This drops from the vault what nothing expected needs.
        assert!(gate.command(&["reload"]).status.success());
        for file in &made {
            fs::remove_file(file).unwrap();
        }
        gate.until(|| (look(&lab.tree(), Inodes::OfFiles) == before).then_some(()));
    });
}

/// Changes of a writer and of an intruder, one behind the other: each gets what it should.
#[test]
fn a_writer_and_an_intruder_take_turns() {
    in_lab(60, |lab| {
        let scene = scene(lab);
        let gate = lab.gate(POLICY);
        for round in 0..20 {
            run(
                &scene,
                lab,
                &format!("cd \"$0\" && echo {round} >new.tmp && mv new.tmp kept && rm -f x{round}"),
            );
            let inode = fs::metadata(lab.path("tree/kept")).unwrap().ino();
            std::thread::sleep(HELD_WITHIN);
            fs::remove_file(lab.path("tree/kept")).unwrap();
            let back = gate.until(|| fs::metadata(lab.path("tree/kept")).ok());
            assert_eq!(back.ino(), inode, "round {round}");
            assert_eq!(fs::read_to_string(lab.path("tree/kept")).unwrap(), format!("{round}\n"));
        }
    });
}

/// An intruder who is faster than the vault gets what was there before put back, and no gap.
#[test]
fn what_is_deleted_at_once_is_not_lost() {
    in_lab(60, |lab| {
        let scene = scene(lab);
        let gate = lab.gate(POLICY);
        for round in 0..20 {
            run(&scene, lab, &format!("cd \"$0\" && echo {round} >new.tmp && mv new.tmp kept"));
            fs::remove_file(lab.path("tree/kept")).unwrap();
            gate.until(|| lab.path("tree/kept").exists().then_some(()));
        }
    });
}

/// A directory that another policy protects from now on is learned as it is; one that none protects is let go.
#[test]
fn reloads_while_changes_go_on() {
    in_lab(60, |lab| {
        lab.file("tree/always/file", "always");
        lab.file("tree/sometimes/file", "sometimes");
        let both = "[[policy]]\nname = 'p'\npaths = ['@/tree/always/', '@/tree/sometimes/']\n";
        let one = "[[policy]]\nname = 'p'\npaths = ['@/tree/always/']\n";
        let gate = lab.gate(both);
        let over = std::sync::atomic::AtomicBool::new(false);
        let before = look(&lab.path("tree/always"), Inodes::OfFiles);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0.. {
                    if over.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                    let _ = fs::create_dir(lab.path(&format!("tree/always/new{round}")));
                    let _ = fs::remove_file(lab.path("tree/always/file"));
                    let _ = fs::create_dir(lab.path(&format!("tree/sometimes/new{round}")));
                    std::thread::sleep(Duration::from_millis(3));
                }
            });
            let _end = support::Finally(&over);
            for round in 0..20 {
                lab.write_policy(&lab.here(if round % 2 == 0 { one } else { both }));
                assert!(gate.command(&["reload"]).status.success());
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        gate.until(|| (look(&lab.path("tree/always"), Inodes::OfFiles) == before).then_some(()));
        lab.write_policy(&lab.here(one));
        assert!(gate.command(&["reload"]).status.success());
        let free = lab.path("tree/sometimes/free");
        fs::write(&free, "nobody minds").unwrap();
        fs::remove_file(lab.path("tree/sometimes/file")).unwrap();
        std::thread::sleep(PATROLLED);
        assert!(free.exists() && !lab.path("tree/sometimes/file").exists());
    });
}
