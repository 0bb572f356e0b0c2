//! Mistakes and warnings as text: the message, the line it is about with a caret, and what to do.
//!
//! ```text
//! error: undefined group: kube_nod (a child of k8s_cluster)
//!  --> inventory.ini:12:1
//!    |
//! 12 | kube_nod
//!    | ^^^^^^^^
//!    = help: did you mean `kube_node`?
//! ```

use crate::source::{InputError, InputErrors, Span};
use console::{Style, measure_text_width};
use std::fmt::Write;

/// Columns of a source line that are shown around the caret; longer lines are cut.
const MAX_WIDTH: usize = 160;

/// An error as text without the newline at its end; coloured when stderr is a terminal.
pub fn render(error: &InputError) -> String {
    text("error", Style::new().red(), error)
}

/// A warning as text, in the form of [`render`].
pub fn render_warning(warning: &InputError) -> String {
    text("warning", Style::new().yellow(), warning)
}

/// Writes errors to stderr, and how many there are.
pub fn report(errors: &InputErrors) {
    for error in &errors.0 {
        super::talk(&render(error));
    }
    if errors.0.len() > 1 {
        super::talk(&format!("{} errors", errors.0.len()));
    }
}

/// Writes warnings to stderr.
pub fn warn(warnings: &[InputError]) {
    for warning in warnings {
        super::talk(&render_warning(warning));
    }
}

fn text(kind: &str, style: Style, error: &InputError) -> String {
    let style = style.for_stderr().bold();
    let strong = Style::new().for_stderr().bold();
    let frame = Style::new().for_stderr().blue();
    let mut out = format!("{}: {}", style.apply_to(kind), strong.apply_to(clean(&error.message)));
    let margin = match &error.span {
        Some(span) => {
            let number = span.line().to_string();
            let margin = " ".repeat(number.len());
            let (line, indent, width) = excerpt(span);
            let place = format!("{}:{number}:{}", span.source.path.display(), span.column());
            let caret = style.apply_to("^".repeat(width)).to_string();
            let bar = frame.apply_to("|");
            let _ = write!(out, "\n{margin}{} {place}", frame.apply_to("-->"));
            let _ = write!(out, "\n{margin} {bar}\n{} {bar} {line}", frame.apply_to(&number));
            let _ = write!(out, "\n{margin} {bar} {}{caret}", " ".repeat(indent));
            margin
        }
        None => " ".to_owned(),
    };
    if let Some(help) = &error.help {
        let _ = write!(out, "\n{margin} {} help: {}", frame.apply_to("="), clean(help));
    }
    out
}

/// The line in which a span begins, the columns before the span in it, and the columns that the span covers there.
fn excerpt(span: &Span) -> (String, usize, usize) {
    let text = &span.source.text;
    let line_start = text[..span.start].rfind('\n').map_or(0, |i| i + 1);
    let line_end = text[span.start..].find('\n').map_or(text.len(), |i| span.start + i);
    let end = span.end.clamp(span.start, line_end);
    let mut before = clean(&text[line_start..span.start]);
    let covered = clean(text[span.start..end].trim_end());
    let mut line = format!("{before}{}", clean(text[span.start..line_end].trim_end()));
    if measure_text_width(&line) > MAX_WIDTH {
        // Keep a third of the width before the caret.
        let skip = before.chars().count().saturating_sub(MAX_WIDTH / 3);
        before = before.chars().skip(skip).collect();
        line = line.chars().skip(skip).take(MAX_WIDTH).collect();
    }
    let indent = measure_text_width(&before);
    let width = measure_text_width(&covered).min(MAX_WIDTH.saturating_sub(indent)).max(1);
    (line, indent, width)
}

/// Tabs become spaces, and control characters cannot reach the terminal.
fn clean(text: &str) -> String {
    let text = text.replace('\t', "    ");
    if text.contains(|c: char| c.is_control() && c != '\n') {
        return text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Source;

    #[test]
    fn points_at_the_line() {
        console::set_colors_enabled_stderr(false);
        let source = Source::new("inventory.ini", "[all]\n\tn1 é a=b=\u{1b}c\n");
        let start = source.text.find("a=b").unwrap_or_default();
        let error = InputError::at(&source.span(start, start + 5), "bad value").help("mend it");
        insta::assert_snapshot!(render(&error), @r"
        error: bad value
         --> inventory.ini:2:7
          |
        2 |     n1 é a=b=�c
          |          ^^^^^
          = help: mend it
        ");
        insta::assert_snapshot!(render_warning(&InputError::new("no place").help("none")), @r"
        warning: no place
          = help: none
        ");
    }

    #[test]
    fn a_span_of_several_lines_and_one_at_the_end_of_the_text() {
        console::set_colors_enabled_stderr(false);
        let source = Source::new("a.yml", "k: |\n  x\n  y");
        let carets = |start, end| render(&InputError::at(&source.span(start, end), "m")).matches('^').count();
        assert_eq!(carets(3, 12), 1);
        assert_eq!(carets(99, 99), 1);
        let long = Source::new("a.yml", format!("{}X{}", "a".repeat(1000), "b".repeat(1000)));
        assert!(render(&InputError::at(&long.span(1000, 1001), "m")).contains("aaXbb"));
    }
}
