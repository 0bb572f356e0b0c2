//! The Kubernetes API against a real kube-apiserver with a real etcd, on loopback, with certificates from kprov's own
//! modules. Runs with `KPROV_E2E=1`, or where `KPROV_ARTIFACTS` names a directory of artifacts (`tests/artifacts/build.sh`).

#![expect(clippy::print_stdout, reason = "says why it was skipped, and how long things took")]

use kprov::kube::{Client, Condition, IdentityRequest, Object, Query, Wait};
use kprov::modules::certificate::Certificate;
use kprov::modules::certificate_authority::CertificateAuthority;
use kprov::modules::kubeconfig::Kubeconfig;
use kprov::modules::service_account_key::ServiceAccountKey;
use kprov::modules::{Blob, Diff, Failure, Grade, Module, Needs, Outcome, converge};
use kprov::pki::{self, SigningRequest, Subject};
use kprov::system::{Mode, System};
use kprov::value::Value;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

const KUBERNETES: &str = "dl.k8s.io/v1.36.0/kubernetes-server-linux-amd64.tar.gz";
const ETCD: &str = "github.com/etcd-io/etcd/releases/download/v3.6.14/etcd-v3.6.14-linux-amd64.tar.gz";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_on_a_real_api_server() {
    let Some(artifacts) = artifacts() else { return };
    let mut cluster = Cluster::prepare(&artifacts);
    let client = cluster.client("ca");

    nothing_is_there_yet(&client).await;
    cluster.start();
    let started = Instant::now();
    // Waits for the API server by itself.
    applies_once(&client).await;
    println!("API server ready and objects applied after {:?}", started.elapsed());

    plans_what_it_applies(&client, &cluster).await;
    leaves_the_fields_of_others_alone(&client, &cluster).await;
    brings_new_kinds(&client).await;
    keeps_secrets(&client).await;
    asks_and_waits(&client).await;
    deletes(&client).await;
    says_what_is_wrong(&client).await;
    trusts_its_own_authority_only(&cluster).await;
    outlives_a_restart(&client, &mut cluster).await;
    serves_kubectl(&cluster);
}

/// The directory of artifacts, or the reason for skipping on standard output.
fn artifacts() -> Option<PathBuf> {
    let named = std::env::var_os("KPROV_ARTIFACTS").map(PathBuf::from);
    let asked = std::env::var_os("KPROV_E2E").is_some_and(|value| value == "1");
    if named.is_none() && !asked {
        println!("skipped: set KPROV_E2E=1, or KPROV_ARTIFACTS to a directory of artifacts");
        return None;
    }
    let directory =
        named.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/kprov/lab-artifacts")))?;
    if !asked && !directory.join(KUBERNETES).exists() {
        println!("skipped: no {KUBERNETES} in {}", directory.display());
        return None;
    }
    Some(directory)
}

const MANIFEST: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: web}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: corefile, namespace: web}
data:
  Corefile: |
    .:53 {
      errors
    }
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: web:1, ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
";

async fn nothing_is_there_yet(client: &Client) {
    let plan = client.apply(&objects(MANIFEST), Mode::Plan).await.unwrap();
    assert!(plan.changed);
    assert_eq!((plan.grade, plan.diff.len()), (Grade::KnownAfterApply, 4));
}

async fn applies_once(client: &Client) {
    let first = client.apply(&objects(MANIFEST), Mode::Apply).await.unwrap();
    assert!(first.changed);
    assert_eq!(first.diff.len(), 4);
    let started = Instant::now();
    let second = client.apply(&objects(MANIFEST), Mode::Apply).await.unwrap();
    println!("4 objects unchanged in {:?}", started.elapsed());
    assert_eq!((second.changed, second.diff.len()), (false, 0), "{:?}", second.diff);
}

