//! The administrator's credentials: for kprov itself while it runs, and for the operator's kubeconfig.
//!
//! The key is made here, in memory; the cluster's CA signs the request on the node where its key is. kprov's own identity
//! is in the group `system:masters`, which the API server lets pass without asking RBAC: the roles and bindings are among
//! the things that kprov applies, so they cannot be what lets it in. Such a certificate cannot be taken back, so kprov's own
//! is short-lived and never written to disk.

use crate::modules::Failure;
use crate::pki::{self, Certificate, Credential, Key, Kubeconfig, SigningRequest, Subject};
use crate::vars::Secret;
use ::kube::Config;
use ::kube::config::AuthInfo;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

/// A name that every API server certificate of a cluster holds.
const SERVER_NAME: &str = "kubernetes";

/// A key that waits for its certificate.
pub struct IdentityRequest {
    key: Key,
    csr: String,
}

/// A client certificate with its key, and the CA that signed it.
#[derive(Clone, Debug)]
pub struct Identity {
    certificate: String,
    authority: String,
    key: Secret,
}

impl IdentityRequest {
    /// Makes a key for the user `kubernetes-admin` in `system:masters`.
    pub fn administrator() -> Result<Self, Failure> {
        let subject =
            Subject { common_name: "kubernetes-admin".to_owned(), organization: vec!["system:masters".to_owned()] };
        let made = || {
            let key = Key::generate()?;
            Ok(Self { csr: pki::request(&key, &subject, &[])?, key })
        };
        made().map_err(|error: pki::PkiError| Failure::new(format!("the administrator's certificate: {error}")))
    }

    /// What to have signed, by a host on which the cluster CA's certificate and key have these paths.
    pub fn to_sign(&self, ca_certificate: &str, ca_key: &str, days: u32) -> SigningRequest {
        SigningRequest {
            ca_certificate: ca_certificate.to_owned(),
            ca_key: ca_key.to_owned(),
            csr: self.csr.clone(),
            usages: vec!["client auth".to_owned()],
            days,
        }
    }

    /// Takes what the signer answered: the certificate, and after it that of the CA.
    pub fn complete(self, signed: &str) -> Result<Identity, Failure> {
        let bad = |what: &str| Failure::new(format!("the administrator's certificate: {what}"));
        let chain = Certificate::all_from_pem(signed).map_err(|error| bad(&error.to_string()))?;
        let [certificate, authority] = chain.as_slice() else {
            return Err(bad("expected a certificate and that of its CA"));
        };
        if !certificate.has_key(&self.key) || !certificate.issued_by(authority) {
            return Err(bad("what was signed is not what was asked for"));
        }
        Ok(Identity {
            certificate: certificate.to_pem(),
            authority: authority.to_pem(),
            key: Secret::new(self.key.to_pem().as_str()),
        })
    }
}

impl Identity {
    /// Credentials that no cluster knows: for a plan made before there is an authority, when no server can answer.
    pub fn of_nobody() -> Result<Self, Failure> {
        let (certificate, key) = pki::create_authority("nobody", 1).map_err(|error| Failure::new(error.to_string()))?;
        Ok(Self { authority: certificate.clone(), certificate, key: Secret::new(key.to_pem().as_str()) })
    }

    /// The CA's certificate, in PEM.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The operator's kubeconfig, with everything embedded. `server` is `https://HOST:PORT` as the operator reaches it.
    pub fn kubeconfig(&self, server: &str, cluster: &str) -> Secret {
        let user = format!("kubernetes-admin-{cluster}");
        let context = format!("kubernetes-admin@{cluster}");
        let config = Kubeconfig {
            server,
            cluster,
            user: &user,
            context: &context,
            certificate_authority: Credential::Embedded(&self.authority),
            client_certificate: Credential::Embedded(&self.certificate),
            client_key: Credential::Embedded(self.key.expose()),
        };
        Secret::new(config.text().as_str())
    }

