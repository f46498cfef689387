//! Policy text with its name, places in it, and the bundle that a restarted worker gets it back from.

use thiserror::Error;

/// One policy file, held in memory so that a restarted worker needs no file system to come up again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Its path as given, or `<built-in>`.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// Bytes of a [`SourceFile::text`]; `start..end`, either may lie at the end of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// The first byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// A span from byte offsets; what exceeds 32 bits is cut to the largest offset.
    pub fn new(start: usize, end: usize) -> Self {
        let cut = |offset| u32::try_from(offset).unwrap_or(u32::MAX);
        Self { start: cut(start), end: cut(end) }
    }
}

/// Where lines start: offsets become lines by binary search.
#[derive(Debug, Clone)]
pub struct LineIndex {
    starts: Vec<u32>,
}

/// A place as a person counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'s> {
    /// 1-based.
    pub line: u32,
    /// 1-based, in characters.
    pub column: u32,
    /// The whole line, without its end.
    pub text: &'s str,
    /// Bytes of `text` that a span covers; within `text`, on character boundaries.
    pub start: usize,
    /// End of those bytes.
    pub end: usize,
}

impl LineIndex {
    /// Indexes `text`.
    pub fn new(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0).chain(ends.map(|(at, _)| Span::new(at + 1, 0).start)).collect();
        Self { starts }
    }

    /// The place of `span` in the `text` that was indexed; a span of several lines is cut to its first.
    pub fn place<'s>(&self, text: &'s str, span: Span) -> Place<'s> {
        let start = floor_boundary(text, span.start as usize);
        let line = self.starts.partition_point(|first| *first as usize <= start).max(1);
        let first = self.starts.get(line - 1).map_or(0, |first| *first as usize).min(start);
        let rest = text.get(first..).unwrap_or_default();
        let whole = rest.split('\n').next().unwrap_or_default();
        let whole = whole.strip_suffix('\r').unwrap_or(whole);
        let from = floor_boundary(whole, start - first);
        let to = floor_boundary(whole, (span.end as usize).saturating_sub(first)).max(from);
        let column = whole.get(..from).map_or(0, |before| before.chars().count());
        Place { line: line as u32, column: column as u32 + 1, text: whole, start: from, end: to }
    }
}

fn floor_boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// What is wrong with a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BundleError {
    /// Not written by [`encode_bundle`] of this version.
    #[error("not a policy bundle of this version")]
    Magic,
    /// Cut off.
    #[error("the policy bundle ends early")]
    Short,
    /// Text that is no text.
    #[error("the policy bundle holds text that is not UTF-8")]
    Utf8,
    /// More than was announced.
    #[error("the policy bundle has bytes after its end")]
    Trailing,
}

const BUNDLE_MAGIC: &[u8; 8] = b"WGPOLS\x00\x01";

/// The sources as bytes: magic, then name and text of each, all with their length (u64, little endian).
pub fn encode_bundle(sources: &[SourceFile]) -> Vec<u8> {
    let length: usize = sources.iter().map(|source| source.name.len() + source.text.len() + 16).sum();
    let mut bytes = Vec::with_capacity(BUNDLE_MAGIC.len() + 8 + length);
    bytes.extend_from_slice(BUNDLE_MAGIC);
    bytes.extend_from_slice(&(sources.len() as u64).to_le_bytes());
    for source in sources {
        for text in [&source.name, &source.text] {
            bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

/// The sources that [`encode_bundle`] wrote.
pub fn decode_bundle(bytes: &[u8]) -> Result<Vec<SourceFile>, BundleError> {
    let mut rest = bytes.strip_prefix(BUNDLE_MAGIC.as_slice()).ok_or(BundleError::Magic)?;
    let count = take_length(&mut rest)?;
    let mut sources = Vec::new();
    for _ in 0..count {
        let name = take_text(&mut rest)?;
        let text = take_text(&mut rest)?;
        sources.push(SourceFile { name, text });
    }
    if rest.is_empty() { Ok(sources) } else { Err(BundleError::Trailing) }
}

fn take_length(rest: &mut &[u8]) -> Result<u64, BundleError> {
    let (length, after) = rest.split_first_chunk::<8>().ok_or(BundleError::Short)?;
    *rest = after;
    Ok(u64::from_le_bytes(*length))
}

fn take_text(rest: &mut &[u8]) -> Result<String, BundleError> {
    let length = usize::try_from(take_length(rest)?).map_err(|_| BundleError::Short)?;
    let (text, after) = rest.split_at_checked(length).ok_or(BundleError::Short)?;
    *rest = after;
    String::from_utf8(text.to_vec()).map_err(|_| BundleError::Utf8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn places_at_the_edges() {
        let text = "a\r\nbé\n";
        let lines = LineIndex::new(text);
        let at = |start, end| {
            let place = lines.place(text, Span::new(start, end));
            (place.line, place.column, place.text)
        };
        assert_eq!(at(0, 1), (1, 1, "a"));
        assert_eq!(at(5, 5), (2, 2, "bé"), "inside a character");
        assert_eq!(at(7, 7), (3, 1, ""), "end of file");
        assert_eq!(at(usize::MAX, usize::MAX), (3, 1, ""));
        assert_eq!(LineIndex::new("").place("", Span::new(3, 9)).line, 1);
    }

    proptest! {
        #[test]
        fn a_bundle_comes_back(files in prop::collection::vec((".*", "(?s).*"), 0..5)) {
            let sources: Vec<_> = files.into_iter().map(|(name, text)| SourceFile { name, text }).collect();
            prop_assert_eq!(decode_bundle(&encode_bundle(&sources)), Ok(sources));
        }

        #[test]
        fn a_broken_bundle_is_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..80), magic: bool) {
            if magic {
                bytes.splice(0..0, *BUNDLE_MAGIC);
            }
            let _ = decode_bundle(&bytes);
        }
    }
}
