//! Keys, certificate signing requests, certificate authorities, kubeconfigs.
//!
//! Private keys are made on the node that uses them and never leave it. A certificate authority signs on the node that
//! holds its key; what crosses the wire is a signing request and a certificate.

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
