use super::*;
use crate::agent::protocol::{FromAgent, Keep};
use crate::system::{Content, Mode, Owner, System};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::{Arc, Mutex};

const KEEP: Keep = Keep { runs: 20, file_mb: 1, run_mb: 2 };

fn header(id: &str) -> RunHeader {
    RunHeader { id: id.to_owned(), keep: KEEP, ..RunHeader::default() }
}

fn step(task: &str) -> StepName {
    StepName { task: task.to_owned(), ..StepName::default() }
}

fn text(state: &Path, id: &str) -> String {
    fs::read_to_string(state.join(RUNS).join(id).join(JOURNAL)).unwrap()
}

fn entries(state: &Path, id: &str) -> Vec<Entry> {
    text(state, id).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// A change of the file system that is recorded as one step; returns what was there before.
fn change(state: &Path, run: &RunHeader, what: impl FnOnce(&mut crate::system::Fs)) -> Vec<Before> {
    let journal = Arc::new(Mutex::new(Journal::new(state, run.clone())));
    let mut system = System::new(Mode::Apply);
    let keeper = journal.clone();
    system.keep(Box::new(move |at, whole| keeper.lock().unwrap().before(at, whole)));
    journal.lock().unwrap().begin(&step("change")).unwrap();
    what(system.writer().fs());
    journal.lock().unwrap().end_step(&step("change"), 0.1, Ok((true, &[]))).unwrap();
    let last = entries(state, &run.id).into_iter().filter_map(|entry| match entry {
        Entry::Before(before) => Some(before),
        _ => None,
    });
    let last: Vec<_> = last.collect();
    let number = last.last().map_or(0, |before| before.step);
    last.into_iter().filter(|before| before.step == number).collect()
}

fn image(state: &Path, id: &str, before: &Before) -> PathBuf {
    state.join(RUNS).join(id).join(before.image.as_ref().unwrap())
}

#[test]
fn nothing_is_written_before_something_changes() {
    let state = tempfile::tempdir().unwrap();
    let mut journal = Journal::new(state.path(), header("r1"));
    journal.end_step(&step("looks"), 0.1, Ok((false, &[]))).unwrap();
    journal.end_step(&step("fails"), 0.1, Err(&Failure::new("no"))).unwrap();
    journal.end(RunEnd::default()).unwrap();
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);

    let mut witness = Journal::new(state.path(), RunHeader { always: true, ..header("r1") });
    assert!(matches!(&entries(state.path(), "r1")[..], [Entry::Run { version: VERSION, run }] if run.id == "r1"));
    witness.end(RunEnd { status: "done".to_owned(), ..RunEnd::default() }).unwrap();
    assert!(
        matches!(&entries(state.path(), "r1")[..], [_, Entry::End { changed: 0, end, .. }] if end.status == "done")
    );
    assert!(read::is_idle(&state.path().join("runs/r1")));
}

#[test]
fn a_step_has_a_line_before_and_lines_after() {
    let state = tempfile::tempdir().unwrap();
    let mut journal = Journal::new(state.path(), header("r1"));
    journal.begin(&step("one")).unwrap();
    assert!(matches!(&entries(state.path(), "r1")[1..], [Entry::Step { step: 1, .. }]));
    let diff = [Diff::Text { path: "/x".to_owned(), before: None, after: Some("a\n\"b\"".to_owned()) }];
    journal.end_step(&step("one"), 0.25, Ok((true, &diff))).unwrap();
    journal.end_step(&step("two"), 0.1, Err(&Failure::new("why"))).unwrap();
    let found = entries(state.path(), "r1");
    let [_, _, Entry::Diff { step: 1, diff: shown }, Entry::Done { status, .. }, _, failed] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!((shown.as_slice(), *status), (&diff[..], Status::Changed));
    let message = Some("why".to_owned());
    assert_eq!(*failed, Entry::Done { step: 2, status: Status::Failed, seconds: 0.1, message });
}

