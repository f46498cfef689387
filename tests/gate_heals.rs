//! What the gate puts back, and what it says of it.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use nix::sys::signal::Signal;
use support::in_lab;
use writegate::sys::connector::Connector;

#[test]
fn a_subject_that_is_gone_is_named_by_what_is_left() {
    in_lab(60, |lab| {
        let file = lab.file("tree/file", "as it was");
        let inode = fs::metadata(&file).unwrap().ino();
        let gate = lab.protect_tree();
        let worker = gate.worker();
        // Nothing is read until it is all over; a worker that is stopped for longer is replaced.
        gate.signal(worker, Signal::SIGSTOP);
        let mut rm = Command::new("rm").arg("-f").arg(&file).spawn().unwrap();
        let pid = rm.id();
        assert!(rm.wait().unwrap().success());
        gate.signal(worker, Signal::SIGCONT);
        let record = gate.record(|record| record["verdict"] == "healed" && record["mutation"] == "unlink");
        let subject = &record["subject"];
        assert_eq!((&subject["tid"], &subject["pid"]), (&pid.into(), &pid.into()), "{record}");
        assert!(record["reason"].as_str().unwrap().ends_with("; who did it was gone when this was read"));
        assert_eq!(fs::metadata(&file).unwrap().ino(), inode);
        if Connector::listen().is_err() {
            return eprintln!("its parent is not known here: no process events");
        }
        assert_eq!(subject["ppid"], std::process::id());
        let own = fs::read_link("/proc/self/exe").unwrap();
        assert_eq!(subject["parent_exe"].as_str(), own.to_str());
        assert_eq!(subject["ancestors"][0]["pid"], std::process::id());
    });
}

#[test]
fn status_and_doctor_say_what_is_held_and_what_is_not() {
    in_lab(60, |lab| {
        lab.file("tree/small", "small");
        // Longer than what is copied: it comes back as long as it is the same inode.
        let large = lab.file("tree/large", "");
        fs::File::options().write(true).open(&large).unwrap().set_len(64 << 20).unwrap();
        fs::File::options()
            .append(true)
            .open(&large)
            .map(|mut file| std::io::Write::write(&mut file, b"x"))
            .unwrap()
            .unwrap();
        let gate = lab.protect_tree();
        let healing = gate.status()["healing"].clone();
        assert!(healing["names"].as_u64() >= Some(3) && healing["links"].as_u64() >= Some(2), "{healing}");
        assert_eq!((&healing["learning"], &healing["quarantined"]), (&false.into(), &0.into()), "{healing}");
        let shown = gate.command(&["status"]);
        assert!(
            String::from_utf8_lossy(&shown.stdout).contains("in the vault, 0 in quarantine"),
            "{shown:?}"
        );
        if healing["unheld"] == 0 {
            return eprintln!("this filesystem shares blocks: nothing is too large");
        }
        let unheld = &gate.status()["unheld"];
        assert_eq!(unheld[0]["path"].as_str(), large.to_str(), "{unheld}");
        for (command, before) in [("status", "UNHELD"), ("doctor", "could not put back")] {
            let shown = gate.command(&[command]);
            let text = String::from_utf8_lossy(&shown.stdout);
            let (_, after) = text.split_once(before).expect("a list");
            assert!(after.contains("tree/large: the file is too large to copy"), "{text}");
        }
    });
}
