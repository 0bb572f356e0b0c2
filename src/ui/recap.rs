//! The recap as Ansible prints it.

use super::Show;
use crate::engine::recap::{Counts, Recap};
use console::style;

pub fn text(show: Show, recap: &Recap) -> String {
    let width = recap.hosts.keys().map(|host| host.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7)
        .map(|column| {
            recap.hosts.values().map(|counts| counts.columns()[column].1.to_string().len()).max().unwrap_or(1)
        })
        .collect();
    let title = if show.plan { "PLAN RECAP" } else { "PLAY RECAP" };
    let mut lines = format!("\n{} {}\n", style(title).bold(), "*".repeat(69));
    for (host, counts) in &recap.hosts {
        let columns: Vec<String> =
            counts.columns().iter().zip(&widths).map(|((name, n), width)| format!("{name}={n:<width$}")).collect();
        let line = format!("{host:<width$} : {}", columns.join(" "));
        lines += &format!("{}\n", paint(line.trim_end(), counts));
    }
    lines
}

fn paint(line: &str, counts: &Counts) -> String {
    let styled = match counts {
        Counts { failed: 1.., .. } | Counts { unreachable: 1.., .. } => style(line).red(),
        Counts { changed: 1.., .. } => style(line).yellow(),
        _ => style(line).green(),
    };
    styled.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::Format;

    #[test]
    fn columns_are_aligned() {
        let mut recap = Recap::new(["k8s-n1".to_owned(), "n2".to_owned()]);
        recap.hosts["k8s-n1"] = Counts { ok: 25, changed: 3, failed: 1, skipped: 48, ..Counts::default() };
        let show = Show { verb: "apply", format: Format::Text, verbose: false, diff: false, plan: false };
        let text = console::strip_ansi_codes(&text(show, &recap)).into_owned();
        assert!(text.contains("k8s-n1 : ok=25 changed=3 unreachable=0 failed=1 skipped=48 rescued=0 ignored=0\n"));
        assert!(text.contains("n2     : ok=0  changed=0 unreachable=0 failed=0 skipped=0  rescued=0 ignored=0\n"));
    }
}
