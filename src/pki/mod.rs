//! Keys, certificate signing requests, certificate authorities, kubeconfigs.
//!
//! Private keys are made on the node that uses them and never leave it. A certificate authority signs on the node that
//! holds its key; what crosses the wire is a signing request and a certificate. Keys are ECDSA P-256 throughout; RSA keys
//! of a cluster that another tool set up are read and used, never made.
//!
//! Everything here works on text and bytes. Which file holds what, who owns it and when it is replaced is decided by the
//! modules (`certificate_authority`, `certificate`, `service_account_key`, `kubeconfig`). Only [`sign`] reads files.

mod authority;
mod certificate;
mod key;
mod kubeconfig;
mod request;
mod stored;

pub use authority::{create_authority, sign};
pub use certificate::Certificate;
pub use key::Key;
pub use kubeconfig::{Credential, Kubeconfig};
pub use request::{Subject, normal_name, request, requested};
pub use stored::{Stored, stored_certificate, stored_key};

use serde::{Deserialize, Serialize};

/// Asks the host that holds a CA's key for a certificate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SigningRequest {
    /// Path of the CA certificate on the signer ("/etc/kubernetes/ssl/ca.crt"), and of its key beside it.
    pub ca_certificate: String,
    pub ca_key: String,
    /// PKCS#10, PEM. Subject and SANs are taken from it, nothing else.
    pub csr: String,
    /// Extended key usages: "server auth", "client auth".
    pub usages: Vec<String>,
    /// Days from now until it expires.
    pub days: u32,
}

/// The longest life that can be asked for, in days: a hundred years.
pub const MAX_DAYS: u32 = 36_500;

/// The extended key usages that a certificate can be asked for, as Kubernetes' CSR API names them.
pub const USAGES: &[&str] = &["server auth", "client auth"];

/// What is wrong with a key, a certificate or a request. The text never holds key material.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("not a private key in PEM that can be used (PKCS#8, SEC1 or PKCS#1)")]
    Key,
    #[error("not a certificate in PEM")]
    Certificate,
    #[error("not a valid certificate signing request: {0}")]
    Request(rcgen::Error),
    #[error("`{0}` is neither a DNS name nor an IP address")]
    Name(String),
    #[error("unknown usage `{0}`, expected one of {all}", all = USAGES.join(", "))]
    Usage(String),
    #[error("a subject holds one organization at most, not {0}")]
    Organizations(usize),
    #[error("{0} days are more than a certificate's dates can say")]
    Days(u32),
    #[error(transparent)]
    Make(#[from] rcgen::Error),
    #[error("random numbers: {0}")]
    Random(std::io::Error),
}
