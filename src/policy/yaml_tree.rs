//! YAML text to [`Node`]s: the part of YAML that policies are made of, with every place kept.
//!
//! Built on the event parser of serde-saphyr instead of its `Deserialize`, so that one pass can report every
//! wrong type and every unknown key, not the first.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Marker, Parser, ScalarStyle, Span as ParserSpan, Tag};

use super::node::{Key, Node, Value};
use super::source::Span;

/// Nodes of one file that are there because of an anchor or an alias: a "billion laughs" stops here, and so does
/// nesting by alias, which the parser's own limit on depth does not see.
const ALIASED_NODES_MAX: usize = 10_000;
/// Keys of one mapping: they are compared with each other.
const KEYS_MAX: usize = 512;

/// Where and why it is not YAML, or not YAML that a policy is made of.
pub type YamlError = (Span, String);

enum Frame<'s> {
    List { items: Vec<Node<'s>>, span: Span, anchor: usize },
    Table { entries: Vec<(Key<'s>, Node<'s>)>, key: Option<Key<'s>>, span: Span, anchor: usize },
}

#[derive(Default)]
struct Builder<'s> {
    frames: Vec<Frame<'s>>,
    /// A completed node with the number of nodes in it.
    anchors: HashMap<usize, (Node<'s>, usize)>,
    documents: Vec<Node<'s>>,
    /// Nodes made by anchors and aliases so far.
    aliased: usize,
}

/// The documents of `text`; empty documents are left out.
pub fn parse(text: &str) -> Result<Vec<Node<'_>>, YamlError> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| (at(*error.marker(), text), error.info()))?;
        builder.take(event, span_of(span))?;
    }
    builder.documents.retain(|document| document.value != Value::Null);
    Ok(builder.documents)
}

fn at(marker: Marker, text: &str) -> Span {
    let offset = marker.byte_offset().unwrap_or(text.len());
    Span::new(offset, offset)
}

fn span_of(span: ParserSpan) -> Span {
    let start = span.start.byte_offset().unwrap_or(0);
    Span::new(start, span.end.byte_offset().unwrap_or(start))
}

impl<'s> Builder<'s> {
    fn take(&mut self, event: Event<'s>, span: Span) -> Result<(), YamlError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                if let Some(Frame::Table { key: key @ None, entries, .. }) = self.frames.last_mut() {
                    if entries.len() == KEYS_MAX {
                        return Err((span, format!("a mapping has more than {KEYS_MAX} keys")));
                    }
                    if entries.iter().any(|(earlier, _)| earlier.text == text) {
                        return Err((span, format!("the key `{text}` is given twice")));
                    }
                    *key = Some(Key { span, text });
                    return Ok(());
                }
                let value = scalar(text, style, tag.as_deref());
                self.complete(Node { span, value }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.open(Frame::List { items: Vec::new(), span, anchor }, span)
            }
            Event::MappingStart(_, anchor, _) => {
                self.open(Frame::Table { entries: Vec::new(), key: None, span, anchor }, span)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.frames.pop() {
                Some(Frame::List { items, span, anchor }) => {
                    self.complete(Node { span, value: Value::List(items) }, anchor)
                }
                Some(Frame::Table { entries, span, anchor, .. }) => {
                    self.complete(Node { span, value: Value::Table(entries) }, anchor)
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor) else {
                    return Err((span, "an alias stands inside what it stands for".to_owned()));
                };
                self.aliased += size;
                if self.aliased > ALIASED_NODES_MAX {
                    return Err((
                        span,
                        format!("the aliases expand to more than {ALIASED_NODES_MAX} values"),
                    ));
                }
                let value = node.value.clone();
                self.complete(Node { span, value }, 0)
            }
            Event::DocumentEnd => {
                self.anchors.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, frame: Frame<'s>, span: Span) -> Result<(), YamlError> {
        if let Some(Frame::Table { key: None, .. }) = self.frames.last() {
            return Err((span, "a key must be a plain word".to_owned()));
        }
        self.frames.push(frame);
        Ok(())
    }

    fn complete(&mut self, node: Node<'s>, anchor: usize) -> Result<(), YamlError> {
        if anchor != 0 {
            let size = count(&node);
            self.aliased += size;
            if self.aliased > ALIASED_NODES_MAX {
                return Err((node.span, format!("anchors hold more than {ALIASED_NODES_MAX} values")));
            }
            self.anchors.insert(anchor, (node.clone(), size));
        }
        match self.frames.last_mut() {
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Table { entries, key, .. }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => return Err((node.span, "a key must be a plain word".to_owned())),
            },
            None => self.documents.push(node),
        }
        Ok(())
    }
}

fn count(node: &Node<'_>) -> usize {
    match &node.value {
        Value::List(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Table(entries) => 1 + entries.iter().map(|(_, node)| count(node)).sum::<usize>(),
        _ => 1,
    }
}

/// The core schema, except that floats stay text: no key of a policy takes one.
fn scalar<'s>(text: Cow<'s, str>, style: ScalarStyle, tag: Option<&Tag>) -> Value<'s> {
    if style != ScalarStyle::Plain || tag.is_some_and(|tag| tag.suffix() == "str") {
        return Value::Text(text);
    }
    match text.as_ref() {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Boolean(true),
        "false" | "False" | "FALSE" => Value::Boolean(false),
        digits => match digits.parse() {
            Ok(integer) => Value::Integer(integer),
            Err(_) => Value::Text(text),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn documents_keep_their_places() {
        let text = "# é\na: [1, 'x']\n---\n---\nb:\n- &l {c: true}\n- *l\n";
        let documents = parse(text).unwrap();
        assert_eq!(documents.len(), 2);
        let Value::Table(entries) = &documents[1].value else { panic!("no mapping") };
        let (key, list) = &entries[0];
        assert_eq!(&text[key.span.start as usize..key.span.end as usize], "b");
        let Value::List(items) = &list.value else { panic!("no sequence") };
        assert_eq!(items[0].value, items[1].value);
        assert_eq!(&text[items[1].span.start as usize..items[1].span.end as usize], "*l");
    }

    #[test]
    fn laughs_and_loops_and_twins_are_refused() {
        let mut bomb = "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let used = format!("*a{}, ", level - 1).repeat(10);
            writeln!(bomb, "k{level}: &a{level} [{used}]").unwrap();
        }
        assert!(parse(&bomb).unwrap_err().1.contains("more than"));
        assert!(parse("a: &a [*a]").is_err());
        assert!(parse("a: 1\na: 2").unwrap_err().1.contains("twice"));
        assert!(parse("? [a]\n: 2").is_err());
        assert!(!parse("a: [").unwrap_err().1.is_empty());
    }
}