async fn plans_what_it_applies(client: &Client, cluster: &Cluster) {
    let edited = MANIFEST.replace("replicas: 2", "replicas: 3").replace("web:1", "web:2").replace("errors", "health");
    let before = version(client, "Deployment", "web").await;
    // A client of its own, as a plan has: this one remembers what it planned before there was an API server.
    let plan = cluster.client("ca").apply(&objects(&edited), Mode::Plan).await.unwrap();
    assert_eq!(version(client, "Deployment", "web").await, before, "the plan has changed something");
    let apply = client.apply(&objects(&edited), Mode::Apply).await.unwrap();
    assert_eq!((&plan.diff, plan.grade), (&apply.diff, Grade::Exact));
    let shown = format!("{:?}", apply.diff);
    for part in [
        r#"("spec.replicas", Some("2"), Some("3"))"#,
        r#"("spec.template.spec.containers[web].image", Some("web:1"), Some("web:2"))"#,
        r#"Text { path: "ConfigMap web/corefile data.Corefile""#,
    ] {
        assert!(shown.contains(part), "no {part} in {shown}");
    }
    assert!(!client.apply(&objects(&edited), Mode::Apply).await.unwrap().changed);
}

async fn leaves_the_fields_of_others_alone(client: &Client, cluster: &Cluster) {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shared}\ndata: {ours: a}\n";
    assert!(client.apply(&objects(text), Mode::Apply).await.unwrap().changed);
    cluster.kubectl(&["patch", "configmap", "shared", "-p", r#"{"data":{"theirs":"x"}}"#]);
    assert!(!client.apply(&objects(text), Mode::Apply).await.unwrap().changed);
    cluster.kubectl(&["patch", "configmap", "shared", "-p", r#"{"data":{"ours":"b"}}"#]);
    let apply = client.apply(&objects(text), Mode::Apply).await.unwrap();
    let expected = Diff::Fields {
        subject: "ConfigMap default/shared".into(),
        fields: vec![("data.ours".into(), Some("b".into()), Some("a".into()))],
    };
    assert_eq!(apply.diff, [expected]);
    assert_eq!(cluster.kubectl(&["get", "configmap", "shared", "-o", "jsonpath={.data.theirs}"]), "x");
}

async fn brings_new_kinds(client: &Client) {
    let text = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: pools.kprov.test}
spec:
  group: kprov.test
  scope: Namespaced
  names: {kind: Pool, plural: pools, singular: pool, listKind: PoolList}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {cidr: {type: string}}}}}}
---
apiVersion: v1
kind: Namespace
metadata: {name: pools}
---
apiVersion: kprov.test/v1
kind: Pool
metadata: {name: a, namespace: pools}
spec: {cidr: 10.0.0.0/8}
";
    let plan = client.apply(&objects(text), Mode::Plan).await.unwrap();
    assert_eq!((plan.diff.len(), plan.grade), (3, Grade::KnownAfterApply));
    let apply = client.apply(&objects(text), Mode::Apply).await.unwrap();
    assert_eq!(plan.diff, apply.diff);
    assert!(!client.apply(&objects(text), Mode::Apply).await.unwrap().changed);
}

async fn keeps_secrets(client: &Client) {
    let text = |password: &str| {
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{password: {password}}}\n")
    };
    for password in ["hush-hush-1", "hush-hush-2"] {
        let apply = client.apply(&objects(&text(password)), Mode::Apply).await.unwrap();
        assert!(apply.changed);
        assert!(!format!("{:?}", apply.diff).contains("hush"), "{:?}", apply.diff);
        assert!(!client.apply(&objects(&text(password)), Mode::Apply).await.unwrap().changed);
    }
    let bad = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: [hush]}\n";
    let failure = client.apply(&objects(bad), Mode::Apply).await.unwrap_err();
    assert!(failure.message.contains("Secret default/s") && !failure.message.contains("hush"), "{failure}");
}

