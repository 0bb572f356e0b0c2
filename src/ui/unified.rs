//! Diffs as a person reads them.

use crate::modules::Diff;
use console::style;
use similar::TextDiff;

/// Lines that show one replaced thing.
pub fn lines(diff: &Diff) -> String {
    match diff {
        Diff::Text { path, before, after } => text(path, before.as_deref(), after.as_deref()),
        Diff::Fields { subject, fields } => {
            let mut lines = format!("  {subject}\n");
            for (name, before, after) in fields {
                let line = match (before, after) {
                    (None, Some(after)) => format!("    + {name}: {after}"),
                    (Some(before), None) => format!("    - {name}: {before}"),
                    (Some(before), Some(after)) => format!("    ~ {name}: {before} -> {after}"),
                    (None, None) => continue,
                };
                lines += &paint(&line, line.trim_start().chars().next());
                lines.push('\n');
            }
            lines
        }
        Diff::Note(note) => format!("  {note}\n"),
    }
}

fn text(path: &str, before: Option<&str>, after: Option<&str>) -> String {
    let name = |side: &Option<&str>| if side.is_some() { path.to_owned() } else { "/dev/null".to_owned() };
    let (old, new) = (name(&before), name(&after));
    let diff = TextDiff::from_lines(before.unwrap_or_default(), after.unwrap_or_default());
    let mut lines = String::new();
    for line in diff.unified_diff().context_radius(3).header(&old, &new).to_string().lines() {
        lines += "  ";
        lines += &paint(line, line.chars().next());
        lines.push('\n');
    }
    lines
}

fn paint(line: &str, sign: Option<char>) -> String {
    match sign {
        Some('+') => style(line).green().to_string(),
        Some('-') => style(line).red().to_string(),
        Some('~' | '@') => style(line).cyan().to_string(),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_comes_from_nowhere() {
        let diff = Diff::Text { path: "/etc/x".into(), before: None, after: Some("a\n".into()) };
        let plain = console::strip_ansi_codes(&lines(&diff)).into_owned();
        assert_eq!(plain, "  --- /dev/null\n  +++ /etc/x\n  @@ -0,0 +1 @@\n  +a\n");
    }

    #[test]
    fn fields_show_both_sides() {
        let fields = vec![
            ("mode".into(), Some("0644".into()), Some("0600".into())),
            ("owner".into(), None, Some("etcd".into())),
        ];
        let plain = console::strip_ansi_codes(&lines(&Diff::Fields { subject: "/etc/x".into(), fields })).into_owned();
        assert_eq!(plain, "  /etc/x\n    ~ mode: 0644 -> 0600\n    + owner: etcd\n");
    }
}
