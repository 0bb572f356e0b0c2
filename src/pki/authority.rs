//! Certificate authorities: making one, and signing with one that is on this node.

use super::request::{Subject, alternative_names};
use super::{Certificate, Key, MAX_DAYS, PkiError, SigningRequest, USAGES, requested};
use crate::modules::Failure;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SerialNumber,
};
use rustix::rand::{GetRandomFlags, getrandom};
use time::{Duration, OffsetDateTime};

/// A certificate is valid this long before it was made: the clocks of a cluster's nodes differ a little.
const BACKDATED: Duration = Duration::minutes(5);

/// Makes a certificate authority: a self-signed certificate (PEM) and its key.
///
/// It may sign end entities only (path length 0), as everything in a Kubernetes cluster is signed by the CA itself.
pub fn create_authority(common_name: &str, days: u32) -> Result<(String, Key), PkiError> {
    let key = Key::generate()?;
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name =
        Subject { common_name: common_name.to_owned(), organization: Vec::new() }.distinguished_name()?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial_number()?);
    params.not_before = now - BACKDATED;
    params.not_after = expiry(now, days)?;
    Ok((params.self_signed(key.pair())?.pem(), key))
}

/// Signs a request with a CA whose certificate and key are files on this node; returns the certificate in PEM, and after
/// it that of the CA, so that who asked knows whom to trust.
///
/// Subject and SANs come from the CSR; whatever else it asks for (to be a CA, other usages) is not looked at. The
/// certificate never outlives the CA.
pub fn sign(request: &SigningRequest) -> Result<String, Failure> {
    let read = |path: &str, what: &str| {
        std::fs::read_to_string(path)
            .map_err(|error| Failure::new(format!("{what} {path} cannot be read on the host that shall sign: {error}")))
    };
    let certificate = read(&request.ca_certificate, "CA certificate")?;
    let key = zeroize::Zeroizing::new(read(&request.ca_key, "CA key")?);
    issue(&certificate, &key, request)
        .map_err(|error| Failure::new(format!("cannot sign with {}: {error}", request.ca_certificate)))
}

/// Why a request was not signed.
#[derive(Debug, thiserror::Error)]
enum SignError {
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("this certificate is not of a CA")]
    NotAuthority,
    #[error("{key} is not its key", key = .0)]
    KeyMismatch(String),
    #[error("the CA expired on {0}; it has to be replaced first")]
    Expired(String),
    #[error("the request names no usage, expected one of {all}", all = USAGES.join(", "))]
    NoUsage,
}

fn issue(ca_certificate: &str, ca_key: &str, request: &SigningRequest) -> Result<String, SignError> {
    let ca = Certificate::from_pem(ca_certificate)?;
    let key = Key::from_pem(ca_key)?;
    if !ca.authority {
        return Err(SignError::NotAuthority);
    }
    if !ca.has_key(&key) {
        return Err(SignError::KeyMismatch(request.ca_key.clone()));
    }
    let now = OffsetDateTime::now_utc();
    if ca.not_after <= now {
        return Err(SignError::Expired(ca.expiry()));
    }
    if request.usages.is_empty() {
        return Err(SignError::NoUsage);
    }
    // Verifies that whoever asks holds the private key.
    let csr = CertificateSigningRequestParams::from_pem(&request.csr).map_err(PkiError::Request)?;

    let mut params = CertificateParams::default();
    let (subject, sans) = requested(&request.csr)?;
    params.distinguished_name = subject.distinguished_name()?;
    params.subject_alt_names = alternative_names(&sans)?;
    // Says that it is no CA, and makes the library write the subject key identifier.
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = request.usages.iter().map(|usage| purpose(usage)).collect::<Result<_, _>>()?;
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial_number()?);
    params.not_before = now - BACKDATED;
    params.not_after = expiry(now, request.days)?.min(ca.not_after);

    let issuer = Issuer::from_ca_cert_pem(ca_certificate, key.pair()).map_err(PkiError::Make)?;
    let certificate = params.signed_by(&csr.public_key, &issuer).map_err(PkiError::Make)?;
    Ok(certificate.pem() + &ca.to_pem())
}

fn expiry(now: OffsetDateTime, days: u32) -> Result<OffsetDateTime, PkiError> {
    if days > MAX_DAYS {
        return Err(PkiError::Days(days));
    }
    Ok(now + Duration::days(days.into()))
}

