//! `command` and `shell`: a program and what it printed.
//!
//! Arguments as in Ansible's `command` and `shell`. What a program changes cannot be known, so in a plan it is an opaque
//! change and its result is unknown: those values are [`Value::Unknown`] with an empty label, which the engine fills in. A
//! task that says `changed_when: false` and `check_mode: false` only looks: the engine sets [`Command::probe`], and the
//! program runs in a plan too. Differs from Ansible: an exit code other than 0 fails with the program's last words.

use super::{Applied, Diff, Failure, Grade, Module, Needs};
use crate::system::{self, Fs, Output, View, Writer};
use crate::value::{Map, Value};
use serde::{Deserialize, Serialize};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};
use time::OffsetDateTime;

/// A program to run, unless something is there (or not there) already.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Command {
    pub program: Program,
    pub chdir: Option<PathBuf>,
    /// A path or glob: when it exists, there is nothing to do.
    pub creates: Option<String>,
    /// A path or glob: when it does not exist, there is nothing to do.
    pub removes: Option<String>,
    pub stdin: Option<String>,
    /// Whether newlines at the end of the output are left out of the result.
    pub strip_empty_ends: bool,
    /// The program only looks: run it in a plan too. Set by the engine.
    pub probe: bool,
    /// The task's `environment`. Set by the engine.
    pub environment: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Program {
    /// `~` and, if `expand`, `$NAME` are replaced in each argument; no shell reads them.
    Argv { argv: Vec<String>, expand: bool },
    Shell { script: String, executable: String },
}

/// What there is to know before the program runs.
#[derive(Debug)]
pub struct Found {
    /// Why there is nothing to do.
    skip: Option<String>,
    /// What a probe said.
    probed: Option<Map>,
}

impl Command {
    fn command(&self) -> system::Command {
        let argv = match &self.program {
            Program::Argv { argv, expand } => argv.iter().map(|word| expand_word(word, *expand)).collect(),
            Program::Shell { script, executable } => vec![executable.clone(), "-c".to_owned(), script.clone()],
        };
        system::Command {
            argv,
            env: self.environment.clone(),
            cwd: self.chdir.clone(),
            stdin: self.stdin.clone().map(String::into_bytes),
            timeout: None,
        }
    }

    /// The program as a person would type it.
    fn line(&self) -> String {
        match &self.program {
            Program::Argv { argv, .. } => argv.join(" "),
            Program::Shell { script, .. } => script.trim().to_owned(),
        }
    }

    fn cmd(&self) -> Value {
        match &self.program {
            Program::Argv { argv, .. } => Value::List(argv.iter().map(|word| word.as_str().into()).collect()),
            Program::Shell { script, .. } => script.as_str().into(),
        }
    }

    /// Runs it through `run`; `None` is that nothing was run.
    fn run(
        &self,
        run: impl FnOnce(&system::Command) -> system::Result<Option<Output>>,
    ) -> Result<Option<Map>, Failure> {
        let (start, clock) = (OffsetDateTime::now_utc(), Instant::now());
        match run(&self.command()) {
            Ok(None) => Ok(None),
            Ok(Some(output)) => {
                let mut result = self.output(&output);
                result.insert("start".into(), timestamp(start).into());
                result.insert("end".into(), timestamp(OffsetDateTime::now_utc()).into());
                result.insert("delta".into(), delta(clock.elapsed()).into());
                match output.checked() {
                    Ok(_) => Ok(Some(result)),
                    Err(error) => {
                        let message = error.to_string();
                        result.insert("msg".into(), message.as_str().into());
                        Err(Failure { message, result })
                    }
                }
            }
            // The code that Ansible reports for a program that cannot be started: conditions on `rc` go on to work.
            Err(error) => {
                let message = error.to_string();
                let mut result = self.texts("", "");
                result.insert("rc".into(), 2.into());
                result.insert("msg".into(), message.as_str().into());
                Err(Failure { message, result })
            }
        }
    }

    fn output(&self, output: &Output) -> Map {
        let strip = |text: &str| match self.strip_empty_ends {
            true => text.trim_end_matches(['\r', '\n']).to_owned(),
            false => text.to_owned(),
        };
        let mut result = self.texts(&strip(&output.stdout), &strip(&output.stderr));
        result.insert("rc".into(), output.code.into());
        result
    }

