//! No text, however broken, brings the loaders or the rendering down.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use writegate::policy::check::check;
use writegate::policy::filesystem::source_from_bytes;
use writegate::policy::resolver::{Kind, PathResolver};

struct Empty;

impl PathResolver for Empty {
    fn canonical(&self, _: &Path) -> Option<PathBuf> {
        None
    }

    fn kind(&self, _: &Path) -> Option<Kind> {
        None
    }

    fn is_script(&self, _: &Path) -> bool {
        false
    }
}

/// Reads it in both dialects and renders whatever was found.
fn digest(bytes: &[u8]) {
    for name in ["soup.toml", "soup.yaml"] {
        let found = match source_from_bytes(name, bytes.to_vec()) {
            Ok(source) => check(&[source], &BTreeMap::new(), &Empty),
            Err(found) => vec![found],
        };
        for finding in found {
            assert!(finding.line > 0 && finding.column > 0);
            assert!(!finding.to_string().is_empty());
        }
    }
}

/// Pieces that policies are made of, in an order that they are not.
fn pieces() -> impl Strategy<Value = String> {
    let words = [
        "[[policy]]\n",
        "[[writer]]\n",
        "[policy]\n",
        "name = ",
        "paths = ",
        "exe = ",
        "severity = ",
        "\"/a/\"",
        "'b'",
        "[",
        "]",
        "{",
        "}",
        "=",
        ",",
        "\n",
        "\r\n",
        "\t",
        "#",
        "\"\"\"",
        "'''",
        "99999999999999999999",
        "0x1F",
        "1e9",
        "true",
        "1979-05-27",
        "kind: KubeArmorPolicy\n",
        "kind: List\n",
        "metadata:\n  name: x\n",
        "spec:\n",
        "  file:\n",
        "    matchPaths:\n",
        "    - path: /etc/",
        "items:\n",
        "- ",
        ": ",
        "? ",
        "&a ",
        "*a",
        "!!str ",
        "---\n",
        "...\n",
        "| \n",
        "> \n",
        "%YAML 1.2\n",
        "<<: *a",
        "é",
        "日本",
        "\u{feff}",
        "\u{202e}",
        "\0",
        "writers = [\"w\"]\n",
    ];
    prop::collection::vec(prop::sample::select(words.to_vec()), 0..60).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        digest(&bytes);
    }

    #[test]
    fn words(text in pieces()) {
        digest(text.as_bytes());
    }

    #[test]
    fn a_real_policy_with_a_hole(from in 0usize..1200, length in 0usize..40, junk in "(?s).{0,5}") {
        for text in [include_str!("data/kubearmor-fim.yaml"), include_str!("../config/writegate.toml")] {
            let mut bytes = text.as_bytes().to_vec();
            let from = from.min(bytes.len());
            let to = (from + length).min(bytes.len());
            bytes.splice(from..to, junk.bytes());
            digest(&bytes);
        }
    }
}

#[test]
fn deep_nesting_is_refused_without_harm() {
    for open in ["[", "{a=", "- ", "{a: ", "a:\n ", "[[policy]]\npaths = [["] {
        digest(open.repeat(50_000).as_bytes());
    }
}