    pub(super) fn config(&self) -> Result<Config, Failure> {
        let address = format!("https://{SERVER_NAME}").parse().map_err(|error| Failure::new(format!("{error}")))?;
        let mut config = Config::new(address);
        let authority = Certificate::from_pem(&self.authority)
            .map_err(|error| Failure::new(format!("the cluster's CA: {error}")))?;
        config.root_cert = Some(vec![authority.der().to_vec()]);
        config.auth_info = AuthInfo {
            client_certificate_data: Some(STANDARD.encode(&self.certificate)),
            client_key_data: Some(STANDARD.encode(self.key.expose()).into()),
            ..AuthInfo::default()
        };
        config.connect_timeout = Some(Duration::from_secs(10));
        Ok(config)
    }
}

/// Whether a kubeconfig that is there still serves: it names this server and this CA, and its certificate is from that
/// CA, is for its key and lasts at least `days` more.
pub fn kubeconfig_is_good(text: &str, server: &str, authority: &str, days: i64) -> bool {
    let good = || {
        let config = ::kube::config::Kubeconfig::from_yaml(text).ok()?;
        let cluster = config.clusters.first()?.cluster.as_ref()?;
        let user = config.auth_infos.first()?.auth_info.as_ref()?;
        let decoded = |data: &str| String::from_utf8(STANDARD.decode(data).ok()?).ok();
        let theirs = Certificate::from_pem(&decoded(cluster.certificate_authority_data.as_ref()?)?).ok()?;
        let ours = Certificate::from_pem(authority).ok()?;
        let certificate = Certificate::from_pem(&decoded(user.client_certificate_data.as_ref()?)?).ok()?;
        let key = decoded(secrecy::ExposeSecret::expose_secret(user.client_key_data.as_ref()?))?;
        Some(
            cluster.server.as_deref() == Some(server)
                && theirs == ours
                && certificate.issued_by(&ours)
                && certificate.has_key(&Key::from_pem(&key).ok()?)
                && certificate.days_left() >= days,
        )
    };
    good().unwrap_or(false)
}

/// Writes a kubeconfig that holds a key: mode 0600 from the first byte on, in place at once or not at all.
pub fn write_kubeconfig(path: &Path, text: &Secret) -> std::io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let mut file =
        tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o600)).tempfile_in(directory)?;
    file.write_all(text.expose().as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::kube) fn identity(days: u32) -> Identity {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let (certificate, key) = pki::create_authority("kubernetes-ca", 3650).unwrap();
        std::fs::write(path("ca.crt"), certificate).unwrap();
        std::fs::write(path("ca.key"), key.to_pem()).unwrap();
        let request = IdentityRequest::administrator().unwrap();
        let signed = pki::sign(&request.to_sign(&path("ca.crt"), &path("ca.key"), days)).unwrap();
        request.complete(&signed).unwrap()
    }

    #[test]
    fn a_kubeconfig_is_good_until_something_about_it_changes() {
        let identity = identity(365);
        let text = identity.kubeconfig("https://10.0.0.1:6443", "cluster.local");
        let good = |server: &str, authority: &str, days| kubeconfig_is_good(text.expose(), server, authority, days);
        assert!(good("https://10.0.0.1:6443", identity.authority(), 30));
        assert!(!good("https://10.0.0.2:6443", identity.authority(), 30));
        assert!(!good("https://10.0.0.1:6443", identity.authority(), 400));
        let (other, _) = pki::create_authority("kubernetes-ca", 3650).unwrap();
        assert!(!good("https://10.0.0.1:6443", &other, 30));
        assert!(!kubeconfig_is_good("no: config", "https://10.0.0.1:6443", identity.authority(), 30));
    }

    #[test]
    fn an_answer_for_another_key_is_refused() {
        let signed = identity(1).certificate + &identity(1).authority;
        let error = IdentityRequest::administrator().unwrap().complete(&signed).unwrap_err();
        assert!(error.message.contains("not what was asked for"), "{error}");
    }

    #[test]
    fn the_file_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("artifacts/admin.conf");
        for text in ["a", "b"] {
            write_kubeconfig(&path, &Secret::new(text)).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    }
}
