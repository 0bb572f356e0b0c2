//! A whole cluster, end to end: made from nothing on lab nodes, used, damaged, repaired, and one of its nodes restarted.
//!
//! Only with `KPROV_E2E=1`; see `fixture.rs`. What single modules do in detail is for `node.rs` and `kube.rs`.

#![expect(clippy::print_stdout, reason = "says what was done and how long it took")]

use crate::fixture::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const IMAGE: &str = "kprov.test/busybox:1";
const IMAGE_FILE: &str = "kprov.test/busybox/1-linux-amd64.tar";

#[test]
fn a_cluster_from_nothing() {
    let Some(settings) = Settings::read() else { return };
    let lab = Lab::up(settings, "e2e", 3, &["--memory", "3G"]);
    let cluster = Cluster::new(lab);

    stage("apply does what plan says", || cluster.is_made_as_planned());
    stage("every node is Ready", || cluster.nodes_are_ready());
    stage("a second apply changes nothing", || cluster.is_done());
    stage("pods on every node", || cluster.runs_pods());
    stage("pods reach each other, services answer, names resolve", || cluster.connects_pods());
    stage("kubectl logs and exec", || cluster.lets_look_into_pods());
    stage("a memory limit holds", || cluster.limits_memory());
    stage("nobody gets in without credentials", || cluster.keeps_strangers_out());
    stage("damage is repaired, and nothing else is touched", || cluster.is_repaired());
    stage("a node comes back by itself", || cluster.outlives_a_restart());
}