fn purpose(usage: &str) -> Result<ExtendedKeyUsagePurpose, PkiError> {
    match usage {
        "server auth" => Ok(ExtendedKeyUsagePurpose::ServerAuth),
        "client auth" => Ok(ExtendedKeyUsagePurpose::ClientAuth),
        other => Err(PkiError::Usage(other.to_owned())),
    }
}

/// 127 random bits: RFC 5280 section 4.1.2.2 wants it positive, unique per CA and at most 20 octets.
fn serial_number() -> Result<SerialNumber, PkiError> {
    let mut bytes = [0u8; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        filled +=
            getrandom(&mut bytes[filled..], GetRandomFlags::empty()).map_err(|errno| PkiError::Random(errno.into()))?;
    }
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}

#[cfg(test)]
mod tests {
    use super::super::request;
    use super::*;
    use std::path::Path;
    use std::process::Command;

    fn openssl(directory: &Path, arguments: &[&str]) -> String {
        let output = Command::new("openssl").args(arguments).current_dir(directory).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments:?}: {text}");
        text
    }

    fn authority(days: u32) -> (tempfile::TempDir, SigningRequest) {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = create_authority("kubernetes-ca", days).unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("ca.crt"), &certificate).unwrap();
        std::fs::write(path("ca.key"), key.to_pem()).unwrap();
        let request = SigningRequest {
            ca_certificate: path("ca.crt"),
            ca_key: path("ca.key"),
            csr: String::new(),
            usages: vec!["server auth".into(), "client auth".into()],
            days: 365,
        };
        (directory, request)
    }

    fn subject() -> Subject {
        Subject { common_name: "kube-apiserver".into(), organization: vec!["system:masters".into()] }
    }

    const SANS: &[&str] = &[
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        "10.233.0.1",
        "127.0.0.1",
        "fd00::1",
    ];

    #[test]
    fn openssl_accepts_what_is_signed() {
        let (directory, mut signing) = authority(3650);
        let key = Key::generate().unwrap();
        let sans: Vec<String> = SANS.iter().map(ToString::to_string).collect();
        signing.csr = request(&key, &subject(), &sans).unwrap();
        let pem = sign(&signing).unwrap();
        std::fs::write(directory.path().join("leaf.crt"), &pem).unwrap();

        for purpose in ["sslserver", "sslclient"] {
            let verify = ["verify", "-x509_strict", "-CAfile", "ca.crt", "-purpose", purpose, "leaf.crt"];
            openssl(directory.path(), &verify);
        }
        for name in ["-verify_hostname=kubernetes.default.svc", "-verify_ip=10.233.0.1", "-verify_ip=fd00::1"] {
            let (option, value) = name.split_once('=').unwrap();
            openssl(directory.path(), &["verify", "-CAfile", "ca.crt", option, value, "leaf.crt"]);
        }
        let text = openssl(directory.path(), &["x509", "-in", "leaf.crt", "-noout", "-text"]);
        for line in [
            "Subject: O = system:masters, CN = kube-apiserver",
            "Issuer: CN = kubernetes-ca",
            "ASN1 OID: prime256v1",
            "X509v3 Basic Constraints: critical\n                CA:FALSE",
            "X509v3 Key Usage: critical\n                Digital Signature\n",
            "TLS Web Server Authentication, TLS Web Client Authentication",
            "X509v3 Subject Key Identifier",
            "X509v3 Authority Key Identifier",
        ] {
            assert!(text.contains(line), "no {line:?} in {text}");
        }

        let ca = Certificate::from_pem(&std::fs::read_to_string(&signing.ca_certificate).unwrap()).unwrap();
        let chain = Certificate::all_from_pem(&pem).unwrap();
        let leaf = chain[0].clone();
        assert_eq!(chain[1], ca);
        assert_eq!(leaf.to_pem() + &ca.to_pem(), pem);
        assert!(leaf.issued_by(&ca) && leaf.has_key(&key) && !leaf.authority && ca.authority);
        assert_eq!(
            (leaf.subject.clone(), leaf.usages.clone()),
            (subject(), vec!["client auth".into(), "server auth".into()])
        );
        let mut sorted = sans;
        sorted.sort();
        assert_eq!(leaf.sans, sorted);
        assert_eq!(leaf.days_left(), 364);
        let fingerprint = openssl(directory.path(), &["x509", "-in", "leaf.crt", "-noout", "-fingerprint", "-sha256"]);
        assert_eq!(fingerprint.trim(), format!("sha256 Fingerprint={}", leaf.fingerprint()));
    }

    #[test]
    fn two_certificates_for_one_key_have_two_serial_numbers() {
        let (directory, mut signing) = authority(3650);
        signing.csr = request(&Key::generate().unwrap(), &subject(), &[]).unwrap();
        let serials: Vec<String> = (0..2)
            .map(|_| {
                std::fs::write(directory.path().join("leaf.crt"), sign(&signing).unwrap()).unwrap();
                openssl(directory.path(), &["x509", "-in", "leaf.crt", "-noout", "-serial"])
            })
            .collect();
        assert_ne!(serials[0], serials[1]);
    }

    #[test]
    fn nothing_outlives_its_authority() {
        let (_directory, mut signing) = authority(100);
        signing.csr = request(&Key::generate().unwrap(), &subject(), &[]).unwrap();
        let ca = Certificate::from_pem(&std::fs::read_to_string(&signing.ca_certificate).unwrap()).unwrap();
        assert_eq!(Certificate::from_pem(&sign(&signing).unwrap()).unwrap().not_after, ca.not_after);
    }

    #[test]
    fn a_request_to_become_an_authority_gets_a_plain_certificate() {
        let (directory, mut signing) = authority(100);
        let script = "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout evil.key -subj /CN=evil \
                      -addext basicConstraints=critical,CA:TRUE -addext keyUsage=keyCertSign -out evil.csr 2>&1";
        let status = Command::new("sh").args(["-c", script]).current_dir(directory.path()).status().unwrap();
        assert!(status.success());
        signing.csr = std::fs::read_to_string(directory.path().join("evil.csr")).unwrap();
        signing.usages = vec!["client auth".into()];
        let leaf = Certificate::from_pem(&sign(&signing).unwrap()).unwrap();
        assert!(!leaf.authority);
        assert_eq!(leaf.usages, ["client auth"]);
    }

    #[test]
    fn refuses_with_a_reason() {
        let (directory, mut signing) = authority(100);
        let csr = request(&Key::generate().unwrap(), &subject(), &[]).unwrap();
        let refused = |signing: &SigningRequest| sign(signing).unwrap_err().message;

        signing.csr = csr.replace("CERTIFICATE", "CERTIFICATION");
        signing.csr.truncate(80);
        assert!(refused(&signing).contains("not a valid certificate signing request"));
        signing.csr = csr.clone();

        let usages = SigningRequest { usages: vec!["code signing".into()], ..signing.clone() };
        assert!(refused(&usages).contains("unknown usage `code signing`"));
        let none = SigningRequest { usages: Vec::new(), ..signing.clone() };
        assert!(refused(&none).contains("names no usage"));

        let other = directory.path().join("other.key");
        std::fs::write(&other, Key::generate().unwrap().to_pem()).unwrap();
        let other = SigningRequest { ca_key: other.to_str().unwrap().into(), ..signing.clone() };
        assert!(refused(&other).contains("other.key is not its key"));
        let gone = SigningRequest { ca_key: "/nowhere/ca.key".into(), ..signing.clone() };
        assert!(refused(&gone).contains("CA key /nowhere/ca.key cannot be read"));

        // A certificate that is no CA does not sign.
        let key = Key::generate().unwrap();
        signing.csr = request(&key, &subject(), &[]).unwrap();
        let leaf = sign(&signing).unwrap();
        std::fs::write(&signing.ca_certificate, leaf).unwrap();
        std::fs::write(&signing.ca_key, key.to_pem()).unwrap();
        assert!(refused(&signing).contains("not of a CA"));
    }

    #[test]
    fn a_signature_is_verified_not_only_the_name() {
        let (_directory, mut signing) = authority(100);
        signing.csr = request(&Key::generate().unwrap(), &subject(), &[]).unwrap();
        let leaf = Certificate::from_pem(&sign(&signing).unwrap()).unwrap();
        let (namesake, _) = create_authority("kubernetes-ca", 100).unwrap();
        assert!(!leaf.issued_by(&Certificate::from_pem(&namesake).unwrap()));
    }
}
