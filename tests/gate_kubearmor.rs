//! A `KubeArmor` policy, byte for byte as it was found, and one on a scratch tree.
#![cfg(target_arch = "x86_64")]

mod support;

use std::fs;
use std::process::Command;

use libc::{O_CREAT, O_WRONLY};
use support::{in_lab, raw, refused};

const FOUND: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/kubearmor-fim.yaml");
/// Where the found policy's directories are in a scratch tree.
const DIRECTORIES: [&str; 6] = ["sbin", "usr/bin", "usr/lib", "usr/sbin", "bin", "boot"];

#[test]
fn it_loads_as_it_stands() {
    let run = |arguments: &[&str]| {
        let done = Command::new(env!("CARGO_BIN_EXE_writegate")).args(arguments).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    let checked = run(&["check", FOUND, "--label", "app=mysql"]);
    assert!(checked.contains("1 policy, ") && !checked.contains("error:"), "{checked}");
    let explain = |path: &str, labels: &[&str]| -> serde_json::Value {
        let asked = [&["explain", path, "--json", "--policy", FOUND][..], labels].concat();
        serde_json::from_str(&run(&asked)).unwrap()
    };
    let found = explain("/sbin/file", &["--label", "app=mysql"]);
    assert_eq!(found["verdict"], "deny", "{found}");
    assert_eq!(found["policy"], "harden-mysql-file-integrity-monitoring", "{found}");
    assert_eq!(explain("/sbin/file", &[])["verdict"], "allow", "another container is not meant");
    assert_eq!(explain("/tmp/file", &["--label", "app=mysql"])["verdict"], "allow");
}

#[test]
fn it_guards_its_directories_and_speaks_kubearmor() {
    in_lab(30, |lab| {
        let mut text = fs::read_to_string(FOUND).unwrap();
        for directory in DIRECTORIES {
            fs::create_dir_all(lab.path("tree").join(directory)).unwrap();
            lab.file(&format!("tree/{directory}/tool"), "as it was");
            text =
                text.replace(&format!("dir: /{directory}/"), &lab.here(&format!("dir: @/tree/{directory}/")));
        }
        lab.file("run/policy.yaml", &text);
        let policy = ["--policy", "@/run/policy.yaml", "--audit-format", "kubearmor"];
        {
            let _other = lab.gate_with(&[&policy[..], &["--label", "app=web"]].concat());
            raw::openat(&lab.path("tree/sbin/tool"), O_WRONLY).expect("another container is not meant");
        }
        let gate = lab.gate_with(&[&policy[..], &["--label", "app=mysql"]].concat());
        for directory in DIRECTORIES {
            let directory = lab.path("tree").join(directory);
            refused(raw::openat(&directory.join("tool"), O_WRONLY));
            refused(raw::openat(&directory.join("new"), O_CREAT | O_WRONLY));
            assert!(!directory.join("new").exists());
        }
        raw::openat(&lab.path("free/new"), O_CREAT | O_WRONLY).expect("elsewhere nothing changes");
        let file = lab.path("tree/sbin/file");
        let done = Command::new("touch").arg(&file).output().unwrap();
        assert!(!done.status.success());
        let record = gate.record(|record| record["Resource"] == file.to_str().unwrap());
        let expected = [
            ("PolicyName", "harden-mysql-file-integrity-monitoring"),
            ("Severity", "1"),
            ("Message", "Detected and prevented compromise to File integrity"),
            ("Type", "MatchedPolicy"),
            ("Operation", "File"),
            ("Action", "Block"),
            ("Result", "Operation not permitted"),
            ("Enforcer", "writegate"),
            ("Labels", "app=mysql"),
            ("ProcessName", "/usr/bin/touch"),
            (
                "Tags",
                "NIST,NIST_800-53_AU-2,NIST_800-53_SI-4,MITRE,MITRE_T1036_masquerading,MITRE_T1565_data_manipulation",
            ),
        ];
        for (key, value) in expected {
            assert_eq!(record[key], value, "{key}: {record:#}");
        }
        assert_eq!(record["Source"], format!("/usr/bin/touch {}", file.display()), "{record:#}");
        assert!(record["Data"].as_str().unwrap().starts_with("syscall=SYS_OPENAT flags=O_WRONLY|O_CREAT"));
    });
}