#[test]
fn preconditions_stop_before_anything_changes() {
    let Some(settings) = Settings::read() else { return };
    let lab = Lab::up(settings, "e2e-small", 3, &["--memory", "n3=512M"]);

    stage("a node that is too small", || {
        let (exit, events) = lab.json("apply", &[]);
        assert_eq!(exit, 2, "{events:#?}");
        let counts = |host: &str| recap(&events)[host]["failed"].clone();
        assert_eq!(NODES.map(counts), [json!(0), json!(0), json!(1)]);
        let findings: Vec<_> = events.iter().filter(|event| event["event"] == "finding").collect();
        let message = findings.iter().find(|event| event["host"] == "n3").map(|event| event["message"].to_string());
        let message = message.unwrap_or_else(|| panic!("no finding about n3: {findings:#?}"));
        assert!(message.contains("memory") && message.contains("minimal_node_memory_mb"), "{message}");
        let fatal: Vec<_> = findings.iter().filter(|event| event["fatal"] == true && event["host"] != "n3").collect();
        assert!(fatal.is_empty(), "{fatal:#?}");
        for node in NODES {
            assert_eq!(lab.inside(node, "find /etc/kubernetes /opt/kprov 2>/dev/null || true"), "", "{node}");
        }
    });
    stage("the same with a lower limit", || {
        let output = lab.kprov("validate", &["-e", "minimal_node_memory_mb=400"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    });
}

impl Cluster {
    fn is_made_as_planned(&self) {
        let changed = self.apply_as_planned();
        println!("  {} changes", changed.len());
        let hosts: BTreeSet<_> = changed.iter().map(|(_, host)| host.as_str()).collect();
        assert_eq!(hosts, BTreeSet::from(NODES));
    }

    fn nodes_are_ready(&self) {
        let nodes = self.get(&["nodes"]);
        let nodes = nodes["items"].as_array().unwrap();
        let names: Vec<_> = nodes.iter().map(|node| node["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, NODES);
        for node in nodes {
            assert_eq!(condition(node, "Ready"), "True", "{node:#}");
            assert_eq!(condition(node, "DiskPressure"), "False", "{node:#}");
            let version = format!("v{}", self.lab.settings.kube_version);
            assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], version);
        }
    }

    fn is_done(&self) {
        let started = Instant::now();
        let changed = self.apply();
        let took = started.elapsed();
        println!("  {:.1} s for a run without changes", took.as_secs_f64());
        assert!(changed.is_empty(), "{changed:#?}");
        assert!(took < Duration::from_secs(10), "{took:?}");
        let plan = self.lab.kprov("plan", &["--detailed-exitcode"]);
        assert_eq!(plan.status.code(), Some(0), "{}", text(&plan));
    }

    /// One pod a node that serves the node's name, and a service for all of them.
    fn runs_pods(&self) {
        for node in NODES {
            let image = File::open(self.lab.settings.artifacts.join(IMAGE_FILE)).unwrap();
            let import = ["ctr", "--namespace", "k8s.io", "images", "import", "-"];
            ok(self.lab.lab("exec", &[&[node, "--"], &import[..]].concat()).stdin(image));
            let serve = format!(
                "mkdir /www && echo {node} > /www/index.html && echo serving {node} && exec httpd -f -p 8080 -h /www"
            );
            self.create(&pod(&web(node), node, &serve, &json!({})));
        }
        self.create(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
        }));
        for node in NODES {
            eventually("a pod to be ready", || {
                let pod = self.get(&["pod", &web(node)]);
                if condition(&pod, "Ready") == "True" { Ok(()) } else { Err(pod["status"].to_string()) }
            });
            let pod = self.get(&["pod", &web(node)]);
            assert_eq!((&pod["spec"]["nodeName"], &pod["status"]["phase"]), (&json!(node), &json!("Running")));
        }
    }

    /// Runs a program in the pod of a node.
    fn in_pod(&self, node: &str, program: &[&str]) -> Output {
        self.kubectl(&[&["exec", &web(node), "--"], program].concat()).output().unwrap()
    }

    /// From each node's pod to that of each node.
    fn pods_reach_each_other(&self) {
        for to in NODES {
            for from in NODES {
                eventually(&format!("{from}'s pod to reach {to}'s"), || {
                    // The address of a pod changes when its node restarts.
                    let pod = self.get(&["pod", &web(to)]);
                    let url = format!("http://{}:8080/", pod["status"]["podIP"].as_str().unwrap_or_default());
                    succeeds(&self.in_pod(from, &["timeout", "5", "wget", "-q", "-O", "-", &url]), to)
                });
            }
        }
    }

    fn services_answer(&self) {
        let service = self.get(&["service", "web"]);
        let cluster_ip = service["spec"]["clusterIP"].as_str().unwrap();
        let port = &service["spec"]["ports"][0]["nodePort"];
        for node in NODES {
            let node_port = format!("http://{}:{port}/", self.lab.address(node));
            for url in [format!("http://{cluster_ip}/"), node_port] {
                for from in NODES {
                    let curl = ["curl", "--silent", "--show-error", "--fail", "--max-time", "5", &url];
                    eventually(&format!("{url} to answer {from}"), || {
                        let output = self.lab.lab("exec", &[&[from, "--"], &curl[..]].concat()).output().unwrap();
                        succeeds(&output, "n")
                    });
                }
            }
        }
    }

    fn connects_pods(&self) {
        self.pods_reach_each_other();
        self.services_answer();
        let web = self.get(&["service", "web"])["spec"]["clusterIP"].as_str().unwrap().to_owned();
        let kubernetes = self.get(&["service", "kubernetes"])["spec"]["clusterIP"].as_str().unwrap().to_owned();
        let names = [("kubernetes.default.svc.cluster.local", &kubernetes), ("web.default.svc.cluster.local", &web)];
        for node in NODES {
            for (name, address) in names {
                eventually(&format!("{name} to resolve on {node}"), || {
                    succeeds(&self.in_pod(node, &["nslookup", name]), address)
                });
            }
            // By the short name, so through the pod's search domains.
            eventually(&format!("the service's name to work on {node}"), || {
                succeeds(&self.in_pod(node, &["timeout", "5", "wget", "-q", "-O", "-", "http://web/"]), "n")
            });
        }
    }

    fn lets_look_into_pods(&self) {
        for node in NODES {
            assert_eq!(ok(&mut self.kubectl(&["logs", &web(node)])), format!("serving {node}\n"));
            let output = self.in_pod(node, &["cat", "/www/index.html"]);
            assert_eq!(text(&output), format!("{node}\n"));
            assert_eq!(self.in_pod(node, &["sh", "-c", "exit 7"]).status.code(), Some(7));
        }
    }

    /// The limit is what the container sees, and who takes more is killed.
    fn limits_memory(&self) {
        let script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; \
                      exec dd if=/dev/zero of=/dev/null bs=200M count=1";
        self.create(&pod("limited", "n2", script, &json!({"limits": {"memory": "64Mi"}})));
        let end = eventually("the pod to end", || {
            let pod = self.get(&["pod", "limited"]);
            let end = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
            if end.is_object() { Ok(end.clone()) } else { Err(pod["status"].to_string()) }
        });
        assert_eq!(end["reason"], "OOMKilled", "{end:#}");
        assert_eq!(ok(&mut self.kubectl(&["logs", "limited"])).trim(), (64 << 20).to_string());
    }

    fn keeps_strangers_out(&self) {
        let status = |url: &str| {
            let args =
                ["--silent", "--insecure", "--max-time", "5", "--output", "/dev/null", "--write-out", "%{http_code}"];
            ok(Command::new("curl").args(args).arg(url))
        };
        assert_eq!(status(&format!("https://{}:6443/api", self.lab.address("n1"))), "401");
        for node in NODES {
            assert_eq!(status(&format!("https://{}:10250/pods", self.lab.address(node))), "401", "{node}");
        }
    }

    /// When a service's main process started.
    fn started(&self, node: &str, service: &str) -> String {
        self.lab.inside(node, &format!("systemctl show {service} --property MainPID,ExecMainStartTimestampMonotonic"))
    }

    fn is_repaired(&self) {
        let untouched =
            [("n1", "etcd"), ("n1", "kube-apiserver"), ("n1", "containerd"), ("n2", "containerd"), ("n3", "kubelet")];
        let before = untouched.map(|(node, service)| self.started(node, service));

        self.lab.inside("n1", "rm /etc/kubernetes/ssl/kube-scheduler.crt");
        self.lab.inside("n2", "rm /etc/systemd/system/kubelet.service");
        self.lab.inside("n3", "echo '# damage' >> /etc/containerd/config.toml; systemctl stop kube-proxy");
        let changed = self.apply_as_planned();
        for (task, host) in &changed {
            println!("  {host}: {task}");
        }
        let hosts: BTreeSet<_> = changed.iter().map(|(_, host)| host.as_str()).collect();
        assert_eq!(hosts, BTreeSet::from(NODES));

        let after = untouched.map(|(node, service)| self.started(node, service));
        assert_eq!(before, after, "{untouched:?}");
        self.lab.inside("n1", "systemctl is-active kube-scheduler && test -s /etc/kubernetes/ssl/kube-scheduler.crt");
        self.lab.inside("n2", "systemctl is-active kubelet && systemctl is-enabled kubelet");
        self.lab.inside("n3", "systemctl is-active containerd kube-proxy && ! grep damage /etc/containerd/config.toml");
        let changed = self.apply();
        assert!(changed.is_empty(), "{changed:#?}");
        self.pods_reach_each_other();
    }

    /// Nobody but the node itself does anything.
    fn outlives_a_restart(&self) {
        let began = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"].clone();
        let before = began(&self.get(&["pod", "web-n2"]));
        ok(&mut self.lab.lab("restart", &["n2"]));
        eventually("n2's pod to be started again and ready", || {
            let pod = self.get(&["pod", "web-n2"]);
            let since = began(&pod);
            let again = since.is_string() && since != before && condition(&pod, "Ready") == "True";
            if again { Ok(()) } else { Err(pod["status"].to_string()) }
        });
        eventually("n2 to be Ready", || {
            let node = self.get(&["node", "n2"]);
            if condition(&node, "Ready") == "True" { Ok(()) } else { Err(node["status"]["conditions"].to_string()) }
        });
        self.pods_reach_each_other();
        self.services_answer();
    }
}

/// The name of a node's pod.
fn web(node: &str) -> String {
    format!("web-{node}")
}

/// A pod that runs `script` on a node; it restarts unless its resources are limited.
fn pod(name: &str, node: &str, script: &str, resources: &Value) -> Value {
    let restart = if resources["limits"].is_object() { "Never" } else { "Always" };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name.split('-').next()}},
        "spec": {
            "nodeName": node, "restartPolicy": restart, "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", script],
                "resources": resources,
            }],
        },
    })
}
