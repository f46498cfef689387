//! A document of either dialect as a tree that knows where each part was written.

use std::borrow::Cow;

use super::source::Span;

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node<'s> {
    /// Where it was written.
    pub span: Span,
    /// What was written.
    pub value: Value<'s>,
}

/// What the policy language can be made of.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'s> {
    /// YAML only; counts as absent.
    Null,
    /// `true` or `false`.
    Boolean(bool),
    /// Any that fit.
    Integer(i64),
    /// A string.
    Text(Cow<'s, str>),
    /// An array or sequence.
    List(Vec<Node<'s>>),
    /// A table or mapping, in the order written.
    Table(Vec<(Key<'s>, Node<'s>)>),
    /// Something that no key of any policy takes: what it is called.
    Other(&'static str),
}

/// A key with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Key<'s> {
    /// Where it was written.
    pub span: Span,
    /// What was written.
    pub text: Cow<'s, str>,
}

impl Value<'_> {
    /// What a message calls it, with its article.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Boolean(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Text(_) => "a string",
            Self::List(_) => "an array",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }
}
