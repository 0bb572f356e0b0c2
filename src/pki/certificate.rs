//! What a certificate says: for whom, by whom, until when.

use super::request::name_text;
use super::{Key, PkiError, Subject};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate that was read, with what kprov compares taken out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    pub subject: Subject,
    /// Normal form ([`normal_name`]), sorted.
    pub sans: Vec<String>,
    /// Extended key usages, sorted: "server auth", "client auth", or an OID.
    pub usages: Vec<String>,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    /// Whether it may sign other certificates.
    pub authority: bool,
    der: Vec<u8>,
}

impl Certificate {
    /// Reads the first certificate of a PEM text.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        Self::blocks(pem).next().ok_or(PkiError::Certificate)?
    }

    /// Reads every certificate of a PEM text: a chain or a bundle, in its order.
    pub fn all_from_pem(pem: &str) -> Result<Vec<Self>, PkiError> {
        Self::blocks(pem).collect()
    }

    fn blocks(pem: &str) -> impl Iterator<Item = Result<Self, PkiError>> {
        Pem::iter_from_buffer(pem.as_bytes())
            .filter_map(Result::ok)
            .filter(|block| block.label == "CERTIFICATE")
            .map(|block| Self::from_der(block.contents))
    }

    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The certificate alone, in PEM.
    pub fn to_pem(&self) -> String {
        let base64 = STANDARD.encode(&self.der);
        let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
        for (index, character) in base64.chars().enumerate() {
            if index > 0 && index % 64 == 0 {
                pem.push('\n');
            }
            pem.push(character);
        }
        pem.push_str("\n-----END CERTIFICATE-----\n");
        pem
    }

    fn from_der(der: Vec<u8>) -> Result<Self, PkiError> {
        let (_, x509) = X509Certificate::from_der(&der).map_err(|_| PkiError::Certificate)?;
        let subject = Subject::read(x509.subject())?;
        let names = x509.subject_alternative_name().map_err(|_| PkiError::Certificate)?;
        let mut sans: Vec<String> =
            names.iter().flat_map(|extension| &extension.value.general_names).map(name_text).collect();
        sans.sort();
        let usage = x509.extended_key_usage().map_err(|_| PkiError::Certificate)?;
        let mut usages: Vec<String> = usage.map_or(Vec::new(), |extension| {
            let usage = extension.value;
            [("server auth", usage.server_auth), ("client auth", usage.client_auth), ("any", usage.any)]
                .into_iter()
                .filter(|(_, is)| *is)
                .map(|(name, _)| name.to_owned())
                .chain(usage.other.iter().map(ToString::to_string))
                .collect()
        });
        usages.sort();
        let (not_before, not_after) =
            (x509.validity().not_before.to_datetime(), x509.validity().not_after.to_datetime());
        let authority = x509.is_ca();
        Ok(Self { subject, sans, usages, not_before, not_after, authority, der })
    }

    /// SHA-256 of the certificate in hex, pairs divided by colons as `openssl x509 -fingerprint -sha256` prints it.
    pub fn fingerprint(&self) -> String {
        Sha256::digest(&self.der).iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
    }

    /// When it expires, in RFC 3339 (UTC, seconds).
    pub fn expiry(&self) -> String {
        let t = self.not_after;
        let (date, time) = (t.date(), t.time());
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
            date.year(),
            u8::from(date.month()),
            date.day(),
            time.hour(),
            time.minute(),
            time.second()
        )
    }

    /// Whole days from now until it expires; negative once it has.
    pub fn days_left(&self) -> i64 {
        (self.not_after - OffsetDateTime::now_utc()).whole_days()
    }

    /// Whether `authority` is a CA, its subject is the issuer here, and its key made the signature.
    pub fn issued_by(&self, authority: &Self) -> bool {
        let (Ok((_, this)), Ok((_, ca))) =
            (X509Certificate::from_der(&self.der), X509Certificate::from_der(&authority.der))
        else {
            return false;
        };
        ca.is_ca()
            && this.issuer().as_raw() == ca.subject().as_raw()
            && this.verify_signature(Some(ca.public_key())).is_ok()
    }

    /// Whether this certificate is for `key`.
    pub fn has_key(&self, key: &Key) -> bool {
        X509Certificate::from_der(&self.der).is_ok_and(|(_, x509)| x509.public_key().raw == key.public_der())
    }
}
