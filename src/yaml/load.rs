//! From the parser's events to nodes.
//!
//! Aliases are copied in, so what a small file can grow to is bounded; so is the depth, which later recursion relies on.

use super::{Kind, Node, scalar};
use crate::source::{InputError, Source, Span};
use granit_parser::{ErrorKind, Event, Marker, Options, Parser, ScalarStyle, ScanError, StructureStyle, Tag};
use indexmap::IndexMap;
use std::collections::HashMap;
use std::sync::Arc;

/// Nodes that aliases and merge keys may add to a file in all (a "billion laughs" file asks for more).
const MAX_COPIED_NODES: usize = 100_000;
/// Containers within containers, aliases followed.
const MAX_DEPTH: usize = 200;
/// The tag that marks a plain `<<` key until its mapping ends.
const MERGE: &str = "tag:yaml.org,2002:merge";

/// Reads a file of one document. An empty file is null. Duplicate keys pass in silence: the last one wins.
pub fn load(source: &Arc<Source>) -> Result<Node, InputError> {
    load_with(source, &mut Vec::new())
}

/// Reads a file of one document and adds what deserves a warning (duplicate keys) to `warnings`.
pub fn load_with(source: &Arc<Source>, warnings: &mut Vec<InputError>) -> Result<Node, InputError> {
    let mut documents = Loader::new(source, warnings).run()?.into_iter();
    let first = documents.next().unwrap_or_else(|| Node::new(Kind::Null, source.span(0, 0)));
    match documents.next() {
        Some(second) => Err(InputError::at(&second.span, "expected one YAML document, found a second one")
            .help("remove the `---` in the middle of the file")),
        None => Ok(first),
    }
}

/// Reads a file of any number of documents.
pub fn load_all(source: &Arc<Source>) -> Result<Vec<Node>, InputError> {
    Loader::new(source, &mut Vec::new()).run()
}

/// A container that has begun and not ended.
struct Frame {
    start: usize,
    anchor: usize,
    tag: Option<String>,
    body: Body,
}

enum Body {
    List(Vec<Node>),
    Map { pairs: Vec<(Node, Node)>, key: Option<Node> },
}

/// What an alias copies, with its measures.
struct Anchored {
    node: Node,
    size: usize,
    depth: usize,
}

struct Loader<'a> {
    source: &'a Arc<Source>,
    warnings: &'a mut Vec<InputError>,
    frames: Vec<Frame>,
    anchors: HashMap<usize, Anchored>,
    copied: usize,
    documents: Vec<Node>,
    /// The current document has a node already.
    filled: bool,
}

impl<'a> Loader<'a> {
    fn new(source: &'a Arc<Source>, warnings: &'a mut Vec<InputError>) -> Self {
        let (frames, anchors, documents) = Default::default();
        Self { source, warnings, frames, anchors, copied: 0, documents, filled: false }
    }

