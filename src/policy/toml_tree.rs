//! TOML text to [`Node`]s.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::node::{Key, Node, Value};
use super::source::Span;

/// The document, or where and why it is not TOML.
pub fn parse(text: &str) -> Result<Node<'_>, (Span, String)> {
    let document = DeTable::parse(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        (Span::new(span.start, span.end), one_line(error.message()))
    })?;
    let span = Span::new(document.span().start, document.span().end);
    Ok(Node { span, value: table(document.into_inner()) })
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn node(value: Spanned<DeValue<'_>>) -> Node<'_> {
    let span = Span::new(value.span().start, value.span().end);
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text),
        DeValue::Boolean(boolean) => Value::Boolean(boolean),
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
            .map_or(Value::Other("an integer beyond 64 bits"), Value::Integer),
        DeValue::Float(_) => Value::Other("a float"),
        DeValue::Datetime(_) => Value::Other("a date or time"),
        DeValue::Array(items) => Value::List(items.into_iter().map(node).collect()),
        DeValue::Table(inner) => table(inner),
    };
    Node { span, value }
}

fn table(table: DeTable<'_>) -> Value<'_> {
    let mut entries: Vec<_> = table
        .into_iter()
        .map(|(key, value)| {
            let span = Span::new(key.span().start, key.span().end);
            (Key { span, text: key.into_inner() }, node(value))
        })
        .collect();
    entries.sort_by_key(|(key, _)| key.span.start);
    Value::Table(entries)
}
