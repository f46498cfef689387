//! What is the same for every record: the machine, the boot, and the container the gate runs in.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;

/// A container id, as every runtime on Linux writes it into the cgroup path: 32 bytes in hexadecimal.
const CONTAINER_ID_DIGITS: usize = 64;

/// Where the container belongs, in `KubeArmor`'s terms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// The kind, for example `Deployment`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// The container the gate runs in. Every text is empty where it is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Name.
    pub name: String,
    /// Image, with tag and digest.
    pub image: String,
    /// Kubernetes pod.
    pub pod: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Kubernetes workload.
    pub owner: Option<Owner>,
}

/// Given to the logger at start. Every text is empty where it is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// `/proc/sys/kernel/hostname`.
    pub hostname: String,
    /// The cluster, for `KubeArmor`'s format.
    pub cluster: String,
    /// From `--label`.
    pub labels: BTreeMap<String, String>,
    /// `None`: the gate runs on the host.
    pub container: Option<Container>,
}

impl Context {
    /// Of this machine and process. The Kubernetes part comes from the environment, where the downward API
    /// puts it: `WRITEGATE_CLUSTER`, `WRITEGATE_NAMESPACE`, `WRITEGATE_POD`, `WRITEGATE_CONTAINER`,
    /// `WRITEGATE_IMAGE`, `WRITEGATE_OWNER` (`Deployment/mysql`), `WRITEGATE_NODE` (else the host name).
    pub fn of_this_place(labels: BTreeMap<String, String>) -> Self {
        let kernel = |name: &str| trimmed(&format!("/proc/sys/kernel/{name}"));
        let var = |name: &str| env::var(name).unwrap_or_default();
        let own_id = own_container_id();
        let container = Container {
            id: own_id.unwrap_or_default(),
            name: var("WRITEGATE_CONTAINER"),
            image: var("WRITEGATE_IMAGE"),
            pod: var("WRITEGATE_POD"),
            namespace: var("WRITEGATE_NAMESPACE"),
            owner: var("WRITEGATE_OWNER")
                .split_once('/')
                .map(|(kind, name)| Owner { kind: kind.to_owned(), name: name.to_owned() }),
        };
        let inside = container != Container::default()
            || ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| Path::new(mark).exists());
        let node = var("WRITEGATE_NODE");
        Self {
            boot_id: kernel("random/boot_id"),
            hostname: if node.is_empty() { kernel("hostname") } else { node },
            cluster: var("WRITEGATE_CLUSTER"),
            labels,
            container: inside.then_some(container),
        }
    }

    /// Whether the labels and the container are those of a subject with this `/proc/<pid>/cgroup`: not when
    /// both ids are known and differ.
    fn covers(&self, subject_id: Option<&str>) -> bool {
        let own = self.container.as_ref().map(|container| container.id.as_str()).filter(|id| !id.is_empty());
        match (own, subject_id) {
            (Some(own), Some(subject)) => own == subject,
            _ => true,
        }
    }

    /// What is known of the container of a subject with this `/proc/<pid>/cgroup`; `None`: it is on the host.
    pub fn container_of<'a>(&'a self, cgroup: &'a [u8]) -> Option<Place<'a>> {
        let id = container_id(cgroup);
        if !self.covers(id) {
            return Some(Place { id, container: None, labels: None });
        }
        let container = self.container.as_ref();
        let labels = (!self.labels.is_empty()).then_some(&self.labels);
        let nameless = container.is_none_or(|container| *container == Container::default());
        if id.is_none() && nameless && labels.is_none() {
            return None;
        }
        let own_id = container.map(|container| container.id.as_str()).filter(|id| !id.is_empty());
        Some(Place { id: id.or(own_id), container, labels })
    }
}

/// The container of one subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// Its id.
    pub id: Option<&'a str>,
    /// It is the gate's own, of which more is known.
    pub container: Option<&'a Container>,
    /// The labels of the place, never empty.
    pub labels: Option<&'a BTreeMap<String, String>>,
}

