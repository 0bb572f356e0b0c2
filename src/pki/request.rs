//! Certificate signing requests, and what can be asked for in one.

use super::{Key, PkiError};
use rcgen::{CertificateParams, DistinguishedName, DnType, SanType};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// Whom a certificate is for: to Kubernetes the user and its group.
///
/// <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#x509-client-certificates>
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    pub common_name: String,
    /// One at most: the certificate library writes an attribute once, and no component needs two groups.
    pub organization: Vec<String>,
}

impl Subject {
    pub(super) fn distinguished_name(&self) -> Result<DistinguishedName, PkiError> {
        let mut name = DistinguishedName::new();
        match self.organization.as_slice() {
            [] => {}
            [one] => name.push(DnType::OrganizationName, one.as_str()),
            many => return Err(PkiError::Organizations(many.len())),
        }
        name.push(DnType::CommonName, self.common_name.as_str());
        Ok(name)
    }
}

/// `O=system:masters, CN=kubernetes-admin`
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for organization in &self.organization {
            write!(f, "O={organization}, ")?;
        }
        write!(f, "CN={}", self.common_name)
    }
}

/// A subject alternative name in the one spelling by which names are compared: addresses as [`IpAddr`] prints them,
/// DNS names in lower case.
pub fn normal_name(name: &str) -> Result<String, PkiError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let rest = name.strip_prefix("*.").unwrap_or(name).trim_end_matches('.');
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // What looks like an address and is none ("10.0.0.256") must not pass as a DNS name.
    let digits = rest.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if rest.len() > 253 || digits || !rest.split('.').all(label) {
        return Err(PkiError::Name(name.to_owned()));
    }
    Ok(name.trim_end_matches('.').to_ascii_lowercase())
}

pub(super) fn alternative_names(names: &[String]) -> Result<Vec<SanType>, PkiError> {
    let mut normal = names.iter().map(|name| normal_name(name)).collect::<Result<Vec<_>, _>>()?;
    normal.sort();
    normal.dedup();
    normal
        .into_iter()
        .map(|name| match name.parse() {
            Ok(address) => Ok(SanType::IpAddress(address)),
            Err(_) => Ok(SanType::DnsName(name.try_into()?)),
        })
        .collect()
}

/// A certificate signing request in PEM (PKCS#10), signed with `key`.
pub fn request(key: &Key, subject: &Subject, sans: &[String]) -> Result<String, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject.distinguished_name()?;
    params.subject_alt_names = alternative_names(sans)?;
    Ok(params.serialize_request(key.pair())?.pem()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        for (given, normal) in [
            ("Kubernetes.Default", "kubernetes.default"),
            ("2001:DB8:0::1", "2001:db8::1"),
            ("10.233.0.1", "10.233.0.1"),
            ("*.Apps.Example.com.", "*.apps.example.com"),
            ("node_1", "node_1"),
        ] {
            assert_eq!(normal_name(given).unwrap(), normal);
        }
        for bad in ["", "10.0.0.256", "a b", "a..b", "-a", "https://x", "a*b", &"x".repeat(64)] {
            assert!(normal_name(bad).is_err(), "{bad}");
        }
    }
}
