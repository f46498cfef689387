//! The command line as a person and a script meet it.

mod cli_support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cli_support::{Dir, Done, TestCommand};

const GOOD: &str = "[[policy]]\nname = 'logs'\npaths = ['/var/log/']\nmodification = 'append'\n";
const BAD: &str = "[[policy]]\nname = 'x'\npaths = ['/etc/']\nmodificaton = 'never'\n";

#[test]
fn help_lists_the_commands_that_work_and_no_others() {
    let help = Dir::new().command(&["--help"]).exits(0);
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let (commands, _) = commands.split_once("\n\n").unwrap();
    let names: Vec<_> = commands
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(
        names,
        ["run", "status", "check", "explain", "doctor", "demo", "reload", "audit", "quarantine"]
    );
    let audit = Dir::new().command(&["audit", "--help"]).exits(0);
    assert!(audit.contains("tail") && !audit.contains("verify"), "{audit}");
}

#[test]
fn every_command_explains_itself() {
    for command in ["run", "status", "check", "explain", "doctor", "demo", "reload"] {
        let help = Dir::new().command(&[command, "--help"]).exits(0);
        assert!(help.contains(&format!("Usage: writegate {command}")), "{help}");
        assert!(!help.contains("--attack"), "{help}");
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for arguments in [
        &["nonsense"][..],
        &[],
        &["check"],
        &["explain"],
        &["explain", "/x", "--access", "unknown"],
        &["explain", "/x", "--label", "novalue"],
        &["run", "--threads", "0"],
        &["run", "--threads", "129"],
        &["run", "--mode", "off"],
        &["run", "--audit-format", "xml"],
        &["status", "--wait", "soon"],
        &["audit"],
        &["audit", "verify"],
        &["quarantine"],
        &["quarantine", "show"],
        &["quarantine", "empty"],
    ] {
        let done = Dir::new().command(arguments).run();
        assert_eq!(done.code, 2, "{arguments:?}: {}", done.stderr);
        assert_eq!(done.stdout, "", "{arguments:?}");
    }
}

#[test]
fn check_shows_the_line_and_a_caret() {
    let dir = Dir::new();
    dir.write("p.toml", BAD);
    let text = dir.command(&["check", "p.toml"]).exits(1);
    assert!(text.starts_with("p.toml:4:1: error: "), "{text}");
    assert!(text.contains("4 | modificaton = 'never'\n   | ^^^^^^^^^^^\n"), "{text}");
    assert!(text.contains("help: "), "{text}");
    assert!(text.ends_with("1 file: 1 error, 0 warnings\n"), "{text}");
    let found = dir.command(&["check", "--json", "p.toml"]).json(1);
    assert_eq!(found[0]["line"], 4);
    assert_eq!(found[0]["column"], 1);
    assert_eq!(found[0]["level"], "error");
    assert_eq!(found[0]["file"], "p.toml");
    for key in ["message", "help"] {
        assert!(found[0][key].is_string(), "{found}");
    }
}

#[test]
fn check_of_good_policies_counts_them() {
    let dir = Dir::new();
    dir.write("p.toml", GOOD);
    let text = dir.command(&["check", "."]).exits(0);
    assert_eq!(text, "1 file, 1 policy, 1 path: 0 errors, 0 warnings\n");
    assert_eq!(dir.command(&["check", "p.toml", "--json"]).json(0), serde_json::json!([]));
}

#[test]
fn warnings_alone_are_exit_code_0() {
    let dir = Dir::new();
    dir.write("p.toml", "[[policy]]\nname = 'x'\npaths = ['/usr']\n");
    let text = dir.command(&["check", "p.toml"]).exits(0);
    assert!(text.contains("warning") && text.ends_with("0 errors, 1 warning\n"), "{text}");
}

#[test]
fn check_of_nothing_is_an_error() {
    let text = Dir::new().command(&["check", "none.toml"]).exits(1);
    assert!(text.contains("none.toml:1:1: error: failed to read"), "{text}");
}

#[test]
fn labels_say_which_policies_are_inactive() {
    let dir = Dir::new();
    dir.write(
        "k.yaml",
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata:\n  name: web\nspec:\n  \
         selector:\n    matchLabels:\n      app: web\n  file:\n    matchDirectories:\n    - dir: /etc/\n      \
         recursive: true\n      readOnly: true\n  action: Block\n",
    );
    let text = dir.command(&["check", "k.yaml"]).exits(0);
    assert!(text.contains("1 inactive") && text.contains("inactive: "), "{text}");
    let text = dir.command(&["check", "k.yaml", "--label", "app=web"]).exits(0);
    assert!(text.contains("1 policy, 1 path:") && !text.contains("inactive"), "{text}");
}

#[test]
fn explain_names_policy_verdict_and_reason() {
    let dir = Dir::new();
    dir.write("p.toml", GOOD);
    let asked = ["explain", "/var/log/syslog", "--policy", "p.toml"];
    let text = dir.command(&asked).exits(0);
    assert!(text.starts_with("deny: write of /var/log/syslog\n"), "{text}");
    assert!(text.contains("logs (") && text.contains("prevented"), "{text}");
    let append = dir.command(&[&asked[..], &["--access", "append", "--json"]].concat()).json(0);
    assert_eq!(append["verdict"], "allow");
    assert_eq!(append["enforcement"], "none");
    assert_eq!(append["policy"], "logs");
    let other = dir.command(&["explain", "/home/x", "--policy", "p.toml", "--json"]).json(0);
    assert_eq!(other["policy"], serde_json::Value::Null);
    for key in ["path", "access", "verdict", "policy", "reason", "enforcement"] {
        assert!(other.get(key).is_some(), "{other}");
    }
}

#[test]
fn explain_says_what_is_put_back() {
    let answer = Dir::new()
        .command(&["explain", "/srv/x", "--protect", "/srv/", "--access", "unlink", "--json"])
        .json(0);
    assert_eq!((answer["verdict"].as_str(), answer["enforcement"].as_str()), (Some("deny"), Some("healed")));
}

#[test]
fn explain_takes_relative_paths() {
    let dir = Dir::new();
    std::fs::create_dir(dir.path().join("tree")).unwrap();
    let answer = dir.command(&["explain", "tree/x", "--protect", "tree/", "--json"]).json(0);
    assert_eq!((answer["verdict"].as_str(), answer["policy"].as_str()), (Some("deny"), Some("protect")));
}

#[test]
fn explain_with_a_broken_policy_shows_it_on_stderr() {
    let dir = Dir::new();
    dir.write("p.toml", BAD);
    let done = dir.command(&["explain", "/etc/passwd", "--policy", "p.toml"]).run();
    assert_eq!((done.code, done.stdout.as_str()), (1, ""));
    assert!(done.stderr.contains("p.toml:4:1: error") && done.stderr.contains("\nhelp: "), "{}", done.stderr);
}

#[test]
fn without_a_gate_status_and_reload_say_so() {
    let dir = Dir::new();
    for arguments in [&["status"][..], &["status", "--wait", "0.1"], &["status", "--json"], &["reload"]] {
        let done = dir.command(&[arguments, &["--control", "none.sock"]].concat()).run();
        assert_eq!((done.code, done.stdout.as_str()), (1, ""));
        let lines: Vec<_> = done.stderr.lines().collect();
        assert_eq!(lines.len(), 2, "{}", done.stderr);
        assert!(lines[0].starts_with("error: no gate listens on ") && lines[1].starts_with("help: "));
    }
}

/// Answers every request with `reply`, `after` so many of not being ready.
fn fake_gate(dir: &Dir, after: usize, reply: &'static str) {
    let listener = UnixListener::bind(dir.path().join("control.sock")).unwrap();
    std::thread::spawn(move || {
        for (count, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut request = String::new();
            stream.read_to_string(&mut request).unwrap();
            assert!(request.ends_with("}\n"), "{request}");
            let reply = if count < after { r#"{"ready":false,"mode":"enforce"}"# } else { reply };
            stream.write_all(reply.as_bytes()).unwrap();
        }
    });
}

#[test]
fn status_waits_until_the_gate_is_ready() {
    let dir = Dir::new();
    fake_gate(&dir, 2, r#"{"ready":true,"mode":"enforce","worker_pid":7,"something_new":1}"#);
    let asked = ["status", "--control", "control.sock"];
    let text = dir.command(&asked).exits(1);
    assert!(text.starts_with("writegate is not ready yet"), "{text}");
    let started = Instant::now();
    let status = dir.command(&[&asked[..], &["--wait", "5", "--json"]].concat()).json(0);
    assert!(started.elapsed() < Duration::from_secs(4));
    assert_eq!((status["ready"].as_bool(), status["something_new"].as_i64()), (Some(true), Some(1)));
    assert!(dir.command(&asked).exits(0).contains("worker 7"));
}

#[test]
fn reload_shows_what_the_gate_found() {
    let dir = Dir::new();
    let reply = r#"{"ok":false,"generation":3,"diagnostics":[{"file":"p","line":1,"column":1,"level":"error",
        "message":"m","help":null,"rendered":"p:1:1: error: m\n 1 | x\n   | ^"}]}"#;
    fake_gate(&dir, 0, reply);
    let done = dir.command(&["reload", "--control", "control.sock"]).run();
    assert_eq!(done.code, 1);
    assert!(done.stdout.contains("p:1:1: error: m\n 1 | x\n"), "{}", done.stdout);
    assert!(done.stderr.contains("generation 3 stays in force"), "{}", done.stderr);
}