    fn texts(&self, stdout: &str, stderr: &str) -> Map {
        let lines = |text: &str| Value::List(text.lines().map(Value::from).collect());
        [
            ("cmd", self.cmd()),
            ("stdout", stdout.into()),
            ("stdout_lines", lines(stdout)),
            ("stderr", stderr.into()),
            ("stderr_lines", lines(stderr)),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }
}

impl Module for Command {
    type State = Found;
    type Change = ();

    fn query(&self, view: View<'_>) -> Result<Found, Failure> {
        let exists = |pattern: &str| matches_any(view.fs(), &self.chdir, pattern);
        let skip = match (&self.creates, &self.removes) {
            (Some(path), _) if exists(path)? => Some(format!("skipped, since {path} exists")),
            (_, Some(path)) if !exists(path)? => Some(format!("skipped, since {path} does not exist")),
            _ => None,
        };
        let probed = match self.probe && skip.is_none() {
            true => self.run(|command| view.processes().probe(command).map(Some))?,
            false => None,
        };
        Ok(Found { skip, probed })
    }

    fn diff(&self, found: &Found) -> Option<()> {
        (found.skip.is_none() && found.probed.is_none()).then_some(())
    }

    fn describe(&self, _: &Found, (): &()) -> Vec<Diff> {
        vec![Diff::Note(format!("run `{}`", self.line()))]
    }

    fn apply(
        &self,
        _: Found,
        (): (),
        writer: &mut Writer<'_>,
        needs: &mut dyn Needs,
    ) -> Result<Applied, Failure> {
        let done = self.run(|command| writer.processes().run_unless(command, &|| needs.cancelled()))?;
        let result = done.unwrap_or_else(|| {
            let unknown = ["rc", "stdout", "stdout_lines", "stderr", "stderr_lines", "start", "end", "delta"];
            let unknown = unknown.map(|key| (key.to_owned(), Value::later()));
            unknown.into_iter().chain([("cmd".to_owned(), self.cmd())]).collect()
        });
        Ok(Applied { result, grade: Grade::Opaque, ..Applied::default() })
    }

    fn result(&self, found: &Found) -> Map {
        if let Some(result) = &found.probed {
            return result.clone();
        }
        let mut result = self.texts(found.skip.as_deref().unwrap_or_default(), "");
        result.insert("rc".into(), 0.into());
        result
    }
}

/// `2026-01-31 12:00:00.000000`, in UTC.
fn timestamp(at: OffsetDateTime) -> String {
    let (date, time) = (at.date(), at.time());
    let (hour, minute, second, micro) = time.as_hms_micro();
    format!("{date} {hour:02}:{minute:02}:{second:02}.{micro:06}")
}

/// `0:00:00.001234`, as Python prints a time span.
fn delta(span: Duration) -> String {
    let seconds = span.as_secs();
    format!("{}:{:02}:{:02}.{:06}", seconds / 3600, seconds / 60 % 60, seconds % 60, span.subsec_micros())
}

/// Replaces `$NAME` and `${NAME}` (where they are set) and a leading `~`, as Ansible does for arguments.
fn expand_word(word: &str, variables: bool) -> String {
    let mut expanded = String::new();
    let mut rest = word;
    while let Some(at) = rest.find('$').filter(|_| variables) {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, length) = match after.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            Some((name, _)) => (name, name.len() + 2),
            None => {
                let end = after.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(after.len());
                (&after[..end], end)
            }
        };
        match std::env::var(name) {
            Ok(value) if !name.is_empty() => expanded.push_str(&value),
            _ => expanded.push_str(&rest[at..at + 1 + length]),
        }
        rest = &after[length..];
    }
    expanded.push_str(rest);
    match (expanded.strip_prefix('~'), std::env::var("HOME")) {
        (Some(path), Ok(home)) if path.is_empty() || path.starts_with('/') => home + path,
        _ => expanded,
    }
}

