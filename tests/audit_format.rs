//! Both formats: golden lines, and hostile bytes that must come back as they went in.

mod audit_support;

use audit_support::{CONTAINER, fill, host, pod, snapshot};
use proptest::prelude::*;
use serde_json::{Value, json};
use writegate::access::{Access, Mutation};
use writegate::audit::context::Context;
use writegate::audit::logger::Format;
use writegate::audit::record::{Kind, Record, TEXT_BYTES, What};

fn line(format: Format, record: &Record, context: &Context) -> String {
    let mut out = Vec::new();
    format.encode(record, 7, context, &mut out).unwrap();
    let line = String::from_utf8(out).unwrap();
    assert!(line.ends_with('\n') && line.lines().count() == 1, "{line:?}");
    assert!(!line.trim_end().contains(['\u{85}', '\u{2028}', '\u{2029}', '\u{9b}']));
    line
}

fn value(format: Format, record: &Record, context: &Context) -> Value {
    serde_json::from_str(&line(format, record, context)).unwrap()
}

fn unhex(value: &Value) -> Vec<u8> {
    let digits = value.as_str().unwrap();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn native_golden_line() {
    let mut record = Record::default();
    fill(&mut record, &snapshot(1));
    let expected = concat!(
        r#"{"seq":7,"time":"2023-10-03T06:56:50.829165004Z","boot_id":"8e0ad0ff-6d0f-4b59-9f4c-3a6e6e8a2b11","#,
        r#""verdict":"deny","access":"create","path":"/usr/sbin/file","#,
        r#""object":{"dev":64769,"ino":1234,"kind":"file"},"#,
        r#""policy":"harden-mysql-file-integrity-monitoring","severity":1,"tags":["NIST","NIST_800-53_AU-2"],"#,
        r#""message":"Detected and prevented compromise to File integrity","#,
        r#""subject":{"pid":16462,"tid":16463,"ppid":16435,"uid":0,"auid":-1,"exe":"/usr/bin/touch","#,
        r#""comm":"touch","cmdline":"touch file","cwd":"/usr/sbin","parent_exe":"/bin/bash","#,
        r#""ancestors":[{"pid":16435,"comm":"bash","exe":"/bin/bash"}]},"#,
        r#""syscall":"openat","flags":"O_WRONLY|O_CREAT|O_NOCTTY|O_NONBLOCK","#,
        r#""reason":"the policy does not permit new entries","rolled_back":true,"latency_us":41.25}"#,
        "\n"
    );
    assert_eq!(line(Format::Native, &record, &host()), expected);
}

#[test]
fn kubearmor_golden_line() {
    let mut record = Record::default();
    fill(&mut record, &snapshot(1));
    let expected = json!({
        "Timestamp": 1_696_316_210, "UpdatedTime": "2023-10-03T06:56:50.829165Z", "Seq": 7,
        "ClusterName": "aditya", "HostName": "aditya", "NamespaceName": "wordpress-mysql",
        "Owner": { "Ref": "Deployment", "Name": "mysql", "Namespace": "wordpress-mysql" },
        "PodName": "mysql-74775b4bf4-65nqf", "Labels": "app=mysql", "ContainerID": CONTAINER,
        "ContainerName": "mysql", "ContainerImage": "docker.io/library/mysql:5.6",
        "HostPPID": 16435, "HostPID": 16462, "PPID": 16435, "PID": 16462, "UID": 0,
        "ParentProcessName": "/bin/bash", "ProcessName": "/usr/bin/touch",
        "PolicyName": "harden-mysql-file-integrity-monitoring", "Severity": "1",
        "Tags": "NIST,NIST_800-53_AU-2", "ATags": ["NIST", "NIST_800-53_AU-2"],
        "Message": "Detected and prevented compromise to File integrity", "Type": "MatchedPolicy",
        "Source": "/usr/bin/touch file", "Operation": "File", "Resource": "/usr/sbin/file",
        "Cwd": "/usr/sbin", "Data": "syscall=SYS_OPENAT flags=O_WRONLY|O_CREAT|O_NOCTTY|O_NONBLOCK rolled_back=true",
        "Enforcer": "writegate", "Action": "Block", "Result": "Operation not permitted"
    });
    assert_eq!(value(Format::KubeArmor, &record, &pod()), expected);
}

#[test]
fn a_host_without_labels_is_a_host_policy_match() {
    let mut record = Record::default();
    fill(&mut record, &snapshot(1));
    record.kind = Kind::Audit;
    record.syscall = -1;
    record.flags = None;
    record.rolled_back = None;
    let alert = value(Format::KubeArmor, &record, &host());
    assert_eq!(alert["Type"], "MatchedHostPolicy");
    assert_eq!((&alert["Action"], &alert["Result"]), (&json!("Audit"), &json!("Passed")));
    assert_eq!(alert["Data"], "access=create");
    for absent in ["PodName", "Labels", "ContainerID", "ClusterName", "Owner", "NamespaceName"] {
        assert!(alert.get(absent).is_none(), "{absent}");
    }
    let native = value(Format::Native, &record, &host());
    for absent in ["syscall", "flags", "rolled_back", "container", "count", "alias", "response", "mutation"] {
        assert!(native.get(absent).is_none(), "{absent}");
    }
}

#[test]
fn a_container_is_named_by_its_cgroup() {
    let mut record = Record::default();
    fill(&mut record, &snapshot(1));
    record.subject.cgroup =
        record.push_text(format!("0::/system.slice/docker-{CONTAINER}.scope\n").as_bytes());
    let native = value(Format::Native, &record, &host());
    assert_eq!(native["container"], json!({ "id": CONTAINER }));
    let native = value(Format::Native, &record, &pod());
    assert_eq!(native["container"]["labels"], json!({ "app": "mysql" }));
    assert_eq!(native["container"]["pod"], "mysql-74775b4bf4-65nqf");
    assert_eq!(value(Format::KubeArmor, &record, &host())["Type"], "MatchedPolicy");
}

#[test]
fn records_about_the_gate_have_no_subject() {
    let mut record = Record::default();
    record.kind = Kind::Lost;
    record.count = 12;
    record.since_ns = 1_000_000_000;
    record.time_ns = 2_000_000_000;
    record.detail = record.push_text(b"no room");
    record.snapshot = Some(snapshot(1));
    record.policy = Some(0);
    let native = value(Format::Native, &record, &host());
    assert_eq!((&native["verdict"], &native["count"]), (&json!("lost"), &json!(12)));
    assert_eq!(native["since"], "1970-01-01T00:00:01.000000000Z");
    assert_eq!(native["policy"], "harden-mysql-file-integrity-monitoring");
    assert!(native.get("subject").is_none() && native.get("object").is_none());
    let alert = value(Format::KubeArmor, &record, &pod());
    assert_eq!((&alert["Type"], &alert["Operation"]), (&json!("SystemEvent"), &json!("writegate")));
    assert_eq!(alert["Data"], "event=lost count=12 since=1970-01-01T00:00:01.000000Z");
    assert_eq!(alert["Message"], "no room");
    assert!(alert.get("Action").is_none() && alert.get("PID").is_none());
}

#[test]
fn a_healed_mutation_shows_what_was_put_back() {
    let mut record = Record::default();
    fill(&mut record, &snapshot(1));
    record.kind = Kind::Healed;
    record.what = What::Mutation(Mutation::Unlink);
    record.response.healed_ns = 700_500;
    record.response.quarantine = record.push_text(b"/var/lib/writegate/quarantine/1");
    record.response.blake3 = Some([0xab; 32]);
    let native = value(Format::Native, &record, &host());
    assert_eq!(native["mutation"], "unlink");
    assert!(native.get("access").is_none());
    let sum = "ab".repeat(32);
    let response =
        json!({ "healed_us": 700.5, "quarantine": "/var/lib/writegate/quarantine/1", "blake3": sum });
    assert_eq!(native["response"], response);
    assert_eq!(value(Format::KubeArmor, &record, &host())["Result"], "Restored");
}

#[test]
fn an_empty_record_is_still_a_line() {
    let record = Record::default();
    for format in [Format::Native, Format::KubeArmor] {
        line(format, &record, &Context::default());
    }
    let native = value(Format::Native, &record, &Context::default());
    assert_eq!(native, json!({ "seq": 7, "time": "1970-01-01T00:00:00.000000000Z", "verdict": "deny" }));
}

#[test]
fn a_cut_command_line_says_so() {
    let mut record = Record::default();
    fill(&mut record, &snapshot(1));
    record.subject.cmdline = record.push_text(b"sh\0-c\0echo a\xff b\0\0");
    record.subject.cmdline_cut = true;
    let subject = &value(Format::Native, &record, &host())["subject"];
    assert_eq!(subject["cmdline"], "sh -c echo a\u{fffd} b ");
    assert_eq!(subject["cmdline_cut"], true);
    assert_eq!(subject["argv"], json!(["sh", "-c", "echo a\u{fffd} b", ""]));
    assert_eq!(unhex(&subject["cmdline_hex"]), b"sh\0-c\0echo a\xff b\0\0");
    record.subject.cmdline = writegate::audit::record::Span::default();
    record.subject.cmdline_cut = false;
    let subject = &value(Format::Native, &record, &host())["subject"];
    assert!(["cmdline", "argv", "cmdline_hex", "cmdline_cut"].iter().all(|name| subject.get(name).is_none()));
    assert_eq!(value(Format::KubeArmor, &record, &host())["Source"], "/usr/bin/touch");
}

#[test]
fn the_longest_texts_fit() {
    let mut record = Record::default();
    let long = [b'/'].repeat(4_096);
    record.path = record.push_text(&long);
    record.subject.exe = record.push_text(&long);
    record.subject.cmdline = record.push_text(&[0x01].repeat(TEXT_BYTES));
    let native = value(Format::Native, &record, &host());
    assert_eq!(native["path"].as_str().unwrap().len(), 4_096);
    assert_eq!(native["subject"]["cmdline"].as_str().unwrap().len(), TEXT_BYTES - 2 * 4_096);
}

/// What a reader has to do to get the exact bytes.
fn bytes(object: &Value, name: &str, hex_name: &str) -> Vec<u8> {
    match object.get(hex_name) {
        Some(hex) => unhex(hex),
        None => object.get(name).map_or(Vec::new(), |text| text.as_str().unwrap().as_bytes().to_vec()),
    }
}

fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..20),
        any::<String>().prop_map(String::into_bytes),
        Just(b"\n{\"seq\":1}\n".to_vec()),
        Just("\u{2028}\u{85}\u{9b}31m\u{202e}".as_bytes().to_vec()),
        Just(b"\"\\\"\\u0000\\n".to_vec()),
    ];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn hostile_bytes_come_back_as_they_went_in(path in hostile(), exe in hostile(), cmdline in hostile(),
                                               cwd in hostile(), comm in hostile(), flags: u64, syscall: i32) {
        let mut record = Record::default();
        record.subject.pid = 1;
        record.what = What::Access(Access::Write);
        record.path = record.push_text(&path);
        record.subject.exe = record.push_text(&exe);
        record.subject.cmdline = record.push_text(&cmdline);
        record.subject.cwd = record.push_text(&cwd);
        record.subject.comm = record.push_text(&comm);
        record.subject.cgroup = record.push_text(&cwd);
        record.flags = Some(flags);
        record.syscall = syscall;

        let native = value(Format::Native, &record, &pod());
        let subject = &native["subject"];
        prop_assert_eq!(bytes(&native, "path", "path_hex"), path.clone());
        prop_assert_eq!(bytes(subject, "exe", "exe_hex"), exe.clone());
        prop_assert_eq!(bytes(subject, "cwd", "cwd_hex"), cwd.clone());
        prop_assert_eq!(bytes(subject, "comm", "comm_hex"), comm.clone());
        if let Some(hex) = subject.get("cmdline_hex") {
            prop_assert_eq!(unhex(hex), cmdline.clone());
        } else if !cmdline.is_empty() {
            let argv: Vec<_> = match subject.get("argv") {
                Some(argv) => argv.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect(),
                None => subject["cmdline"].as_str().unwrap().split(' ').collect(),
            };
            let raw = cmdline.strip_suffix(b"\0").unwrap_or(&cmdline);
            prop_assert_eq!(argv.join("\0").into_bytes(), raw.to_vec());
        }

        let alert = value(Format::KubeArmor, &record, &pod());
        prop_assert_eq!(bytes(&alert, "Resource", "ResourceHex"), path);
        prop_assert_eq!(bytes(&alert, "ProcessName", "ProcessNameHex"), exe);
        for record in [&native, &alert] {
            let shown = writegate::audit::tail::human(record);
            prop_assert!(!shown.contains(writegate::audit::text::is_unprintable), "{}", shown);
        }
    }
}