#[test]
fn audit_tail_shows_records() {
    let dir = Dir::new();
    let record = r#"{"seq":1,"time":"2026-01-01T00:00:00Z","verdict":"deny","access":"write","path":"/x"}"#;
    dir.write("a.jsonl", &format!("{record}\n"));
    let asked = ["audit", "tail", "--audit-log", "a.jsonl"];
    assert_eq!(dir.command(&[&asked[..], &["--json"]].concat()).exits(0), format!("{record}\n"));
    assert!(dir.command(&asked).exits(0).contains("deny write /x"));
    let done = dir.command(&["audit", "tail", "--audit-log", "none.jsonl"]).run();
    assert_eq!((done.code, done.stderr.lines().count()), (1, 2), "{}", done.stderr);
}

#[test]
fn a_quarantine_that_is_not_there_is_empty_and_stays_away() {
    let dir = Dir::new();
    let none = ["--state-dir", "state"];
    assert_eq!(dir.command(&[&["quarantine", "list"][..], &none].concat()).exits(0), "");
    assert_eq!(
        dir.command(&[&["quarantine", "list", "--json"][..], &none].concat()).json(0),
        serde_json::json!([])
    );
    for command in ["show", "release"] {
        let done = dir.command(&[&["quarantine", command, "187f"][..], &none].concat()).run();
        assert_eq!((done.code, done.stdout.as_str()), (1, ""));
        assert!(
            done.stderr.starts_with("error: nothing in the quarantine is called 187f\nhelp: "),
            "{done:?}"
        );
    }
    assert!(!dir.path().join("state").exists());
}