fn trimmed(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// The innermost container id in `/proc/<pid>/cgroup`: `docker-<id>.scope`, `cri-containerd-<id>.scope`,
/// `libpod-<id>.scope`, `crio-<id>`, `/docker/<id>`, `/kubepods/…/<id>`. The monitor process of a container
/// (`crio-conmon-<id>`) is not in it.
pub fn container_id(cgroup: &[u8]) -> Option<&str> {
    let inside = |line: &&[u8]| !line.windows(7).any(|part| part == b"conmon-");
    cgroup.split(|&byte| byte == b'\n').filter(inside).find_map(last_id)
}

/// The last run of exactly 64 hexadecimal digits that stands alone.
fn last_id(line: &[u8]) -> Option<&str> {
    line.split(|byte| !byte.is_ascii_alphanumeric())
        .rev()
        .find(|word| word.len() == CONTAINER_ID_DIGITS && word.iter().all(u8::is_ascii_hexdigit))
        .and_then(|word| std::str::from_utf8(word).ok())
}

/// By the cgroup, else (in a cgroup namespace, where the path is `/`) by the files that runtimes mount over
/// `/etc/hostname` from a directory named after the container.
fn own_container_id() -> Option<String> {
    let cgroup = fs::read("/proc/self/cgroup").unwrap_or_default();
    if let Some(id) = container_id(&cgroup) {
        return Some(id.to_owned());
    }
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let hostname = |line: &&[u8]| line.split(|&byte| byte == b' ').nth(4) == Some(b"/etc/hostname");
    let line = mounts.split(|&byte| byte == b'\n').find(hostname)?;
    last_id(line).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "b75628d4225b8071d5795da342cf2a5c03b1d67b22b40016697fcd17a0db20e4";
    const B: &str = "20575ecebe6216036d25dab5903808211f1e9ba63dc7825ac20cb975e34cfcae";

    #[test]
    fn every_runtime_s_cgroup_shows_the_id() {
        for (before, after) in [
            ("0::/system.slice/docker-", ".scope\n"),
            ("0::/kubepods.slice/kubepods-podaa.slice/cri-containerd-", ".scope\n"),
            ("0::/machine.slice/libpod-", ".scope/container\n"),
            ("12:pids:/docker/", "\n11:cpu:/\n"),
            ("0::/kubepods/besteffort/pod1b2c/", "\n"),
            ("0::/kubepods.slice/crio-", ".scope\n"),
            ("0::/docker/20575ecebe6216036d25dab5903808211f1e9ba63dc7825ac20cb975e34cfcae/kubelet/", ""),
        ] {
            let cgroup = format!("{before}{A}{after}");
            assert_eq!(container_id(cgroup.as_bytes()), Some(A), "{cgroup}");
        }
        for cgroup in ["", "0::/\n", "0::/user.slice/user-0.slice/session-1.scope\n"] {
            assert_eq!(container_id(cgroup.as_bytes()), None, "{cgroup}");
        }
        assert_eq!(container_id(format!("0::/crio-conmon-{A}.scope").as_bytes()), None);
        assert_eq!(container_id(format!("0::/docker/{A}0").as_bytes()), None);
    }

    #[test]
    fn labels_are_not_given_to_another_container() {
        let labels: BTreeMap<_, _> = [("app".to_owned(), "mysql".to_owned())].into();
        let container = Container { id: A.to_owned(), name: "mysql".to_owned(), ..Container::default() };
        let inside = Context { labels: labels.clone(), container: Some(container), ..Context::default() };
        let own = inside.container_of(b"0::/\n").unwrap();
        assert_eq!((own.id, own.labels, own.container.is_some()), (Some(A), Some(&labels), true));
        let cgroup = format!("0::/docker/{B}\n");
        let other = inside.container_of(cgroup.as_bytes()).unwrap();
        assert_eq!(other, Place { id: Some(B), container: None, labels: None });
        let host = Context::default();
        assert_eq!(host.container_of(b"0::/\n"), None);
        assert_eq!(host.container_of(cgroup.as_bytes()).unwrap().id, Some(B));
    }
}
