//! Artifacts from real HTTP servers on loopback and real directories: who serves, who is asked, what is refused.

use kprov::artifacts::{Artifact, ArtifactError, Catalog, Location, Resolved, Store};
use kprov::source::{InputError, Source, Span};
use kprov::template::{Scope, Templar};
use kprov::value::Value;
use kprov::vars::{Var, VarMap};
use kprov::yaml;
use sha2::Digest as _;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

const PATH: &str = "example.org/tool/v1.0/tool-amd64";
const ARCHIVE: &str = "example.org/suite/v1.0/suite-amd64.tar.gz";

/// What the server says next for a path; the last answer stays.
#[derive(Clone)]
enum Answer {
    Body(Vec<u8>),
    Status(u16),
    /// Announces the whole and closes after half of it.
    Half(Vec<u8>),
}

/// A mirror on loopback.
struct Mirror {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Mirror {
    fn new(answers: impl IntoIterator<Item = (&'static str, Vec<Answer>)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answers: Mutex<HashMap<String, Vec<Answer>>> =
            Mutex::new(answers.into_iter().map(|(path, answers)| (format!("/{path}"), answers)).collect());
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = requests.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let mut lines = BufReader::new(connection.try_clone().unwrap()).lines();
                let Some(Ok(request)) = lines.next() else { continue };
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                let mut words = request.split(' ');
                let (method, path) = (words.next().unwrap(), words.next().unwrap());
                seen.lock().unwrap().push(format!("{method} {}", &path[1..]));
                let answer = match answers.lock().unwrap().get_mut(path) {
                    None => Answer::Status(404),
                    Some(list) if list.len() > 1 => list.remove(0),
                    Some(list) => list[0].clone(),
                };
                let (status, announced, body) = match &answer {
                    Answer::Body(body) => (200, body.len(), &body[..]),
                    Answer::Half(body) => (200, body.len(), &body[..body.len() / 2]),
                    Answer::Status(status) => (*status, 0, &[][..]),
                };
                let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {announced}\r\nConnection: close\r\n\r\n");
                // A client that has seen enough may hang up.
                let _ = connection.write_all(head.as_bytes());
                if method == "GET" {
                    let _ = connection.write_all(body);
                }
            }
        });
        Self { url, requests }
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn map(items: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    items.into_iter().collect()
}

/// A catalogue with one plain file `tool` and one archive `suite`, both of version 1.0, pinned to these bytes.
fn catalog(sources: &[&str], tool: &[u8], suite: &[u8]) -> Result<Catalog, InputError> {
    let pin = |bytes: &[u8]| map([("amd64", map([("1.0", format!("sha256:{}", sha256(bytes)).into())]))]);
    let file = Source::new("group_vars/all.yml", "tool_version: '1.0'\n");
    let origin: Span = file.span(0, 12);
    let vars = map([
        ("artifact_sources", Value::List(sources.iter().map(|s| (*s).into()).collect())),
        ("tool_version", "1.0".into()),
        ("tool_checksums", pin(tool)),
        ("suite_checksums", pin(suite)),
        ("image_repo", "registry.example.org/pause".into()),
        ("image_tag", "3.10.1".into()),
        (
            "artifacts",
            map([
                (
                    "tool",
                    map([
                        ("version", "tool_version".into()),
                        ("checksums", "tool_checksums".into()),
                        ("path", "example.org/tool/v{version}/tool-{arch}".into()),
                    ]),
                ),
                (
                    "suite",
                    map([
                        ("version", "tool_version".into()),
                        ("checksums", "suite_checksums".into()),
                        ("path", "example.org/suite/v{version}/suite-{arch}.tar.gz".into()),
                        ("members", Value::List(vec!["suite-{version}/one".into(), "suite-{version}/two".into()])),
                    ]),
                ),
                ("pause", map([("image", map([("repository", "image_repo".into()), ("tag", "image_tag".into())]))])),
            ]),
        ),
    ]);
    Catalog::from_vars(Path::new("/"), &|name| Ok(vars.get(name).map(|v| (v.clone(), Some(origin.clone())))))
}

fn resolve(catalog: &Catalog, name: &str) -> Arc<Artifact> {
    match catalog.resolve(name, None, "amd64").unwrap() {
        Resolved::File(artifact) => artifact,
        Resolved::Pull { image } => panic!("{name} is pulled as {image}"),
    }
}

/// A directory source with a list that is right.
fn directory(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut list = String::new();
    for (path, bytes) in files {
        std::fs::create_dir_all(dir.path().join(path).parent().unwrap()).unwrap();
        std::fs::write(dir.path().join(path), bytes).unwrap();
        list += &format!("{}  {path}\n", sha256(bytes));
    }
    std::fs::write(dir.path().join("SHA256SUMS"), list).unwrap();
    dir
}

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        header.set_cksum();
        tar.append_data(&mut header, path, *bytes).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

fn files_below(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_serves_once_and_the_cache_from_then_on() {
    let mirror = Mirror::new([(PATH, vec![Answer::Body(b"tool".to_vec())])]);
    let cache = tempfile::tempdir().unwrap();
    let artifact = resolve(&catalog(&[&mirror.url], b"tool", b"").unwrap(), "tool");
    assert_eq!(artifact.digest.to_string(), format!("sha256:{}", sha256(b"tool")));
    assert_eq!(mirror.requests(), Vec::<String>::new(), "resolving asks nobody");

    let store = Store::new(cache.path().to_owned());
    let blob = store.blob(&artifact, None).unwrap();
    let (a, b, c) = tokio::join!(store.open(&blob), store.open(&blob), store.open(&blob));
    let opened = a.unwrap();
    assert_eq!(opened, b.unwrap());
    assert_eq!(opened, c.unwrap());
    assert_eq!((opened.size, opened.sha256.as_str()), (4, sha256(b"tool").as_str()));
    assert_eq!(std::fs::read(&opened.path).unwrap(), b"tool");
    assert_eq!(opened.path, cache.path().join("sha256").join(sha256(b"tool")));
    assert_eq!(mirror.requests(), [format!("GET {PATH}")], "concurrent requests are one download");

    let again = Store::new(cache.path().to_owned());
    assert_eq!(again.open(&again.blob(&artifact, None).unwrap()).await.unwrap(), opened);
    assert!(again.check_reachable(std::slice::from_ref(&artifact)).await.is_empty());
    assert_eq!(mirror.requests(), Vec::<String>::new());

    // A damaged file in the cache is not used.
    std::fs::write(&opened.path, "evil").unwrap();
    let third = Store::new(cache.path().to_owned());
    assert_eq!(third.open(&third.blob(&artifact, None).unwrap()).await.unwrap(), opened);
    assert_eq!(std::fs::read(&opened.path).unwrap(), b"tool");
    assert_eq!(mirror.requests(), [format!("GET {PATH}")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_source_serves_what_the_first_has_not() {
    let empty = Mirror::new([]);
    let full = Mirror::new([(PATH, vec![Answer::Body(b"tool".to_vec())])]);
    let cache = tempfile::tempdir().unwrap();
    let artifact = resolve(&catalog(&[&empty.url, &full.url], b"tool", b"").unwrap(), "tool");
    let store = Store::new(cache.path().to_owned());
    assert!(store.check_reachable(std::slice::from_ref(&artifact)).await.is_empty());
    assert_eq!(full.requests(), [format!("HEAD {PATH}")], "asking does not download");
    store.open(&store.blob(&artifact, None).unwrap()).await.unwrap();
    assert_eq!(empty.requests().last().unwrap(), &format!("GET {PATH}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_with_the_wrong_bytes_is_an_error_and_not_skipped() {
    let wrong = Mirror::new([(PATH, vec![Answer::Body(b"evil".to_vec())])]);
    let right = Mirror::new([(PATH, vec![Answer::Body(b"tool".to_vec())])]);
    let cache = tempfile::tempdir().unwrap();
    let artifact = resolve(&catalog(&[&wrong.url, &right.url], b"tool", b"").unwrap(), "tool");
    let store = Store::new(cache.path().to_owned());
    let error = store.open(&store.blob(&artifact, None).unwrap()).await.unwrap_err();
    let ArtifactError::WrongDigest { location, expected, found, .. } = &*error else { panic!("{error}") };
    assert_eq!(location, &format!("{}/{PATH}", wrong.url));
    assert_eq!((expected.hex(), found.hex()), (sha256(b"tool").as_str(), sha256(b"evil").as_str()));
    assert!(error.to_string().contains("tool 1.0 for amd64"), "{error}");
    assert_eq!(right.requests(), Vec::<String>::new());
    assert_eq!(files_below(cache.path()), Vec::<String>::new(), "nothing of it stays in the cache");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_in_trouble_is_tried_again_and_half_a_body_never_counts() {
    let body = vec![b'x'; 100_000];
    let answers = vec![Answer::Status(500), Answer::Half(body.clone()), Answer::Body(body.clone())];
    let mirror = Mirror::new([(PATH, answers)]);
    let cache = tempfile::tempdir().unwrap();
    let artifact = resolve(&catalog(&[&mirror.url], &body, b"").unwrap(), "tool");
    let store = Store::new(cache.path().to_owned());
    let opened = store.open(&store.blob(&artifact, None).unwrap()).await.unwrap();
    assert_eq!(std::fs::read(opened.path).unwrap(), body);
    assert_eq!(mirror.requests().len(), 3);

    let broken = Mirror::new([(PATH, vec![Answer::Half(body.clone())])]);
    let cache = tempfile::tempdir().unwrap();
    let artifact = resolve(&catalog(&[&broken.url], &body, b"").unwrap(), "tool");
    let store = Store::new(cache.path().to_owned());
    let error = store.open(&store.blob(&artifact, None).unwrap()).await.unwrap_err();
    assert!(matches!(&*error, ArtifactError::Unavailable { reasons, .. } if reasons.len() == 1), "{error}");
    assert_eq!(broken.requests().len(), 3, "attempts are bounded");
    assert_eq!(files_below(cache.path()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_serves_in_place_where_upstream_cannot_be_reached() {
    // Nobody listens on a port that was just given back.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let gone = format!("http://127.0.0.1:{port}");
    let dir = directory(&[(PATH, b"our own build")]);
    let cache = tempfile::tempdir().unwrap();
    let here = dir.path().to_str().unwrap();
    let artifact = resolve(&catalog(&[&gone, here], b"tool", b"").unwrap(), "tool");
    assert_eq!(artifact.candidates.len(), 2);
    let store = Store::new(cache.path().to_owned());
    assert!(store.check_reachable(std::slice::from_ref(&artifact)).await.is_empty());
    let opened = store.open(&store.blob(&artifact, None).unwrap()).await.unwrap();
    assert_eq!((opened.path, opened.sha256), (dir.path().join(PATH), sha256(b"our own build")));

    let only = resolve(&catalog(&[&gone], b"tool", b"").unwrap(), "tool");
    let unreachable = Store::new(cache.path().to_owned()).check_reachable(&[only]).await;
    assert_eq!(unreachable.len(), 1);
    let text = unreachable[0].error.to_string();
    assert!(text.contains(&gone) && text.contains("refused"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_held_to_its_own_list() {
    let dir = directory(&[(PATH, b"tool")]);
    let here = dir.path().to_str().unwrap();
    let cache = tempfile::tempdir().unwrap();
    let store = Store::new(cache.path().to_owned());
    std::fs::write(dir.path().join(PATH), "evil").unwrap();
    let artifact = resolve(&catalog(&[here], b"", b"").unwrap(), "tool");
    let error = store.open(&store.blob(&artifact, None).unwrap()).await.unwrap_err();
    assert!(matches!(&*error, ArtifactError::WrongDigest { .. }), "{error}");

    std::fs::remove_file(dir.path().join(PATH)).unwrap();
    let unreachable = Store::new(cache.path().to_owned()).check_reachable(&[artifact]).await;
    assert!(unreachable[0].error.to_string().contains("it is not there"), "{}", unreachable[0].error);

    std::fs::create_dir_all(dir.path().join(ARCHIVE).parent().unwrap()).unwrap();
    std::fs::write(dir.path().join(ARCHIVE), "x").unwrap();
    let error = catalog(&[here], b"", b"").unwrap().resolve("suite", None, "amd64").unwrap_err();
    assert!(error.message.contains("is not listed in"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_unpacked_once() {
    let bytes = archive(&[("./suite-1.0/zero", b"0"), ("./suite-1.0/one", b"eins"), ("./suite-1.0/two", b"zwei")]);
    let mirror = Mirror::new([(ARCHIVE, vec![Answer::Body(bytes.clone())])]);
    let cache = tempfile::tempdir().unwrap();
    let artifact = resolve(&catalog(&[&mirror.url], b"", &bytes).unwrap(), "suite");
    let store = Store::new(cache.path().to_owned());
    let (one, two) = (store.blob(&artifact, Some("one")).unwrap(), store.blob(&artifact, Some("two")).unwrap());
    assert_eq!(one.member.as_deref(), Some("suite-1.0/one"));
    let (one, two) = tokio::join!(store.open(&one), store.open(&two));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!((one.sha256, std::fs::read(&one.path).unwrap()), (sha256(b"eins"), b"eins".to_vec()));
    assert_eq!((two.sha256, std::fs::read(&two.path).unwrap()), (sha256(b"zwei"), b"zwei".to_vec()));
    assert_eq!(mirror.requests().len(), 1);

    let error = store.blob(&artifact, Some("tw")).unwrap_err();
    assert_eq!(error.help.as_deref(), Some("did you mean `two`?"));

    // Nothing is unpacked again, except what was damaged.
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
    let (before_one, before_two) = (inode(&one.path), inode(&two.path));
    std::fs::write(&two.path, "evil").unwrap();
    let again = Store::new(cache.path().to_owned());
    again.open(&again.blob(&artifact, Some("one")).unwrap()).await.unwrap();
    let repaired = again.open(&again.blob(&artifact, Some("two")).unwrap()).await.unwrap();
    assert_eq!(std::fs::read(repaired.path).unwrap(), b"zwei");
    assert_eq!(inode(&one.path), before_one);
    assert_ne!(inode(&two.path), before_two);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_without_the_member_says_so() {
    let bytes = archive(&[("suite-1.0/one", b"1"), ("suite-1.0/tow", b"2")]);
    let dir = directory(&[(ARCHIVE, &bytes)]);
    let cache = tempfile::tempdir().unwrap();
    let artifact = resolve(&catalog(&[dir.path().to_str().unwrap()], b"", b"").unwrap(), "suite");
    let store = Store::new(cache.path().to_owned());
    let error = store.open(&store.blob(&artifact, Some("two")).unwrap()).await.unwrap_err();
    assert!(error.to_string().ends_with("has no file `suite-1.0/two`, but `suite-1.0/tow`"), "{error}");

    let dir = directory(&[(ARCHIVE, b"this is no archive")]);
    let artifact = resolve(&catalog(&[dir.path().to_str().unwrap()], b"", b"").unwrap(), "suite");
    let error = store.open(&store.blob(&artifact, Some("two")).unwrap()).await.unwrap_err();
    assert!(matches!(&*error, ArtifactError::Archive { .. }), "{error}");
}

#[test]
fn an_image_is_a_file_where_a_directory_has_it_and_pulled_elsewhere() {
    let path = "registry.example.org/pause/3.10.1-linux-amd64.tar";
    let dir = directory(&[(path, b"image")]);
    let artifact = resolve(&catalog(&["upstream", dir.path().to_str().unwrap()], b"", b"").unwrap(), "pause");
    assert_eq!(artifact.image.as_deref(), Some("registry.example.org/pause:3.10.1"));
    assert_eq!(artifact.candidates[0].location, Location::File(dir.path().join(path)));
    match catalog(&["upstream"], b"", b"").unwrap().resolve("pause", None, "amd64").unwrap() {
        Resolved::Pull { image } => assert_eq!(image, "registry.example.org/pause:3.10.1"),
        Resolved::File(artifact) => panic!("{artifact:?}"),
    }
}

#[test]
fn a_version_without_a_digest_names_the_variable_that_takes_one() {
    let error = catalog(&["upstream"], b"", b"").unwrap().resolve("tool", Some("9.9"), "amd64").unwrap_err();
    assert!(error.message.contains("tool 9.9 for amd64 (tool_version)"), "{error}");
    assert!(error.help.as_deref().unwrap().contains("tool_checksums: {amd64: {\"9.9\": \"sha512:…\"}}"), "{error:?}");
    assert_eq!(error.span.unwrap().to_string(), "group_vars/all.yml:1");
    let error = catalog(&["upstream"], b"", b"").unwrap().resolve("tol", None, "amd64").unwrap_err();
    assert_eq!(error.help.as_deref(), Some("did you mean `tool`?"));
    assert!(catalog(&["upstream"], b"", b"").unwrap().resolve("tool", None, "s390x").is_err());
}

/// kprov's own defaults with some of the user's on top.
struct Shipped(VarMap);

impl Shipped {
    fn with(extra: &[(&str, &str)]) -> Arc<dyn Scope> {
        let mut vars = VarMap::new();
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/group_vars/all")).unwrap() {
            let source = Source::read(&entry.unwrap().path()).unwrap();
            let node = yaml::load(&source).unwrap();
            for (name, value) in node.to_value().as_map().unwrap() {
                let fresh = vars.insert(name.clone(), Var::at(value.clone(), source.span(0, 0))).is_none();
                assert!(fresh, "{name} is set twice in group_vars/all");
            }
        }
        for (name, value) in extra {
            vars.insert((*name).to_owned(), Var::at(*value, Source::new("hosts.ini", "").span(0, 0)));
        }
        Arc::new(Self(vars))
    }
}

impl Scope for Shipped {
    fn lookup(&self, name: &str) -> Option<Var> {
        self.0.get(name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn hosts(&self) -> Vec<String> {
        Vec::new()
    }

    fn host(&self, _: &str) -> Option<Arc<dyn Scope>> {
        None
    }
}

fn shipped(extra: &[(&str, &str)]) -> Catalog {
    let (scope, templar) = (Shipped::with(extra), Templar::new());
    Catalog::from_vars(Path::new("/"), &|name| {
        let Some(var) = scope.lookup(name) else { return Ok(None) };
        let value = templar.render(&var.value, &scope).map_err(|e| InputError::new(e.to_string()))?;
        Ok(Some((value, var.origin)))
    })
    .unwrap()
}

#[test]
fn the_shipped_catalogue_pins_every_file_of_the_pinned_lines() {
    for version in ["1.36.0", "1.35.4"] {
        let catalog = shipped(&[("kube_version", version)]);
        for arch in ["amd64", "arm64"] {
            for name in catalog.names() {
                match catalog.resolve(name, None, arch).unwrap() {
                    Resolved::File(artifact) => {
                        let url = format!("https://{}", artifact.path);
                        assert_eq!(artifact.candidates[0].location, Location::Url(url));
                    }
                    Resolved::Pull { image } => assert!(image.starts_with("registry.k8s.io/"), "{image}"),
                }
            }
        }
    }
    let error = shipped(&[("kube_version", "1.37.0")]).resolve("kubernetes", None, "amd64").unwrap_err();
    assert!(
        error.message.starts_with("kubernetes 1.37.0 for amd64 (kube_version): no digest of it is known"),
        "{error}"
    );
    assert!(error.help.unwrap().starts_with("give its digest: kubernetes_checksums: {amd64: {\"1.37.0\": "));
    assert_eq!(error.span.unwrap().to_string(), "hosts.ini:1");
}

#[test]
fn mirrors_and_proxies_of_kubespray_inventories_are_asked() {
    let etcd = "{{ files_repo }}/github.com/etcd-io/etcd/releases/download/v{{ etcd_version }}/\
                etcd-v{{ etcd_version }}-linux-{{ image_arch }}.tar.gz";
    let catalog = shipped(&[
        ("files_repo", "http://files/"),
        ("github_url", "https://proxy/gh/"),
        ("etcd_download_url", etcd),
        ("ansible_architecture", "x86_64"),
    ]);
    let urls = |name| -> Vec<String> {
        resolve(&catalog, name).candidates.iter().map(|candidate| candidate.location.to_string()).collect()
    };
    assert_eq!(
        urls("runc"),
        [
            "http://files/github.com/opencontainers/runc/releases/download/v1.4.3/runc.amd64",
            "https://proxy/gh/opencontainers/runc/releases/download/v1.4.3/runc.amd64",
        ]
    );
    let path = "github.com/etcd-io/etcd/releases/download/v3.6.14/etcd-v3.6.14-linux-amd64.tar.gz";
    // The double slash is the user's: `files_repo` ends with one.
    assert_eq!(urls("etcd"), [format!("http://files/{path}"), format!("http://files//{path}")]);
    assert_eq!(urls("kubernetes")[1], "https://dl.k8s.io/v1.36.0/kubernetes-server-linux-amd64.tar.gz");
}

#[test]
fn every_shipped_variable_is_declared() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/playbooks/argument_specs.yml");
    let specs = yaml::load(&Source::read(Path::new(path)).unwrap()).unwrap().to_value();
    let options = ["argument_specs", "main", "options"].iter().try_fold(&specs, |value, key| value.get(key)).unwrap();
    for name in Shipped::with(&[]).names() {
        assert!(
            options.get(&name).is_some(),
            "{name} of group_vars/all is not declared in playbooks/argument_specs.yml"
        );
    }
}

#[test]
fn the_command_lists_and_fetches() {
    let inventory = directory(&[]);
    let hosts = inventory.path().join("hosts.ini");
    std::fs::write(&hosts, "[kube_node]\nn1\n").unwrap();
    let catalog = inventory.path().join("group_vars/all.yml");
    std::fs::create_dir_all(catalog.parent().unwrap()).unwrap();
    let text = "artifact_sources: [./files/]\ntool_version: '1.0'\nartifacts:\n  tool:\n    version: tool_version\n    \
                path: example.org/tool/v{version}/tool-{arch}\n";
    std::fs::write(catalog, text).unwrap();
    let file = inventory.path().join("files").join(PATH);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "tool").unwrap();
    std::fs::write(inventory.path().join("files/SHA256SUMS"), format!("{}  {PATH}\n", sha256(b"tool"))).unwrap();

    let cache = tempfile::tempdir().unwrap();
    let kprov = |verb: &str| {
        let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_kprov"));
        command.env("XDG_CACHE_HOME", cache.path()).args(["artifacts", verb, "--arch", "amd64", "-i"]).arg(&hosts);
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, stdout, stderr) = kprov("list");
    let file = file.to_str().unwrap();
    assert_eq!((code, stdout), (Some(0), format!("tool 1.0 amd64 sha256:{} {file}\n", sha256(b"tool"))), "{stderr}");
    let (code, stdout, stderr) = kprov("fetch");
    assert_eq!((code, stdout), (Some(0), format!("tool 1.0 for amd64: {file} (4 bytes)\n")), "{stderr}");
    std::fs::write(file, "evil").unwrap();
    let (code, stdout, stderr) = kprov("fetch");
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(stderr.contains("has the wrong digest: expected sha256:"), "{stderr}");
}

#[test]
fn what_cannot_be_had_fails_its_task_and_leaves_nothing() {
    let _alone = crate::sshd::alone();
    let whole = vec![b'x'; 100_000];
    let half = || Answer::Half(whole.clone());
    let answers = vec![Answer::Body(b"evil".to_vec()), half(), half(), half(), Answer::Body(whole.clone())];
    let mirror = Mirror::new([(PATH, answers)]);
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("hosts.ini", "n1 ansible_connection=local\n");
    let catalog =
        "artifacts: {tool: {version: tool_version, checksums: sums, path: 'example.org/tool/v{version}/tool-{arch}'}}";
    let vars = format!(
        "artifact_sources: ['{}']\ntool_version: '1.0'\nsums: {{amd64: {{'1.0': 'sha256:{hex}'}}, arm64: {{'1.0': 'sha256:{hex}'}}}}\n",
        mirror.url,
        hex = sha256(&whole)
    );
    let task = "- hosts: all\n  tasks:\n    - name: Get the tool\n      artifact: {name: tool, dest: '{{ playbook_dir }}/bin'}\n";
    write("site.yml", task);
    std::fs::create_dir(dir.path().join("group_vars")).unwrap();
    write("group_vars/all.yml", &format!("{vars}{catalog}\n"));
    let kprov = || {
        let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_kprov"));
        command.env("XDG_CACHE_HOME", dir.path().join("cache")).current_dir(dir.path()).env_remove("KPROV_AGENT");
        command.args(["apply", "-i", "hosts.ini", "--playbook", "site.yml"]);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    for says in ["has the wrong digest: expected sha256:", "cannot be had from any source"] {
        let (code, text) = kprov();
        assert!(code == Some(2) && text.contains(says), "{text}");
        assert!(text.contains("n1 | failed | Get the tool: ") && text.contains(&mirror.url), "{text}");
        let left = [files_below(&dir.path().join("bin")), files_below(&dir.path().join("cache"))].concat();
        assert_eq!(left, Vec::<String>::new(), "{text}");
    }
    let (code, text) = kprov();
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(std::fs::read(dir.path().join("bin/tool")).unwrap(), whole);
}