#[test]
fn ctrl_c_ends_follow_with_exit_code_0() {
    let dir = Dir::new();
    dir.write("a.jsonl", "{\"seq\":1,\"verdict\":\"started\"}\n");
    let mut command = dir.command(&["audit", "tail", "--follow", "--audit-log", "a.jsonl"]).0;
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    // What it shows proves that its handler is in place.
    let mut byte = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_reader_that_went_away_is_no_panic_and_changes_no_exit_code() {
    let dir = Dir::new();
    dir.write("p.toml", BAD);
    dir.write("a.jsonl", &"{\"seq\":1,\"verdict\":\"deny\"}\n".repeat(10_000));
    for (arguments, code) in [
        (&["check", "p.toml"][..], 1),
        (&["explain", "/x"], 0),
        (&["--help"], 0),
        (&["audit", "tail", "-n", "9999", "--audit-log", "a.jsonl"], 0),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = dir.command(arguments).0;
        let output =
            command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let dir = Dir::new();
    let mut command = dir.command(&["explain", "/x"]).0;
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = command.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: failed to write to stdout"));
}

/// The binary as a user who may nothing; `None`, loudly, where that cannot be done.
fn unprivileged(dir: &Dir, arguments: &[&str]) -> Option<Done> {
    use std::os::unix::fs::PermissionsExt;
    if !nix::unistd::geteuid().is_root() {
        return Some(dir.command(arguments).run());
    }
    // Where the binary lies may be closed to others.
    let binary = dir.path().join("writegate");
    std::fs::copy(env!("CARGO_BIN_EXE_writegate"), &binary).unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&binary).args(arguments);
    command.current_dir(dir.path()).stdin(Stdio::null());
    match command.output() {
        Err(error) => {
            eprintln!("SKIPPED what a user who may nothing sees: setpriv: {error}");
            None
        }
        Ok(_) => Some(TestCommand(command).run()),
    }
}

#[test]
fn without_permission_the_exit_code_is_3_and_says_what_is_missing() {
    let dir = Dir::new();
    let run = ["run", "--protect", "/nonexistent/", "--control", "c.sock", "--audit-log", "a.jsonl"];
    for arguments in [&run[..], &["doctor"], &["demo"]] {
        let Some(done) = unprivileged(&dir, arguments) else { return };
        assert_eq!(done.code, 3, "{arguments:?}: {}", done.stderr);
        assert!(done.stderr.contains("error: ") && done.stderr.contains("CAP_SYS_ADMIN"), "{}", done.stderr);
        assert!(done.stderr.contains("\nhelp: "), "{}", done.stderr);
    }
    let quarantine = dir.path().join("state/quarantine");
    std::fs::create_dir_all(&quarantine).unwrap();
    std::os::unix::fs::chown(&quarantine, Some(0), Some(0)).unwrap_or_default();
    std::fs::set_permissions(&quarantine, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    if nix::unistd::geteuid().is_root() {
        let done = unprivileged(&dir, &["quarantine", "list", "--state-dir", "state"]).unwrap();
        assert_eq!(done.code, 3, "{done:?}");
    }
    let done = unprivileged(&dir, &["doctor", "--json"]).unwrap();
    let answer: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((done.code, &answer["features"]["cap_sys_admin"]), (3, &serde_json::json!(false)));
    assert!(answer["coverage"].as_array().unwrap().iter().all(|row| row["class"] == "none"), "{answer}");
}

#[test]
fn doctor_says_what_becomes_of_each_change() {
    let done = Dir::new().command(&["doctor", "--json"]).run();
    let answer: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert!(answer["kernel"].as_str().unwrap().starts_with("Linux "));
    assert!(answer["features"].as_object().unwrap().values().all(serde_json::Value::is_boolean));
    let coverage = answer["coverage"].as_array().unwrap();
    assert!(coverage.len() >= 25);
    for row in coverage {
        let class = row["class"].as_str().unwrap();
        assert!(["prevented", "healed", "detected", "none"].contains(&class), "{row}");
        assert!(row["mutation"].is_string() && row["why"].is_string(), "{row}");
    }
}

/// `true`, loudly, where no gate can run.
fn no_gate_can_run() -> bool {
    let cannot = Dir::new().command(&["doctor"]).run().code == 3;
    if cannot {
        eprintln!("SKIPPED: no gate can run here; see `writegate doctor`");
    }
    cannot
}

#[test]
fn demo_prevents_what_it_says_and_leaves_nothing_behind() {
    if no_gate_can_run() {
        return;
    }
    let dir = Dir::new();
    let mut command = dir.command(&["demo", "--json"]);
    command.0.env("TMPDIR", dir.path());
    let done = command.run();
    let answer: serde_json::Value = serde_json::from_str(&done.stdout).expect("an answer");
    let attacks = answer["attacks"].as_array().unwrap();
    let wrong: Vec<_> = attacks.iter().filter(|attack| attack["ok"] == false).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!((done.code, &answer["ok"]), (0, &true.into()), "{}", done.stderr);
    let prevented = attacks.iter().filter(|attack| attack["class"] == "prevented");
    assert!(prevented.count() >= 15, "{answer:#}");
    let healed = attacks.iter().filter(|attack| attack["class"] == "healed" && attack["skipped"] == false);
    let times: Vec<_> = healed.map(|attack| attack["healed_ms"].as_f64().unwrap()).collect();
    assert!(times.len() >= 10, "{answer:#}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn demo_that_is_interrupted_ends_its_gate_and_cleans_up() {
    if no_gate_can_run() {
        return;
    }
    let dir = Dir::new();
    let mut command = dir.command(&["demo"]).0;
    let mut child =
        command.env("TMPDIR", dir.path()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Its gate is up when there is a socket.
    let until = Instant::now() + Duration::from_secs(10);
    let socket = || {
        let scratch = std::fs::read_dir(dir.path()).unwrap().flatten();
        scratch.map(|entry| entry.path().join("socket")).find(|socket| socket.exists())
    };
    let socket = loop {
        match socket() {
            Some(socket) => break socket,
            None if Instant::now() < until => std::thread::sleep(Duration::from_millis(1)),
            None => panic!("no gate"),
        }
    };
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(std::os::unix::net::UnixStream::connect(socket).is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