#[test]
fn a_line_that_was_cut_off_costs_only_itself() {
    let state = tempfile::tempdir().unwrap();
    let mut journal = Journal::new(state.path(), header("r1"));
    journal.begin(&step("one")).unwrap();
    journal.end_step(&step("one"), 0.1, Ok((true, &[]))).unwrap();
    journal.begin(&step("two")).unwrap();
    drop(journal);
    let path = state.path().join("runs/r1/journal");
    let whole = fs::read(&path).unwrap();
    // The power went while the last line was written.
    fs::write(&path, &whole[..whole.len() - 20]).unwrap();

    let mut next = Journal::new(state.path(), header("r1"));
    next.begin(&step("three")).unwrap();
    next.end_step(&step("three"), 0.1, Ok((true, &[]))).unwrap();
    let names = entries(state.path(), "r1").into_iter().filter_map(|entry| match entry {
        Entry::Step { step, name, .. } => Some((step, name.task)),
        _ => None,
    });
    assert_eq!(names.collect::<Vec<_>>(), [(1, "one".to_owned()), (3, "three".to_owned())]);
    assert_eq!(text(state.path(), "r1").matches("\"record\":\"run\"").count(), 1);
}

#[test]
fn what_is_not_to_be_logged_is_not() {
    let state = tempfile::tempdir().unwrap();
    let mut journal = Journal::new(state.path(), header("r1"));
    let hidden = StepName { no_log: true, ..step("hidden") };
    let diff = [Diff::Note("hush".to_owned())];
    journal.begin(&hidden).unwrap();
    journal.end_step(&hidden, 0.1, Ok((true, &diff))).unwrap();
    journal.begin(&hidden).unwrap();
    journal.end_step(&hidden, 0.1, Err(&Failure::new("hush"))).unwrap();
    assert!(!text(state.path(), "r1").contains("hush"));
    assert_eq!(text(state.path(), "r1").matches("\"status\":").count(), 2);
}

#[test]
fn what_is_replaced_is_kept_and_nobody_else_can_read_it() {
    let (state, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let run = header("r1");
    let file = root.path().join("tls.key");
    let write = |text: &str| {
        let bytes = Content::Bytes(text.into());
        let file = file.clone();
        move |fs: &mut crate::system::Fs| {
            fs.write(&file, bytes, Some(0o644), Owner::default()).unwrap();
            fs.chmod(&file, 0o600).unwrap();
        }
    };
    let made = change(state.path(), &run, write("first"));
    assert!(matches!(&made[..], [Before { kind: Kind::Absent, image: None, .. }]), "{made:?}");

    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let replaced = change(state.path(), &run, write("second"));
    let [before] = &replaced[..] else { panic!("{replaced:?}") };
    assert_eq!((before.kind, before.mode.as_deref(), before.size), (Kind::File, Some("0644"), Some(5)));
    let kept = image(state.path(), "r1", before);
    assert_eq!(fs::read_to_string(&kept).unwrap(), "first");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&kept), 0o600);
    for directory in ["runs", "runs/r1", "runs/r1/before"] {
        assert_eq!(mode(&state.path().join(directory)), 0o700);
    }
    assert_eq!(mode(&state.path().join("runs/r1/journal")), 0o600);
    assert!(!text(state.path(), "r1").contains("first"), "content is in images only");

    let attributes = change(state.path(), &run, |fs| fs.chmod(&file, 0o640).unwrap());
    assert!(matches!(&attributes[..], [Before { attributes: true, image: None, not_kept: None, .. }]));

    let link = root.path().join("link");
    symlink("tls.key", &link).unwrap();
    let relinked = change(state.path(), &run, |fs| fs.symlink(&link, Path::new("other")).unwrap());
    assert_eq!(relinked[0].target.as_deref(), Some("tls.key"));
}

