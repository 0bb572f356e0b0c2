//! The text of a kubeconfig: one cluster, one user, one context, always written the same way.
//!
//! <https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/>. Strings are written in double quotes with JSON's
//! escapes, which YAML reads too, so no YAML writer is needed on the node.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt::Write as _;
use zeroize::Zeroizing;

/// A kubeconfig that authenticates with a client certificate.
pub struct Kubeconfig<'a> {
    /// `https://HOST:PORT`
    pub server: &'a str,
    pub cluster: &'a str,
    pub user: &'a str,
    pub context: &'a str,
    pub certificate_authority: Credential<'a>,
    pub client_certificate: Credential<'a>,
    pub client_key: Credential<'a>,
}

/// A certificate or key that a kubeconfig refers to or holds.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    Path(&'a str),
    /// PEM, written in base64.
    Embedded(&'a str),
}

impl Kubeconfig<'_> {
    /// The file's text. Holds a private key where `client_key` is embedded.
    pub fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(8192));
        let cluster = quoted(self.cluster);
        let (user, context) = (quoted(self.user), quoted(self.context));
        text.push_str("apiVersion: v1\nkind: Config\n");
        let _ = write!(text, "clusters:\n- name: {cluster}\n  cluster:\n    server: {}\n", quoted(self.server));
        self.certificate_authority.write("certificate-authority", &mut text);
        let _ = write!(text, "users:\n- name: {user}\n  user:\n");
        self.client_certificate.write("client-certificate", &mut text);
        self.client_key.write("client-key", &mut text);
        let _ = write!(
            text,
            "contexts:\n- name: {context}\n  context:\n    cluster: {cluster}\n    user: {user}\ncurrent-context: {context}\n"
        );
        text
    }

    /// A kubeconfig's text as it can be shown. Only lines that kprov writes and that hold no secret are kept, so a file that
    /// came from elsewhere cannot leak a token.
    pub fn redacted(text: &str) -> String {
        const SHOWN: &[&str] = &[
            "apiVersion",
            "kind",
            "clusters",
            "contexts",
            "users",
            "name",
            "cluster",
            "user",
            "context",
            "server",
            "certificate-authority",
            "client-certificate",
            "client-key",
            "current-context",
        ];
        let mut shown = String::new();
        for line in text.lines() {
            let key = line.trim_start_matches([' ', '-']);
            match key.split_once(':') {
                Some((key, value)) if SHOWN.contains(&key) && !value.contains(['{', '[']) => shown.push_str(line),
                Some((key @ ("certificate-authority-data" | "client-certificate-data"), data)) => {
                    let what = decoded(data).and_then(|pem| super::Certificate::from_pem(&pem).ok());
                    let what = what.map_or("(unreadable)".to_owned(), |certificate| {
                        format!("(SHA-256 {})", certificate.fingerprint())
                    });
                    let _ = write!(shown, "    {key}: {what}");
                }
                Some((key @ "client-key-data", _)) => {
                    let _ = write!(shown, "    {key}: (secret)");
                }
                _ => shown.push_str("(not shown)"),
            }
            shown.push('\n');
        }
        shown
    }
}

impl Credential<'_> {
    fn write(self, key: &str, text: &mut String) {
        match self {
            Self::Path(path) => {
                let _ = writeln!(text, "    {key}: {}", quoted(path));
            }
            Self::Embedded(pem) => {
                let _ = write!(text, "    {key}-data: ");
                STANDARD.encode_string(pem, text);
                text.push('\n');
            }
        }
    }
}

fn decoded(base64: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(base64.trim()).ok()?).ok()
}

fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample<'a>(key: Credential<'a>) -> Kubeconfig<'a> {
        Kubeconfig {
            server: "https://10.0.0.1:6443",
            cluster: "kubernetes",
            user: "kubelet \"x\"",
            context: "default",
            certificate_authority: Credential::Path("/etc/kubernetes/ssl/ca.crt"),
            client_certificate: Credential::Path("/etc/kubernetes/ssl/kubelet.crt"),
            client_key: key,
        }
    }

    #[test]
    fn is_always_written_the_same_way() {
        insta::assert_snapshot!(*sample(Credential::Path("/etc/kubernetes/ssl/kubelet.key")).text(), @r#"
        apiVersion: v1
        kind: Config
        clusters:
        - name: "kubernetes"
          cluster:
            server: "https://10.0.0.1:6443"
            certificate-authority: "/etc/kubernetes/ssl/ca.crt"
        users:
        - name: "kubelet \"x\""
          user:
            client-certificate: "/etc/kubernetes/ssl/kubelet.crt"
            client-key: "/etc/kubernetes/ssl/kubelet.key"
        contexts:
        - name: "default"
          context:
            cluster: "kubernetes"
            user: "kubelet \"x\""
        current-context: "default"
        "#);
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = Kubeconfig::redacted(&sample(Credential::Embedded("hush")).text());
        assert!(shown.contains("client-key-data: (secret)"));
        assert!(shown.contains("server: \"https://10.0.0.1:6443\""));
        for foreign in [
            "users: [{user: {token: hush}}]",
            "- name: {token: hush}",
            "    token: hush",
            "    client-key-data: hush",
            "    client-key-data: |\n      hush",
            "    client-certificate-data: hush",
            "{\"users\":[{\"user\":{\"token\":\"hush\"}}]}",
        ] {
            assert!(!Kubeconfig::redacted(foreign).contains("hush"), "{foreign}");
        }
    }
}
