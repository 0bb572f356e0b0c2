//! Findings as lines of text.

use super::{Finding, Severity};

/// One line per finding: host, check, what was found, what is required, by which variable and line, how to go on.
pub fn render(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(line).collect()
}

fn line(finding: &Finding) -> String {
    let host = finding.host.as_deref().unwrap_or("cluster");
    let warning = if finding.severity == Severity::Warning { "warning: " } else { "" };
    let mut line =
        format!("{host} : {} : {warning}found {}, required {}", finding.check, finding.found, finding.required);
    match (&finding.variable, &finding.origin) {
        (Some(variable), Some(origin)) => line += &format!(" ({variable}, {origin})"),
        (Some(variable), None) => line += &format!(" ({variable})"),
        (None, Some(origin)) => line += &format!(" ({origin})"),
        (None, None) => {}
    }
    if !finding.help.is_empty() {
        line += &format!(" : {}", finding.help);
    }
    line
}