async fn asks_and_waits(client: &Client) {
    let query = |api_version: &str, kind: &str, name: Option<&str>| Query {
        api_version: api_version.into(),
        kind: kind.into(),
        name: name.map(Into::into),
        ..Query::default()
    };
    let wait = |condition: Option<&str>, seconds: u64| {
        let condition = condition.map(|kind| Condition { kind: kind.into(), status: "True".into(), reason: None });
        Some(Wait { condition, timeout: Duration::from_secs(seconds) })
    };
    let labelled = Query { label_selectors: vec!["app=web".into()], ..query("apps/v1", "Deployment", None) };
    let found = resources(&client.info(&labelled, Mode::Apply).await.unwrap());
    assert_eq!(found[0].get("metadata").and_then(|m| m.get("name")), Some(&Value::from("web")));
    assert_eq!(found[0].get("kind"), Some(&Value::from("Deployment")));

    let crd = "apiextensions.k8s.io/v1";
    let served = Query { wait: wait(Some("Established"), 10), ..query(crd, "CustomResourceDefinition", None) };
    assert_eq!(resources(&client.info(&served, Mode::Apply).await.unwrap()).len(), 1);
    assert_eq!(resources(&client.info(&query("no.such/v1", "Thing", None), Mode::Apply).await.unwrap()).len(), 0);

    // Nobody brings up pods here.
    let never =
        Query { namespace: Some("web".into()), wait: wait(None, 1), ..query("apps/v1", "Deployment", Some("web")) };
    let failure = client.info(&never, Mode::Apply).await.unwrap_err();
    assert_eq!(failure.message, "waited 1 s: Deployment web/web: its controller has not seen it yet");
    let plan = client.info(&never, Mode::Plan).await.unwrap();
    assert_eq!(plan.result["resources"], Value::later());

    // What comes later is waited for.
    let later = Query { wait: wait(None, 20), ..query("v1", "ConfigMap", Some("later")) };
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.info(&later, Mode::Apply).await }
    });
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: later}\n";
    client.apply(&objects(text), Mode::Apply).await.unwrap();
    assert_eq!(resources(&waiting.await.unwrap().unwrap()).len(), 1);
}

async fn deletes(client: &Client) {
    let gone = objects("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: later}\n");
    let plan = client.delete(&gone, Mode::Plan).await.unwrap();
    let apply = client.delete(&gone, Mode::Apply).await.unwrap();
    assert_eq!((plan.changed, &plan.diff), (true, &apply.diff));
    assert_eq!(apply.diff, [Diff::Note("delete ConfigMap default/later".into())]);
    assert!(!client.delete(&gone, Mode::Apply).await.unwrap().changed);
    let never = objects("apiVersion: no.such/v1\nkind: Thing\nmetadata: {name: x}\n");
    assert!(!client.delete(&never, Mode::Apply).await.unwrap().changed);
}

async fn says_what_is_wrong(client: &Client) {
    for (text, expected) in [
        ("apiVersion: apps/v1\nkind: Deploymnet\nmetadata: {name: x}\n", "no kind `Deploymnet` in `apps/v1`"),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: nowhere}\n",
            "namespaces \"nowhere\" not found",
        ),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndatas: {}\n", "datas"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {type: Wrong, ports: [{port: 1}]}\n", "Wrong"),
    ] {
        for mode in [Mode::Plan, Mode::Apply] {
            let started = Instant::now();
            let failure = client.apply(&objects(text), mode).await.unwrap_err();
            assert!(failure.message.contains(expected) && !failure.message.contains('\n'), "{failure}");
            assert!(started.elapsed() < Duration::from_secs(5), "a mistake is no reason to try again");
        }
    }
}

async fn trusts_its_own_authority_only(cluster: &Cluster) {
    let started = Instant::now();
    let failure = cluster.client("other-ca").apply(&objects(MANIFEST), Mode::Apply).await.unwrap_err();
    assert!(failure.message.contains("certificate"), "{failure}");
    assert!(started.elapsed() < Duration::from_secs(5), "trying again does not help");
}

async fn outlives_a_restart(client: &Client, cluster: &mut Cluster) {
    cluster.stop_api_server();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.apply(&objects(MANIFEST), Mode::Apply).await }
    });
    cluster.start_api_server();
    waiting.await.unwrap().unwrap();
}