/// Whether a path exists, or one that a glob stands for. Relative paths start at `base`.
fn matches_any(fs: &Fs, base: &Option<PathBuf>, pattern: &str) -> Result<bool, Failure> {
    let path = base.as_deref().unwrap_or(Path::new("/")).join(pattern);
    if fs.exists(&path)? {
        return Ok(true);
    }
    let mut found = vec![PathBuf::from("/")];
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        let name = name.to_string_lossy();
        let mut next = Vec::new();
        for dir in found {
            if !name.contains(['*', '?']) {
                next.push(dir.join(&*name));
            } else if fs.stat(&dir)?.is_some_and(|meta| meta.is_dir()) {
                let names = fs.list(&dir)?;
                let names = names.iter().filter(|entry| wildcard(name.as_bytes(), entry.as_encoded_bytes()));
                next.extend(names.map(|entry| dir.join(entry)));
            }
        }
        found = next;
    }
    for path in found {
        if fs.exists(&path)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a name matches a pattern with `*` and `?`. A leading dot has to be written.
fn wildcard(pattern: &[u8], name: &[u8]) -> bool {
    fn matches(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.first(), name.first()) {
            (None, None) => true,
            (Some(b'*'), _) => matches(&pattern[1..], name) || !name.is_empty() && matches(pattern, &name[1..]),
            (Some(b'?'), Some(_)) => matches(&pattern[1..], &name[1..]),
            (Some(p), Some(n)) if p == n => matches(&pattern[1..], &name[1..]),
            _ => false,
        }
    }
    (name.first() != Some(&b'.') || pattern.first() == Some(&b'.')) && matches(pattern, name)
}

#[cfg(feature = "controller")]
mod from_args {
    use super::{Command, Program};
    use crate::modules::args::{ArgError, Args};
    use crate::value::Value;

    /// Arguments that may stand in the text itself: `command: make install chdir=/src`.
    const INLINE: [&str; 8] =
        ["creates", "removes", "chdir", "executable", "stdin", "stdin_add_newline", "strip_empty_ends", "expand_argument_vars"];

    impl Command {
        pub fn from_args(mut args: Args<'_>) -> Result<Self, ArgError> {
            let shell = args.module == "shell";
            let free_form = args.free_form.take().map(|text| args.take_inline(&text)).transpose()?;
            let cmd = args.opt_str("cmd")?;
            let argv = args.list("argv")?;
            let expand = args.bool("expand_argument_vars", true)?;
            let executable = args.opt_str("executable")?;
            let given = [free_form.is_some(), cmd.is_some(), argv.is_some()];
            if given.iter().filter(|given| **given).count() > 1 {
                return Err(ArgError::new("cmd", "give the program once: as text, as `cmd` or as `argv`"));
            }
            let program = match (free_form.or(cmd), argv) {
                (Some(script), _) if shell => {
                    Program::Shell { script, executable: executable.unwrap_or_else(|| "/bin/sh".to_owned()) }
                }
                (_, Some(_)) if shell => return Err(ArgError::new("argv", "`shell` takes text, not `argv`")),
                _ if executable.is_some() => {
                    return Err(ArgError::new("executable", "`executable` is for `shell`; `command` runs the program itself"));
                }
                (Some(text), _) => {
                    let argv = split(&text)
                        .ok_or_else(|| ArgError::new("cmd", "a quote or backslash at the end of the command is open"))?;
                    Program::Argv { argv, expand }
                }
                (None, Some(argv)) => Program::Argv { argv, expand },
                (None, None) => return Err(ArgError::new("cmd", "there is no command to run")),
            };
            if matches!(&program, Program::Argv { argv, .. } if argv.is_empty()) {
                return Err(ArgError::new("cmd", "there is no command to run"));
            }
            let add_newline = args.bool("stdin_add_newline", true)?;
            let stdin = args.opt_str("stdin")?.map(|text| if add_newline { text + "\n" } else { text });
            let command = Self {
                program,
                chdir: args.opt_str("chdir")?.map(Into::into),
                creates: args.opt_str("creates")?,
                removes: args.opt_str("removes")?,
                stdin,
                strip_empty_ends: args.bool("strip_empty_ends", true)?,
                probe: false,
                environment: Vec::new(),
            };
            args.finish()?;
            Ok(command)
        }
    }