    fn run(mut self) -> Result<Vec<Node>, InputError> {
        let source = self.source.clone();
        let mut options = Options::default();
        options.set_emit_comments(false);
        options.flow_nesting_limit = MAX_DEPTH;
        options.block_nesting_limit = MAX_DEPTH;
        let mut parser = Parser::new_from_str_with_options(&source.text, options);
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| self.syntax_error(&error))?;
            let at = self.span(&span);
            self.event(event, at)?;
        }
        Ok(self.documents)
    }

    fn span(&self, span: &granit_parser::Span) -> Span {
        let range = span.byte_range().unwrap_or_default();
        self.source.span(range.start, range.end)
    }

    fn event(&mut self, event: Event<'_>, at: Span) -> Result<(), InputError> {
        match event {
            Event::DocumentStart(..) => self.filled = false,
            Event::DocumentEnd if !self.filled => self.documents.push(Node::new(Kind::Null, at)),
            Event::Scalar(text, style, anchor, tag) => {
                let node = self.scalar(&text, style, tag.as_deref(), at)?;
                self.complete(node, anchor)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                let tag = container_tag(tag.as_deref(), "seq", &at)?;
                self.open(Frame { start: at.start, anchor, tag, body: Body::List(Vec::new()) }, &at)?;
            }
            Event::MappingStart(style, anchor, tag) => {
                // A key must be a scalar, so this can only be a template that lacks its quotes.
                if style == StructureStyle::Flow && self.text_from(at.start).starts_with("{{") {
                    return Err(self.unquoted_template(at.start));
                }
                let tag = container_tag(tag.as_deref(), "map", &at)?;
                let body = Body::Map { pairs: Vec::new(), key: None };
                self.open(Frame { start: at.start, anchor, tag, body }, &at)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(frame) = self.frames.pop() else { return Ok(()) };
                let (kind, end) = match frame.body {
                    Body::List(items) => {
                        let end = items.last().map_or(at.end, |item| item.span.end.max(at.end));
                        (Kind::List(items), end)
                    }
                    Body::Map { pairs, .. } => {
                        let end = pairs.last().map_or(at.end, |(_, value)| value.span.end.max(at.end));
                        (Kind::Map(self.merge(pairs)?), end)
                    }
                };
                let text = self.source.text.get(frame.start..end).unwrap_or_default();
                let span = self.source.span(frame.start, frame.start + text.trim_end().len());
                self.complete(Node { kind, span, tag: frame.tag }, frame.anchor)?;
            }
            Event::Alias(anchor) => {
                let Some(anchored) = self.anchors.get(&anchor) else {
                    return Err(InputError::at(&at, "alias of a node that contains it"));
                };
                self.copied += anchored.size;
                if self.copied > MAX_COPIED_NODES || self.frames.len() + anchored.depth > MAX_DEPTH {
                    return Err(InputError::at(&at, "too much to expand: aliases of aliases grow beyond the limit")
                        .help(format!("at most {MAX_COPIED_NODES} nodes and {MAX_DEPTH} levels come from aliases")));
                }
                // Where the alias stands is not where the value was written: keep the latter.
                let node = anchored.node.clone();
                self.complete(node, 0)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn text_from(&self, start: usize) -> &str {
        self.source.text.get(start..).unwrap_or_default()
    }

    fn open(&mut self, frame: Frame, at: &Span) -> Result<(), InputError> {
        if self.frames.len() >= MAX_DEPTH {
            return Err(InputError::at(at, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.frames.push(frame);
        Ok(())
    }

    fn scalar(&self, text: &str, style: ScalarStyle, tag: Option<&Tag>, at: Span) -> Result<Node, InputError> {
        let plain = style == ScalarStyle::Plain;
        let Some(tag) = tag else {
            let is_key = matches!(self.frames.last(), Some(Frame { body: Body::Map { key: None, .. }, .. }));
            if plain && is_key && text == "<<" {
                return Ok(Node { kind: Kind::String(text.into()), span: at, tag: Some(MERGE.into()) });
            }
            let kind = if plain { scalar::resolve(text) } else { Kind::String(text.into()) };
            return Ok(Node::new(kind, at));
        };
        let wrong = |what: &str| InputError::at(&at, format!("expected {what} after the tag, found `{text}`"));
        let name = tag.original();
        let kind = match tag.suffix_in_namespace("tag:yaml.org,2002:").as_deref() {
            Some("str" | "timestamp") => Kind::String(text.into()),
            Some("null") => Kind::Null,
            Some("bool") => match scalar::resolve(text) {
                Kind::Bool(b) => Kind::Bool(b),
                _ => return Err(wrong("a boolean")),
            },
            Some("int") => Kind::Int(scalar::int(text).ok_or_else(|| wrong("an integer"))?),
            Some("float") => {
                let x = scalar::float(text).or_else(|| scalar::int(text).map(|n| n as f64));
                Kind::Float(x.ok_or_else(|| wrong("a float"))?)
            }
            _ => match name.as_str() {
                "!" => Kind::String(text.into()),
                "!vault" | "!vault-encrypted" => {
                    return Ok(Node { kind: Kind::String(text.into()), span: at, tag: Some("!vault".into()) });
                }
                "!unsafe" => {
                    let kind = if plain { scalar::resolve(text) } else { Kind::String(text.into()) };
                    return Ok(Node { kind, span: at, tag: Some(name) });
                }
                _ => return Err(unknown_tag(&name, &at)),
            },
        };
        Ok(Node::new(kind, at))
    }

    /// Hands a finished node to the container it stands in.
    fn complete(&mut self, node: Node, anchor: usize) -> Result<(), InputError> {
        if anchor != 0 {
            let (size, depth) = measure(&node);
            self.anchors.insert(anchor, Anchored { node: node.clone(), size, depth });
        }
        match self.frames.last_mut().map(|frame| &mut frame.body) {
            None => {
                self.documents.push(node);
                self.filled = true;
            }
            Some(Body::List(items)) => items.push(node),
            Some(Body::Map { pairs, key }) => match key.take() {
                Some(key) => pairs.push((key, node)),
                None if matches!(node.kind, Kind::List(_) | Kind::Map(_)) => {
                    return Err(InputError::at(
                        &node.span,
                        format!("a mapping key must be a scalar, found {}", node.describe()),
                    ));
                }
                None => *key = Some(node),
            },
        }
        Ok(())
    }

    /// Resolves merge keys and duplicates. Merged pairs come first, and what the mapping says itself wins; of several
    /// merged mappings the first wins. A key keeps its first place and takes its last value, as in a Python dict.
    fn merge(&mut self, pairs: Vec<(Node, Node)>) -> Result<Vec<(Node, Node)>, InputError> {
        let mut out: IndexMap<String, (Node, Node)> = IndexMap::with_capacity(pairs.len());
        let (merges, own): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(key, _)| key.tag.as_deref() == Some(MERGE));
        for (_, value) in merges {
            let sources = match value.kind {
                Kind::List(items) => items,
                _ => vec![value],
            };
            for merged in sources.into_iter().rev() {
                let Kind::Map(pairs) = merged.kind else {
                    let message =
                        format!("expected a mapping or a list of mappings after `<<`, found {}", merged.describe());
                    return Err(InputError::at(&merged.span, message));
                };
                for pair in pairs {
                    out.insert(pair.0.key_text(), pair);
                }
            }
        }
        let mut seen: HashMap<String, Span> = HashMap::with_capacity(own.len());
        for (key, value) in own {
            let name = key.key_text();
            if let Some(first) = seen.insert(name.clone(), key.span.clone()) {
                let message = format!("duplicate key: {name} (first at line {}); this one counts", first.line());
                self.warnings.push(InputError::at(&key.span, message).help("remove one of the two"));
            }
            out.insert(name, (key, value));
        }
        Ok(out.into_values().collect())
    }

    fn unquoted_template(&self, start: usize) -> InputError {
        let line = self.text_from(start).lines().next().unwrap_or_default();
        let length = line.find("}}").map_or(line.trim_end().len(), |i| i + 2);
        let span = self.source.span(start, start + length);
        let help = format!("quote the expression: \"{}\"", span.text());
        InputError::at(&span, "a value cannot begin with an unquoted `{{`: YAML reads a mapping").help(help)
    }

    fn syntax_error(&self, error: &ScanError) -> InputError {
        let text = &self.source.text;
        let at = byte_offset(text, error.marker());
        if let Some(start) = unquoted_expression(text, at) {
            return self.unquoted_template(start);
        }
        // The end of the file is no place to point at: take the last thing written.
        let at = if at >= text.len() { text.trim_end().char_indices().next_back().map_or(0, |(i, _)| i) } else { at };
        let end = at + text.get(at..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8);
        let found = InputError::at(&self.source.span(at, end), format!("invalid YAML: {}", error.kind()));
        match error.kind() {
            ErrorKind::TabNotAllowed
            | ErrorKind::TabInBlockIndentation
            | ErrorKind::TabInIndentation
            | ErrorKind::TabAtBlockScalarStart
            | ErrorKind::TabInPlainScalar => found.help("indent with spaces, not with tabs"),
            ErrorKind::MappingValueNotAllowed => {
                found.help("quote a value that contains `: `, or check the indentation of this line")
            }
            ErrorKind::UnexpectedCharacter { character } => {
                found.help(format!("a value cannot begin with `{character}` unless it is quoted"))
            }
            ErrorKind::UnknownAnchor => found.help("define it with `&name` before this line"),
            ErrorKind::UnclosedQuotedScalar | ErrorKind::InvalidQuotedScalarIndent => found.help("close the quote"),
            ErrorKind::UnclosedFlowCollection { open } => found.help(format!("close the `{open}`")),
            ErrorKind::SimpleKeyExpected | ErrorKind::ExpectedBlockMappingKey | ErrorKind::InvalidIndentation => {
                found.help("expected `key: value` at the indentation of the lines above")
            }
            _ => found,
        }
    }
}

fn byte_offset(text: &str, marker: &Marker) -> usize {
    let by_index = || text.char_indices().nth(marker.index()).map_or(text.len(), |(i, _)| i);
    marker.byte_offset().unwrap_or_else(by_index).min(text.len())
}

/// Where an unquoted `{{` begins a value on the line of a syntax error or on the line above it.
fn unquoted_expression(text: &str, at: usize) -> Option<usize> {
    let before = text.get(..at)?;
    let line = before.rfind('\n').map_or(0, |i| i + 1);
    let above = before[..line.saturating_sub(1)].rfind('\n').map_or(0, |i| i + 1);
    [line, above].into_iter().find_map(|start| {
        let line = text[start..].lines().next()?;
        let open = line.find("{{")?;
        let lead = line[..open].trim_end();
        (lead.len() < open && (lead.ends_with(':') || lead.ends_with('-'))).then_some(start + open)
    })
}

fn container_tag(tag: Option<&Tag>, expected: &str, at: &Span) -> Result<Option<String>, InputError> {
    match tag {
        None => Ok(None),
        Some(tag) if tag.is_yaml_core_schema_tag(expected) => Ok(None),
        Some(tag) if tag.original() == "!unsafe" => Ok(Some("!unsafe".into())),
        Some(tag) => Err(unknown_tag(&tag.original(), at)),
    }
}

fn unknown_tag(name: &str, at: &Span) -> InputError {
    InputError::at(at, format!("unknown tag here: {name}"))
        .help("known tags: !vault, !unsafe, !!str, !!int, !!float, !!bool, !!null")
}

/// The number of nodes in a tree, and its depth.
fn measure(node: &Node) -> (usize, usize) {
    let sum = |parts: &mut dyn Iterator<Item = &Node>| {
        parts.map(measure).fold((1, 0), |(size, depth), (s, d)| (size + s, depth.max(d)))
    };
    match &node.kind {
        Kind::List(items) => {
            let (size, depth) = sum(&mut items.iter());
            (size, depth + 1)
        }
        Kind::Map(pairs) => {
            let (size, depth) = sum(&mut pairs.iter().flat_map(|(key, value)| [key, value]));
            (size, depth + 1)
        }
        _ => (1, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::Fields;
    use proptest::prelude::*;

    fn load_text(text: &str) -> Result<Node, InputError> {
        load(&Source::new("t.yml", text))
    }

    fn json(text: &str) -> String {
        serde_json::Value::from(&load_text(text).unwrap().to_value()).to_string()
    }

    fn error(text: &str) -> (String, String, String) {
        let error = load_text(text).unwrap_err();
        let span = error.span.unwrap();
        (format!("{}:{}", span.line(), span.column()), error.message, error.help.unwrap_or_default())
    }

    #[test]
    fn quoted_scalars_are_strings_and_plain_ones_resolve() {
        assert_eq!(
            json("a: yes\nb: 'yes'\nc: 0644\nd: \"0644\"\ne: |\n  x\n  y\nf: >-\n  x\n  y\ng:\n"),
            r#"{"a":true,"b":"yes","c":420,"d":"0644","e":"x\ny\n","f":"x y","g":null}"#
        );
        assert_eq!(json(""), "null");
        assert_eq!(json("{\"a\": [1, 2.5, true, null]}"), r#"{"a":[1,2.5,true,null]}"#);
        assert_eq!(json("80: a\nyes: b\n~: c\n"), r#"{"80":"a","true":"b","null":"c"}"#);
    }

    #[test]
    fn merged_keys_come_first_and_lose() {
        let text = "x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\nz:\n  d: 3\n  <<: [*x, *y]\n  a: 3\n";
        // PyYAML gives z the order b, c, a, d: the last of the list first.
        assert_eq!(json(text), r#"{"x":{"a":1,"b":1},"y":{"b":2,"c":2},"z":{"b":1,"c":2,"a":3,"d":3}}"#);
        assert_eq!(json("'<<': {a: 1}"), r#"{"<<":{"a":1}}"#);
        assert_eq!(error("a: 1\n<<: x\n").0, "2:5");
    }

    #[test]
    fn a_duplicate_key_is_a_warning_and_the_last_one_wins() {
        let source = Source::new("t.yml", "a: 1\nb: 2\na: 3\n");
        let mut warnings = Vec::new();
        let node = load_with(&source, &mut warnings).unwrap();
        assert_eq!(serde_json::Value::from(&node.to_value()).to_string(), r#"{"a":3,"b":2}"#);
        assert_eq!(warnings[0].to_string(), "t.yml:3: duplicate key: a (first at line 1); this one counts");
    }

    #[test]
    fn an_unquoted_expression_asks_for_quotes() {
        let (at, message, help) = error("a: 1\nb: {{ x }}\n");
        assert_eq!(at, "2:4");
        assert!(message.contains("unquoted"), "{message}");
        assert_eq!(help, "quote the expression: \"{{ x }}\"");
        assert_eq!(error("b: {{ x }}/bin\nc: 1\n").2, "quote the expression: \"{{ x }}\"");
        assert_eq!(error("b:\n  - {{ x[0] }}\n").2, "quote the expression: \"{{ x[0] }}\"");
        assert_eq!(json("b: '{{ x }}'"), r#"{"b":"{{ x }}"}"#);
    }

    #[test]
    fn a_tab_in_the_indentation_is_pointed_at() {
        let (at, _, help) = error("a:\n\tb: 1\n");
        assert!(at.starts_with("2:"), "{at}");
        assert_eq!(help, "indent with spaces, not with tabs");
    }

    #[test]
    fn aliases_are_bounded() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..9 {
            let aliases = vec![format!("*a{}", i - 1); 10].join(", ");
            text.push_str(&format!("a{i}: &a{i} [{aliases}]\n"));
        }
        assert!(error(&text).1.starts_with("too much to expand"));
        let mut deep = String::from("a0: &a0 [x]\n");
        for i in 1..300 {
            deep.push_str(&format!("a{i}: &a{i} [*a{}]\n", i - 1));
        }
        assert!(error(&deep).1.starts_with("too much to expand"));
        assert_eq!(error("a: &a [*a]\n").1, "alias of a node that contains it");
    }

    #[test]
    fn deep_nesting_is_refused() {
        assert!(load_text(&"[".repeat(100_000)).is_err());
        assert!(load_text(&"- ".repeat(100_000)).is_err());
    }

    #[test]
    fn tags_are_applied_kept_or_refused() {
        assert_eq!(
            json("a: !!str 1\nb: !!int '3'\nc: !!float 1\nd: !!bool 'yes'"),
            r#"{"a":"1","b":3,"c":1.0,"d":true}"#
        );
        let node = load_text("a: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6162\n").unwrap();
        assert_eq!(node.get("a").unwrap().tag.as_deref(), Some("!vault"));
        assert_eq!(json("a: !unsafe '{{ x }} {% y'"), r#"{"a":"{{ '{{' }} x }} {{ '{%' }} y"}"#);
        assert_eq!(error("a: !secret x").1, "unknown tag here: !secret");
    }

    #[test]
    fn spans_cover_what_was_written() {
        let node = load_text("name: n1\nlist:\n  - ä\n  - {b: 2}\n").unwrap();
        let list = node.get("list").unwrap();
        assert_eq!(list.span.line(), 3);
        assert_eq!(list.as_list().unwrap()[0].span.text(), "ä");
        assert_eq!(list.as_list().unwrap()[1].span.text(), "{b: 2}");
        assert_eq!(node.as_map().unwrap()[0].0.span.text(), "name");
    }

    #[test]
    fn one_document_is_expected() {
        assert_eq!(load_all(&Source::new("t.yml", "a: 1\n---\nb: 2\n---\n")).unwrap().len(), 3);
        assert_eq!(error("a: 1\n---\nb: 2\n").0, "3:1");
        assert_eq!(json("---\na: 1\n...\n"), r#"{"a":1}"#);
    }

    #[test]
    fn syntax_errors_point_at_the_line() {
        assert_eq!(error("a: 1\nb: [1, 2\nc: 3\n").0, "3:2");
        assert_eq!(error("a: b: c\n").0, "1:5");
        assert_eq!(error("a: 'x\nb: 1\n").2, "close the quote");
        assert_eq!(error("a: @x\n").2, "a value cannot begin with `@` unless it is quoted");
        assert_eq!(error("a: *nope\n").0, "1:4");
        assert_eq!(error("? [a]\n: b\n").1, "a mapping key must be a scalar, found a list");
    }

    #[test]
    fn fields_reports_unknown_keys_with_the_near_miss() {
        let node = load_text("name: x\nrequierd: true\n").unwrap();
        let mut fields = Fields::new(&node).unwrap();
        assert_eq!(fields.text("name").unwrap().as_deref(), Some("x"));
        assert_eq!(fields.bool("required").unwrap(), None);
        let errors = fields.finish("argument spec").unwrap_err();
        assert_eq!(errors.0[0].help.as_deref(), Some("did you mean `required`?"));
    }

    proptest! {
        #[test]
        fn never_panics(text in "[ \\t\\n:\\-\\[\\]{}&*!#|>'\"%@`,?<a-c0-9~ä]{0,80}") {
            let _ = load_all(&Source::new("t.yml", text));
        }

        #[test]
        fn reads_back_what_json_writes(words in proptest::collection::vec("\\PC{0,20}", 0..5), n: i64, b: bool) {
            let value: crate::value::Value = words.iter().enumerate()
                .map(|(i, word)| (format!("k{i}"), crate::value::Value::List(vec![word.as_str().into(), n.into(), b.into()])))
                .collect();
            let text = serde_json::Value::from(&value).to_string();
            prop_assert_eq!(load_text(&text).unwrap().to_value(), value);
        }
    }
}