fn serves_kubectl(cluster: &Cluster) {
    assert!(cluster.kubectl(&["get", "namespaces", "-o", "name"]).contains("namespace/web"));
    let whoami = cluster.kubectl(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.groups[0]}"]);
    assert_eq!(whoami, "system:masters");
    // The kubeconfig module's, for a component: its user is known, and may do nothing.
    let output =
        cluster.command("kubectl").env("KUBECONFIG", cluster.path("component.conf")).args(["get", "nodes"]).output();
    let stderr = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(stderr.contains("User \"nobody-special\" cannot list resource \"nodes\""), "{stderr}");
}

fn objects(text: &str) -> Vec<Object> {
    Object::read_all(&text.into(), None).unwrap()
}

fn resources(outcome: &Outcome) -> Vec<Value> {
    assert!(!outcome.changed);
    outcome.result["resources"].as_list().unwrap().to_vec()
}

async fn version(client: &Client, kind: &str, name: &str) -> Value {
    let query = Query {
        api_version: "apps/v1".into(),
        kind: kind.into(),
        name: Some(name.into()),
        namespace: Some("web".into()),
        ..Query::default()
    };
    let found = resources(&client.info(&query, Mode::Apply).await.unwrap());
    found[0].get("metadata").and_then(|metadata| metadata.get("resourceVersion")).unwrap().clone()
}

/// etcd and an API server, with mutual TLS between them, in a directory of their own. Killed when dropped.
struct Cluster {
    directory: tempfile::TempDir,
    port: u16,
    etcd_port: u16,
    api_server: Option<Child>,
    etcd: Option<Child>,
}

/// Signs where the CA is on the same machine.
struct Local;

impl Needs for Local {
    fn blob(&mut self, _: &Blob, _: &Path) -> Result<(PathBuf, String), Failure> {
        Err(Failure::new("no blobs here"))
    }
    fn sign(&mut self, _: &str, request: &SigningRequest) -> Result<String, Failure> {
        pki::sign(request)
    }
    fn cancelled(&self) -> bool {
        false
    }
}