    impl Args<'_> {
        /// Takes the arguments that stand in the text out of it, and returns what is left.
        fn take_inline(&mut self, text: &str) -> Result<String, ArgError> {
            let mut left = String::new();
            let mut kept = 0;
            for (start, end) in words(text) {
                let word = &text[start..end];
                let Some((key, value)) = word.split_once('=') else { continue };
                let Some(name) = INLINE.iter().find(|name| **name == key) else { continue };
                let value = shlex::split(value).map(|words| words.join(" ")).unwrap_or_else(|| value.to_owned());
                self.insert(name, Value::String(value))?;
                left.push_str(text[kept..start].trim_end_matches(' '));
                kept = end;
            }
            left.push_str(&text[kept..]);
            Ok(if kept == 0 { left } else { left.trim().to_owned() })
        }
    }

    /// Splits as a shell does; `#` is nothing special, as in Ansible. `None`: a quote is open.
    fn split(text: &str) -> Option<Vec<String>> {
        let unquote = |word: &str| match word.strip_prefix('#') {
            Some(rest) => Some(format!("#{}", shlex::split(rest)?.concat())),
            None => Some(shlex::split(word)?.concat()),
        };
        words(text).into_iter().map(|(start, end)| unquote(&text[start..end])).collect()
    }

    /// The places of the words of a text; quotes keep a word together.
    fn words(text: &str) -> Vec<(usize, usize)> {
        let mut words = Vec::new();
        let (mut start, mut quote, mut escaped) = (None, None, false);
        for (at, c) in text.char_indices() {
            let space = c.is_whitespace() && quote.is_none() && !escaped;
            match (start, space) {
                (Some(from), true) => {
                    words.push((from, at));
                    start = None;
                }
                (None, false) => start = Some(at),
                _ => {}
            }
            match c {
                _ if escaped => {}
                '\'' | '"' if quote.is_none() => quote = Some(c),
                _ if quote == Some(c) => quote = None,
                _ => {}
            }
            escaped = c == '\\' && !escaped && quote != Some('\'');
        }
        words.extend(start.map(|from| (from, text.len())));
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::args::{ArgError, Args};
    use crate::modules::testing::{TestNeeds, args};
    use crate::modules::{Outcome, converge};
    use crate::system::{Mode, System};

    fn parse(module: &str, text: &str) -> Result<Command, ArgError> {
        let mut args: Args<'static> = args([]);
        args.module = module.to_owned();
        args.free_form = Some(text.to_owned());
        Command::from_args(args)
    }

    fn run(command: &Command, mode: Mode) -> Result<Outcome, Failure> {
        converge(command, &mut System::new(mode), &mut TestNeeds::default())
    }

    fn shell(text: &str) -> Command {
        parse("shell", text).unwrap()
    }

    #[test]
    fn tells_what_the_program_printed() {
        let outcome = run(&shell("echo one; echo two; echo err >&2"), Mode::Apply).unwrap();
        assert!(outcome.changed && outcome.grade == Grade::Opaque);
        let text = |key: &str| outcome.result[key].to_string();
        assert_eq!((text("rc"), text("stdout"), text("stderr")), ("0".into(), "one\ntwo".into(), "err".into()));
        assert_eq!(text("stdout_lines"), "['one', 'two']");
        assert_eq!(text("cmd"), "echo one; echo two; echo err >&2");
        assert_eq!(text("start").len(), "2026-01-31 12:00:00.000000".len());
        assert_eq!(outcome.diff, [Diff::Note("run `echo one; echo two; echo err >&2`".to_owned())]);
    }

    #[test]
    fn plans_know_that_something_happens_and_not_what() {
        let dir = tempfile::tempdir().unwrap();
        let marker = dir.path().join("marker");
        let command = shell(&format!("touch {}", marker.display()));
        let outcome = run(&command, Mode::Plan).unwrap();
        assert!(outcome.changed && outcome.grade == Grade::Opaque && !marker.exists());
        assert_eq!(outcome.result["stdout"], Value::later());
        assert!(run(&command, Mode::Apply).unwrap().changed && marker.exists());
    }

    #[test]
    fn probes_run_in_plans() {
        let probe = Command { probe: true, ..shell("echo here") };
        let outcome = run(&probe, Mode::Plan).unwrap();
        assert!(!outcome.changed);
        assert_eq!(outcome.result["stdout"], "here".into());
        let failure = run(&Command { probe: true, ..shell("exit 4") }, Mode::Plan).unwrap_err();
        assert_eq!(failure.result["rc"], Value::Int(4));
    }

    #[test]
    fn failures_carry_the_result() {
        let failure = run(&shell("echo why >&2; exit 7"), Mode::Apply).unwrap_err();
        assert_eq!(failure.message, "`sh` failed with exit code 7: why");
        assert_eq!((&failure.result["rc"], &failure.result["stderr"]), (&Value::Int(7), &"why".into()));
        let failure = run(&parse("command", "/nowhere/tool --flag").unwrap(), Mode::Apply).unwrap_err();
        assert_eq!((failure.message.as_str(), &failure.result["rc"]), ("`tool` is not installed on this host", &Value::Int(2)));
    }

    #[test]
    fn creates_and_removes() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("done-1"), "").unwrap();
        let base = dir.path().to_path_buf();
        let skips = |creates: Option<&str>, removes: Option<&str>| {
            let (creates, removes) = (creates.map(str::to_owned), removes.map(str::to_owned));
            let command = Command { creates, removes, chdir: Some(base.clone()), ..shell("true") };
            !run(&command, Mode::Apply).unwrap().changed
        };
        assert!(skips(Some("done-1"), None) && skips(Some("done-*"), None) && skips(Some("d?ne-1"), None));
        assert!(!skips(Some("done-2"), None) && !skips(Some("*/done-1"), None));
        assert!(skips(None, Some("other*")) && !skips(None, Some("done-1")));
        let absolute = base.join("*-1").display().to_string();
        assert!(skips(Some(&absolute), None));
    }

    #[test]
    fn stdin_directory_and_environment() {
        let dir = tempfile::tempdir().unwrap();
        let command = Command {
            stdin: Some("fed\n".to_owned()),
            chdir: Some(dir.path().to_owned()),
            environment: vec![("NAME".to_owned(), "value".to_owned())],
            ..shell("cat; pwd; echo $NAME")
        };
        let out = run(&command, Mode::Apply).unwrap().result["stdout"].to_string();
        let dir = dir.path().canonicalize().unwrap();
        assert_eq!(out.lines().collect::<Vec<_>>(), ["fed", dir.to_str().unwrap(), "value"]);
    }

    #[test]
    fn free_form_text() {
        let argv = |text: &str| match parse("command", text).unwrap().program {
            Program::Argv { argv, .. } => argv,
            Program::Shell { .. } => panic!("a shell"),
        };
        assert_eq!(argv("echo 'a b' \"c d\" e\\ f #g"), ["echo", "a b", "c d", "e f", "#g"]);
        let parsed = parse("command", "make install creates=/opt/'a b' chdir=/src FOO=bar").unwrap();
        assert_eq!((parsed.creates.as_deref(), parsed.chdir.as_deref()), (Some("/opt/a b"), Some(Path::new("/src"))));
        assert_eq!(parsed.line(), "make install FOO=bar");
        let script = "set -e\nfor i in 1 2; do\n  echo  $i\ndone\n";
        assert_eq!(parse("shell", script).unwrap().line(), script.trim());
        assert_eq!(shell("echo creates=1x").creates.as_deref(), Some("1x"));
        assert!(parse("command", "echo 'open").unwrap_err().message.contains("open"));
        assert!(parse("command", " ").is_err());
        assert!(parse("command", "ls executable=/bin/bash").is_err());
        assert!(parse("command", "ls creates=/a creates=/b").is_err());
    }

    #[test]
    fn arguments_by_name() {
        let list = Value::List(vec!["echo".into(), 1.into(), "$HOME/x".into()]);
        let parsed = Command::from_args(args([("argv", list), ("stdin", "text".into())])).unwrap();
        assert_eq!(parsed.stdin.as_deref(), Some("text\n"));
        let out = run(&parsed, Mode::Apply).unwrap().result["stdout"].to_string();
        assert_eq!(out, format!("1 {}/x", std::env::var("HOME").unwrap()));
        assert!(Command::from_args(args([("warn", false.into()), ("cmd", "ls".into())])).is_err());
        assert!(Command::from_args(args([])).is_err());
    }

    #[test]
    fn expands_what_is_set() {
        let home = std::env::var("HOME").unwrap();
        assert_eq!(expand_word("${HOME}/a$KPROV_UNSET_VARIABLE-$", true), format!("{home}/a$KPROV_UNSET_VARIABLE-$"));
        assert_eq!(expand_word("~/x", true), format!("{home}/x"));
        assert_eq!(expand_word("$HOME", false), "$HOME");
        assert_eq!(expand_word("a~", true), "a~");
    }
}