#[test]
fn limits_leave_size_and_digest() {
    let (state, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let run = header("r1");
    let replace = |name: &str, size: usize| {
        let path = root.path().join(name);
        fs::write(&path, vec![7; size]).unwrap();
        let mut records = change(state.path(), &run, |fs| fs.remove(&path).unwrap());
        assert_eq!(records.len(), 1);
        records.remove(0)
    };
    let large = replace("large", (1 << 20) + 1);
    assert_eq!((large.image, large.size), (None, Some((1 << 20) + 1)));
    assert!(large.not_kept.unwrap().contains("kprov_record_file_mb"));
    assert_eq!(large.sha256.unwrap().len(), 64);
    for (name, kept) in [("a", true), ("b", true), ("c", false)] {
        let record = replace(name, 1 << 20);
        assert_eq!(record.image.is_some(), kept, "{name}: {record:?}");
        assert!(record.sha256.is_some());
    }
}

#[test]
fn a_tree_is_kept_entry_by_entry() {
    let (state, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tree = root.path().join("tree");
    fs::create_dir_all(tree.join("inner")).unwrap();
    fs::write(tree.join("inner/file"), "deep").unwrap();
    symlink("inner", tree.join("link")).unwrap();
    let records = change(state.path(), &header("r1"), |fs| fs.remove(&tree).unwrap());
    assert!(!tree.exists());
    let at = |name: &str| records.iter().position(|before| Path::new(&before.path) == tree.join(name)).unwrap();
    assert!(at("") < at("inner") && at("inner") < at("inner/file"));
    assert_eq!(records[at("link")].kind, Kind::Link);
    assert_eq!(fs::read_to_string(image(state.path(), "r1", &records[at("inner/file")])).unwrap(), "deep");

    fs::create_dir(&tree).unwrap();
    for number in 0..1010 {
        fs::write(tree.join(number.to_string()), "x").unwrap();
    }
    let records = change(state.path(), &header("r2"), |fs| fs.remove(&tree).unwrap());
    let rest = records.last().unwrap();
    assert_eq!((rest.kind, rest.size, records.len()), (Kind::Rest, Some(10), 1002));
}

#[test]
fn old_runs_go_and_runs_that_changed_nothing_do_not_push_them_out() {
    let state = tempfile::tempdir().unwrap();
    let keep = Keep { runs: 2, ..KEEP };
    let run = |id: &str, changes: bool| {
        let mut journal = Journal::new(state.path(), RunHeader { always: true, keep, ..header(id) });
        if changes {
            journal.begin(&step("one")).unwrap();
            journal.end_step(&step("one"), 0.1, Ok((true, &[]))).unwrap();
        }
        journal.end(RunEnd::default()).unwrap();
    };
    for (id, changes) in [("r1", true), ("r2", true), ("r3", false), ("r4", false), ("r5", false), ("r6", true)] {
        run(id, changes);
    }
    assert_eq!(read::ids(&state.path().join(RUNS)).unwrap(), ["r2", "r4", "r5", "r6"]);
}

#[test]
fn it_is_known_whether_an_agent_is_there() {
    let state = tempfile::tempdir().unwrap();
    let mut journal = Journal::new(state.path(), header("r1"));
    journal.begin(&step("one")).unwrap();
    journal.end_step(&step("one"), 0.1, Ok((true, &[Diff::Note("shown".to_owned())]))).unwrap();
    let ask = |run: Option<&str>| {
        let mut answers = Vec::new();
        send(state.path(), run, |answer| {
            answers.push(answer);
            Ok(())
        })
        .unwrap();
        let [FromAgent::Record { run, running, bytes }] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!(run, "r1");
        (*running, String::from_utf8(bytes.clone()).unwrap())
    };
    let (running, overview) = ask(None);
    assert!(running && !overview.contains("shown") && overview.contains("\"record\":\"done\""));
    assert!(ask(Some("r1")).1.contains("shown"));
    drop(journal);
    assert!(!ask(None).0);
}