impl Cluster {
    fn prepare(artifacts: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (archive, members) in [
            (KUBERNETES, &["kubernetes/server/bin/kube-apiserver", "kubernetes/server/bin/kubectl"][..]),
            (ETCD, &["etcd-v3.6.14-linux-amd64/etcd"]),
        ] {
            let status = Command::new("tar")
                .args(["-xzf", artifacts.join(archive).to_str().unwrap(), "--transform", "s,.*/,,", "-C"])
                .arg(directory.path())
                .args(members)
                .status();
            assert!(status.unwrap().success(), "tar {archive}");
        }
        let this = Self { directory, port: free_port(), etcd_port: free_port(), api_server: None, etcd: None };
        for name in ["ca", "etcd-ca", "other-ca"] {
            let (certificate, key) = (this.path(&format!("{name}.crt")), this.path(&format!("{name}.key")));
            this.converge(CertificateAuthority { certificate, key, common_name: name.into(), days: 10 });
        }
        this.converge(ServiceAccountKey { private: this.path("sa.key"), public: this.path("sa.pub") });
        this.certificate("etcd", "etcd-ca", "etcd", &["127.0.0.1", "localhost"], &["client auth", "server auth"]);
        this.certificate("etcd-client", "etcd-ca", "kube-apiserver", &[], &["client auth"]);
        let names = ["10.96.0.1", "127.0.0.1", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        this.certificate("apiserver", "ca", "kube-apiserver", &names, &["server auth"]);
        this.certificate("component", "ca", "nobody-special", &[], &["client auth"]);
        this.converge(Kubeconfig {
            path: this.path("component.conf"),
            server: this.server(),
            ca_certificate: this.text_path("ca.crt"),
            client_certificate: this.text_path("component.crt"),
            client_key: this.text_path("component.key"),
            embed: false,
            user: "nobody-special".into(),
            cluster: "kubernetes".into(),
            context: "component".into(),
        });
        let identity = this.identity("ca");
        let admin = identity.kubeconfig(&this.server(), "cluster.local");
        kprov::kube::write_kubeconfig(&this.path("admin.conf"), &admin).unwrap();
        this
    }

    fn start(&mut self) {
        let url = format!("https://127.0.0.1:{}", self.etcd_port);
        let mut etcd = self.command("etcd");
        etcd.args(["--data-dir", "etcd-data", "--listen-client-urls", &url, "--advertise-client-urls", &url]);
        etcd.args(["--listen-peer-urls", "http://127.0.0.1:0", "--unsafe-no-fsync", "--client-cert-auth"]);
        etcd.args(["--cert-file=etcd.crt", "--key-file=etcd.key", "--trusted-ca-file=etcd-ca.crt"]);
        self.etcd = Some(self.spawn(etcd, "etcd"));
        self.start_api_server();
    }

    fn start_api_server(&mut self) {
        let mut command = self.command("kube-apiserver");
        command.arg(format!("--etcd-servers=https://127.0.0.1:{}", self.etcd_port));
        command.args([
            "--etcd-cafile=etcd-ca.crt",
            "--etcd-certfile=etcd-client.crt",
            "--etcd-keyfile=etcd-client.key",
        ]);
        command.args(["--bind-address=127.0.0.1", "--endpoint-reconciler-type=none", "--client-ca-file=ca.crt"]);
        command.arg(format!("--secure-port={}", self.port));
        command.args(["--tls-cert-file=apiserver.crt", "--tls-private-key-file=apiserver.key"]);
        command.args(["--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=Node,RBAC"]);
        command.args(["--anonymous-auth=false", "--service-account-issuer=https://kubernetes.default.svc"]);
        command.args(["--service-account-key-file=sa.pub", "--service-account-signing-key-file=sa.key"]);
        self.api_server = Some(self.spawn(command, "kube-apiserver"));
    }

    fn stop_api_server(&mut self) {
        if let Some(mut child) = self.api_server.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn certificate(&self, name: &str, ca: &str, common_name: &str, sans: &[&str], usages: &[&str]) {
        self.converge(Certificate {
            path: self.path(&format!("{name}.crt")),
            key: self.path(&format!("{name}.key")),
            subject: Subject { common_name: common_name.into(), organization: Vec::new() },
            sans: sans.iter().map(ToString::to_string).collect(),
            usages: usages.iter().map(ToString::to_string).collect(),
            ca_certificate: self.path(&format!("{ca}.crt")),
            signer: "localhost".into(),
            signer_ca_certificate: self.text_path(&format!("{ca}.crt")),
            ca_key: self.text_path(&format!("{ca}.key")),
            days: 5,
            renew_before_days: 1,
            attributes: Default::default(),
        });
    }

    fn converge<M: Module>(&self, module: M) {
        assert!(converge(&module, &mut System::new(Mode::Apply), &mut Local).unwrap().changed);
    }

    fn identity(&self, ca: &str) -> kprov::kube::Identity {
        let request = IdentityRequest::administrator().unwrap();
        let (certificate, key) = (self.text_path(&format!("{ca}.crt")), self.text_path(&format!("{ca}.key")));
        let signed = pki::sign(&request.to_sign(&certificate, &key, 1)).unwrap();
        request.complete(&signed).unwrap()
    }

    fn client(&self, ca: &str) -> Client {
        let port = self.port;
        Client::connect(move || TcpStream::connect(("127.0.0.1", port)), &self.identity(ca)).unwrap()
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        let output =
            self.command("kubectl").env("KUBECONFIG", self.path("admin.conf")).args(arguments).output().unwrap();
        assert!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn server(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text_path(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.path(program));
        command.current_dir(self.directory.path());
        command
    }

    fn spawn(&self, mut command: Command, name: &str) -> Child {
        let log = File::create(self.path(&format!("{name}.log"))).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in [&mut self.api_server, &mut self.etcd].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for name in ["kube-apiserver", "etcd"] {
                let log = std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(15).collect();
                println!("{name}, last lines first:\n{}", tail.join("\n"));
            }
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
