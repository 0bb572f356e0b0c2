//! Certificate signing requests, and what can be asked for in one.

use super::{Key, PkiError};
use rcgen::{CertificateParams, DistinguishedName, DnType, SanType};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

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
    /// Reads the attributes that kprov sets. Several common names become one text that equals no desired one.
    pub(super) fn read(name: &X509Name<'_>) -> Result<Self, PkiError> {
        let text = |attribute: &AttributeTypeAndValue<'_>| {
            attribute.as_str().map(ToOwned::to_owned).map_err(|_| PkiError::Certificate)
        };
        Ok(Self {
            common_name: name.iter_common_name().map(text).collect::<Result<Vec<_>, _>>()?.join(", "),
            organization: name.iter_organization().map(text).collect::<Result<_, _>>()?,
        })
    }

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

/// Whom a request is for, and under which names (normal form, sorted). Does not verify its signature.
pub fn requested(csr: &str) -> Result<(Subject, Vec<String>), PkiError> {
    let bad = || PkiError::Request(rcgen::Error::CouldNotParseCertificationRequest);
    let (_, block) = parse_x509_pem(csr.as_bytes()).map_err(|_| bad())?;
    let (_, csr) = X509CertificationRequest::from_der(&block.contents).map_err(|_| bad())?;
    let subject = Subject::read(&csr.certification_request_info.subject)?;
    let mut sans: Vec<String> = csr
        .requested_extensions()
        .into_iter()
        .flatten()
        .flat_map(|extension| match extension {
            ParsedExtension::SubjectAlternativeName(names) => names.general_names.iter().map(name_text).collect(),
            _ => Vec::new(),
        })
        .collect();
    sans.sort();
    Ok((subject, sans))
}

/// The normal form of a name; what kprov never asks for (an e-mail address, a URI) gets a form that equals no name.
pub(super) fn name_text(name: &GeneralName<'_>) -> String {
    let address = |octets: &[u8]| {
        <[u8; 4]>::try_from(octets)
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
            .map(|address| address.to_string())
            .ok()
    };
    match name {
        GeneralName::DNSName(name) => normal_name(name).ok(),
        GeneralName::IPAddress(octets) => address(octets),
        _ => None,
    }
    .unwrap_or_else(|| name.to_string())
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
