//! Backslashes as Ansible reads them, and where things are in the text that was written.
//!
//! In a string inside of `{{ }}` of a variable or argument, Ansible takes a backslash for itself: `'\d'` and `'\n'` are two
//! characters each, so that regular expressions need no doubling. In `{% %}`, in conditions and in template files Jinja's
//! escapes hold.

use std::ops::Range;

/// Maps places in a compiled template to the text that was written.
#[derive(Default)]
pub(super) struct Offsets {
    /// Bytes at the beginning of the text that the template does not have, or (negative) the other way round.
    pub shift: isize,
    /// Where in the template a byte was inserted.
    inserted: Vec<usize>,
}

impl Offsets {
    pub fn shifted(shift: isize) -> Self {
        Self { shift, inserted: Vec::new() }
    }

    pub fn range(&self, range: Range<usize>, text: &str) -> Range<usize> {
        let place = |at: usize| {
            let before = self.inserted.partition_point(|inserted| *inserted < at);
            let mut at = (at - before).saturating_add_signed(self.shift).min(text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        place(range.start)..place(range.end)
    }
}

/// Doubles the backslashes in strings of `{{ }}`, so that Jinja's escapes give them back.
pub(super) fn keep_backslashes(text: &str) -> (String, Offsets) {
    let mut offsets = Offsets::default();
    if !text.contains('\\') {
        return (text.to_owned(), offsets);
    }
    let mut out = String::with_capacity(text.len() + 8);
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        let (before, block) = rest.split_at(at);
        out.push_str(before);
        let length = match block.as_bytes().get(1) {
            Some(b'{') => {
                let length = block_length(block, "}}");
                double(&block[..length], &mut out, &mut offsets.inserted);
                rest = &block[length..];
                continue;
            }
            Some(b'%') => {
                let length = block_length(block, "%}");
                let word = block[2..length].trim_start_matches(['-', '+']).trim_start();
                // What is raw is text.
                if word.starts_with("raw") { block.find("endraw").unwrap_or(block.len()) } else { length }
            }
            Some(b'#') => block.find("#}").map_or(block.len(), |end| end + 2),
            _ => 1,
        };
        out.push_str(&block[..length]);
        rest = &block[length..];
    }
    out.push_str(rest);
    (out, offsets)
}

/// The length of a block up to its end, which a string in it may contain.
fn block_length(block: &str, end: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (i, c) in block.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if matches!(c, '\'' | '"') => quote = Some(c),
            None if block[i..].starts_with(end) => return i + end.len(),
            None => {}
        }
    }
    block.len()
}

fn double(block: &str, out: &mut String, inserted: &mut Vec<usize>) {
    let mut quote = None;
    let mut chars = block.chars();
    while let Some(c) = chars.next() {
        match quote {
            Some(_) if c == '\\' => {
                inserted.push(out.len());
                out.push_str("\\\\");
                // The next character does not end the string, whatever it is; a quote has to stay escaped.
                match chars.next() {
                    Some(next @ ('\\' | '\'' | '"')) => {
                        inserted.push(out.len());
                        out.extend(['\\', next]);
                    }
                    Some(next) => out.push(next),
                    None => {}
                }
                continue;
            }
            Some(open) if c == open => quote = None,
            None if matches!(c, '\'' | '"') => quote = Some(c),
            _ => {}
        }
        out.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_strings_in_expressions_keep_their_backslashes() {
        for (text, expected) in [
            (r"a\n{{ 'b\n' }}\n", r"a\n{{ 'b\\n' }}\n"),
            (r"{{ '\\' }}", r"{{ '\\\\' }}"),
            (r"{{ 'it\'s' ~ '\d' }}", r"{{ 'it\\\'s' ~ '\\d' }}"),
            (r"{% set x = 'a\nb' %}{{ '\1' }}", r"{% set x = 'a\nb' %}{{ '\\1' }}"),
            (r"{% raw %}{{ '\1' }}{% endraw %}", r"{% raw %}{{ '\1' }}{% endraw %}"),
            (r"{# {{ '\1' #}{{ '}}\1' }}", r"{# {{ '\1' #}{{ '}}\\1' }}"),
            (r"{{ '\1", r"{{ '\\1"),
        ] {
            assert_eq!(keep_backslashes(text).0, expected);
        }
    }

    #[test]
    fn places_are_those_of_the_text() {
        let text = r"{{ '\d\d' ~ nope }}";
        let (template, offsets) = keep_backslashes(text);
        let at = template.find("nope").unwrap();
        assert_eq!(&text[offsets.range(at..at + 4, text)], "nope");
    }
}
