//! `certificate`: a key on this node and a certificate for it, signed by a CA on another. kprov's own module.
//!
//! The key is made here and stays here; what is sent to the signer is a signing request. The certificate is issued anew
//! when it is missing or damaged, says something else than desired, is not from the CA, is not for the key, or is about to
//! expire. The key is kept as long as it can be read. What comes back is verified before it replaces anything.

use super::attributes::{self, Attributes, Mode};
use super::{Applied, Diff, Failure, Module, Needs};
use crate::pki::{self, Certificate as Pem, Key, SigningRequest, Stored, Subject, stored_certificate, stored_key};
use crate::system::{Content, Owner, View, Writer};
use crate::value::{Map, Value};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use time::{Duration, OffsetDateTime};

/// A certificate is public.
const CERTIFICATE_MODE: Mode = Mode::Bits(0o644);
const KEY_MODE: Mode = Mode::Bits(0o600);

/// The desired certificate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    pub path: PathBuf,
    pub key: PathBuf,
    pub subject: Subject,
    /// Normal form, sorted, without duplicates.
    pub sans: Vec<String>,
    /// Sorted.
    pub usages: Vec<String>,
    /// The CA's certificate on this node.
    pub ca_certificate: PathBuf,
    /// The host that signs, and the CA's certificate and key on it.
    pub signer: String,
    pub signer_ca_certificate: String,
    pub ca_key: String,
    pub days: u32,
    pub renew_before_days: u32,
    /// Of the key, 0600 if nothing is said. Owner and group are also those of the certificate.
    pub attributes: Attributes,
}

#[cfg(feature = "controller")]
impl Certificate {
    pub fn from_args(mut args: super::args::Args<'_>) -> Result<Self, super::args::ArgError> {
        use super::args::ArgError;
        let mut sans = Vec::new();
        for name in args.list("sans")?.unwrap_or_default() {
            sans.push(pki::normal_name(&name).map_err(|error| ArgError::new("sans", format!("`sans`: {error}")))?);
        }
        sans.sort();
        sans.dedup();
        let mut usages = args.list("usages")?.ok_or_else(|| super::args::missing("usages"))?;
        usages.sort();
        usages.dedup();
        if let Some(bad) = usages.iter().find(|usage| !pki::USAGES.contains(&usage.as_str())) {
            let mut error = ArgError::new("usages", pki::PkiError::Usage(bad.clone()).to_string());
            error.help = crate::source::near_miss(bad, pki::USAGES.iter().copied()).map(|u| format!("did you mean `{u}`?"));
            return Err(error);
        }
        if usages.is_empty() {
            return Err(ArgError::new("usages", "`usages` is empty, expected server auth, client auth or both"));
        }
        let organization = args.list("organization")?.unwrap_or_default();
        if organization.len() > 1 {
            return Err(ArgError::new("organization", pki::PkiError::Organizations(organization.len()).to_string()));
        }
        let ca_certificate = args.str("ca_certificate")?;
        let this = Self {
            path: args.str("path")?.into(),
            key: args.str("key")?.into(),
            subject: Subject { common_name: args.str("common_name")?, organization },
            sans,
            usages,
            signer: args.str("signer")?,
            signer_ca_certificate: args.opt_str("signer_ca_certificate")?.unwrap_or_else(|| ca_certificate.clone()),
            ca_certificate: ca_certificate.into(),
            ca_key: args.str("ca_key")?,
            days: days(&mut args, "days", 365)?,
            renew_before_days: days(&mut args, "renew_before_days", 30)?,
            attributes: Attributes::from_args(&mut args)?,
        };
        args.finish()?;
        if this.renew_before_days >= this.days {
            let message = format!(
                "`renew_before_days` is {} and `days` {}: the certificate would be issued anew by every run",
                this.renew_before_days, this.days
            );
            return Err(ArgError::new("renew_before_days", message));
        }
        Ok(this)
    }
}

/// A number of days that a certificate's dates can hold.
#[cfg(feature = "controller")]
pub(super) fn days(
    args: &mut super::args::Args<'_>,
    name: &'static str,
    default: u32,
) -> Result<u32, super::args::ArgError> {
    let Some(given) = args.opt_int(name)? else { return Ok(default) };
    u32::try_from(given).ok().filter(|days| (1..=pki::MAX_DAYS).contains(days)).ok_or_else(|| {
        super::args::ArgError::new(name, format!("`{name}` is {given}, expected 1 to {} days", pki::MAX_DAYS))
    })
}

pub struct State {
    certificate: Stored<Pem>,
    key: Stored<Key>,
    /// Never absent or damaged.
    authority: Stored<Pem>,
    owner: Owner,
    /// What is wrong with the permissions and owners of the files that are there.
    attributes: Vec<(attributes::Change, Attributes)>,
}

type Field = (String, Option<String>, Option<String>);

pub struct Change {
    /// Why and how it has to be issued anew; empty when only permissions or owners are wrong.
    issue: Vec<Field>,
}

impl Module for Certificate {
    type State = State;
    type Change = Change;

    fn query(&self, view: View<'_>) -> Result<State, Failure> {
        let authority = stored_certificate(view, &self.ca_certificate)?;
        let path = self.ca_certificate.display();
        match &authority {
            Stored::Absent => {
                return Err(Failure::new(format!("the CA's certificate {path} is missing: it has to be put there first")));
            }
            Stored::Damaged => return Err(Failure::new(format!("{path} holds no certificate in PEM"))),
            Stored::Is(authority) if authority.not_after <= OffsetDateTime::now_utc() => {
                return Err(Failure::new(format!("the CA {path} expired on {}: it has to be replaced", authority.expiry())));
            }
            Stored::Unknown | Stored::Is(_) => {}
        }
        let owner = self.attributes.owner(view)?;
        let mut wrong = Vec::new();
        for (path, attributes) in [(&self.path, self.certificate_attributes()), (&self.key, self.key_attributes())] {
            let path = view.fs().resolve(path)?;
            let change = view.fs().lstat(&path)?.and_then(|meta| attributes.change(&path, &meta, owner));
            wrong.extend(change.map(|change| (change, attributes)));
        }
        Ok(State {
            certificate: stored_certificate(view, &self.path)?,
            key: stored_key(view, &self.key)?,
            authority,
            owner,
            attributes: wrong,
        })
    }

    fn diff(&self, state: &State) -> Option<Change> {
        let issue = self.reasons(state);
        (!issue.is_empty() || !state.attributes.is_empty()).then_some(Change { issue })
    }

    fn describe(&self, state: &State, change: &Change) -> Vec<Diff> {
        let issue = (!change.issue.is_empty())
            .then(|| Diff::Fields { subject: self.path.display().to_string(), fields: change.issue.clone() });
        issue.into_iter().chain(state.attributes.iter().map(|(change, wanted)| change.diff(wanted))).collect()
    }

    fn apply(
        &self,
        state: State,
        change: Change,
        writer: &mut Writer<'_>,
        needs: &mut dyn Needs,
    ) -> Result<Applied, Failure> {
        for (change, wanted) in &state.attributes {
            change.apply(wanted, writer.fs())?;
        }
        let after = writer.view().fs().after(&self.ca_certificate)?;
        if !change.issue.is_empty() {
            if writer.planning() {
                if matches!(state.key, Stored::Absent | Stored::Damaged) {
                    writer.fs().write(&self.key, Content::later(), self.key_attributes().fresh_mode(false), state.owner)?;
                }
                let mode = self.certificate_attributes().fresh_mode(false);
                writer.fs().write(&self.path, Content::later(), mode, state.owner)?;
            } else {
                self.issue(state, writer, needs)?;
            }
        }
        Ok(Applied::known_after(after, self.result(&self.query(writer.view())?)))
    }

    fn result(&self, state: &State) -> Map {
        let unknown = || Value::later();
        let (not_after, fingerprint) = match &state.certificate {
            Stored::Is(certificate) => (certificate.expiry().into(), certificate.fingerprint().into()),
            Stored::Absent | Stored::Damaged | Stored::Unknown => (unknown(), unknown()),
        };
        Map::from_iter([
            ("path".to_owned(), self.path.display().to_string().into()),
            ("subject".to_owned(), self.subject.to_string().into()),
            ("not_after".to_owned(), not_after),
            ("fingerprint".to_owned(), fingerprint),
        ])
    }
}

impl Certificate {
    fn key_attributes(&self) -> Attributes {
        Attributes { mode: Some(self.attributes.mode.clone().unwrap_or(KEY_MODE)), ..self.attributes.clone() }
    }

    fn certificate_attributes(&self) -> Attributes {
        Attributes { mode: Some(CERTIFICATE_MODE), ..self.attributes.clone() }
    }

    /// What makes a new certificate necessary, field by field, and nothing when none is.
    fn reasons(&self, state: &State) -> Vec<Field> {
        let mut fields = Vec::new();
        let mut differs = |name: &str, before: Option<String>, after: String| {
            if before.as_ref() != Some(&after) {
                fields.push((name.to_owned(), before, Some(after)));
            }
        };
        let old = match &state.certificate {
            // A task of the plan writes it: this one when it is asked a second time.
            Stored::Unknown => return fields,
            Stored::Is(old) => Some(old),
            Stored::Damaged => {
                differs("certificate", Some("unreadable".to_owned()), "issued".to_owned());
                None
            }
            Stored::Absent => None,
        };
        let list = |items: &[String]| items.join(", ");
        differs("subject", old.map(|old| old.subject.to_string()), self.subject.to_string());
        if old.is_some() || !self.sans.is_empty() {
            differs("sans", old.map(|old| list(&old.sans)), list(&self.sans));
        }
        differs("usages", old.map(|old| list(&old.usages)), list(&self.usages));
        match (&state.authority, old) {
            (Stored::Is(authority), Some(old)) if !old.issued_by(authority) => {
                differs("issuer", Some("another CA".to_owned()), self.ca_certificate.display().to_string());
            }
            (Stored::Unknown, Some(_)) => differs("issuer", None, "known after apply".to_owned()),
            _ => {}
        }
        match (&state.key, old) {
            (Stored::Absent, Some(_)) => differs("key", Some("missing".to_owned()), "made on this node".to_owned()),
            (Stored::Absent, None) => differs("key", None, "made on this node".to_owned()),
            (Stored::Damaged, _) => differs("key", Some("unreadable".to_owned()), "made on this node".to_owned()),
            (Stored::Is(key), Some(old)) if !old.has_key(key) => {
                differs("key", Some("another".to_owned()), self.key.display().to_string());
            }
            _ => {}
        }
        let due = old.is_some_and(|old| self.due(old, state.authority.known()));
        if due || !fields.is_empty() {
            let before = old.map(Pem::expiry);
            fields.push(("expires".to_owned(), before, Some(format!("{} days after apply", self.days))));
        }
        fields
    }

    /// Whether it expires soon, and a new one would live longer: none outlives its CA.
    fn due(&self, old: &Pem, authority: Option<&Pem>) -> bool {
        let now = OffsetDateTime::now_utc();
        let fresh = now + Duration::days(self.days.into());
        let fresh = authority.map_or(fresh, |authority| fresh.min(authority.not_after));
        old.not_after - now < Duration::days(self.renew_before_days.into()) && fresh - old.not_after > Duration::DAY
    }

    fn issue(&self, state: State, writer: &mut Writer<'_>, needs: &mut dyn Needs) -> Result<(), Failure> {
        let Stored::Is(authority) = state.authority else {
            return Err(Failure::new(format!("{} cannot be read", self.ca_certificate.display())));
        };
        let failed = |error: pki::PkiError| Failure::new(format!("{}: {error}", self.path.display()));
        let key = match state.key {
            Stored::Is(key) => key,
            Stored::Absent | Stored::Damaged | Stored::Unknown => {
                let key = Key::generate().map_err(failed)?;
                let pem = Content::Bytes(key.to_pem().as_bytes().to_vec());
                writer.fs().write(&self.key, pem, self.key_attributes().fresh_mode(false), state.owner)?;
                key
            }
        };
        let request = SigningRequest {
            ca_certificate: self.signer_ca_certificate.clone(),
            ca_key: self.ca_key.clone(),
            csr: pki::request(&key, &self.subject, &self.sans).map_err(failed)?,
            usages: self.usages.clone(),
            days: self.days,
        };
        let signed = Pem::from_pem(&needs.sign(&self.signer, &request)?).map_err(failed)?;
        if !signed.issued_by(&authority) {
            return Err(Failure::new(format!(
                "what {} has signed does not verify against {}: that is not the certificate of the CA there",
                self.signer,
                self.ca_certificate.display()
            )));
        }
        if !signed.has_key(&key)
            || (&signed.subject, &signed.sans, &signed.usages) != (&self.subject, &self.sans, &self.usages)
        {
            return Err(Failure::new(format!("{} has not signed what it was asked to: {}", self.signer, signed.subject)));
        }
        let pem = Content::Bytes(signed.to_pem().into_bytes());
        Ok(writer.fs().write(&self.path, pem, self.certificate_attributes().fresh_mode(false), state.owner)?)
    }

    /// Whether a node that runs this task may have this signed: what the task says, and nothing else. For the controller,
    /// which carries the request to the signer.
    pub fn check_request(&self, signer: &str, request: &SigningRequest) -> Result<(), Failure> {
        let (subject, sans) = pki::requested(&request.csr).map_err(|error| Failure::new(error.to_string()))?;
        let same = signer == self.signer
            && (&request.ca_certificate, &request.ca_key) == (&self.signer_ca_certificate, &self.ca_key)
            && (&request.usages, request.days) == (&self.usages, self.days)
            && (&subject, &sans) == (&self.subject, &self.sans);
        if same {
            return Ok(());
        }
        Err(Failure::new(format!("asks for a certificate that its task does not describe: {subject}, signed by {signer}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::testing::{args, check_fails, check_with};
    use crate::modules::{Blob, Outcome, converge};
    use crate::system::{self, System};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;

    /// Signs as the host `cp1` would, and counts.
    #[derive(Default)]
    struct Signer {
        asked: Vec<SigningRequest>,
        answer: Option<String>,
    }

    impl Needs for Signer {
        fn blob(&mut self, _: &Blob, _: &Path) -> Result<(PathBuf, String), Failure> {
            Err(Failure::new("no blobs here"))
        }
        fn sign(&mut self, signer: &str, request: &SigningRequest) -> Result<String, Failure> {
            assert_eq!(signer, "cp1");
            self.asked.push(request.clone());
            self.answer.clone().map_or_else(|| pki::sign(request), Ok)
        }
        fn cancelled(&self) -> bool {
            false
        }
    }

    struct Node {
        root: tempfile::TempDir,
        signer: Signer,
        certificate: Certificate,
    }

    impl Node {
        fn new(ca_days: u32) -> Self {
            let root = tempfile::tempdir().unwrap();
            let path = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
            make_ca(root.path(), ca_days);
            let certificate = Certificate {
                path: path("apiserver.crt").into(),
                key: path("apiserver.key").into(),
                subject: Subject { common_name: "kube-apiserver".into(), organization: Vec::new() },
                sans: vec!["10.233.0.1".into(), "kubernetes".into(), "kubernetes.default.svc".into()],
                usages: vec!["server auth".into()],
                ca_certificate: path("ca.crt").into(),
                signer: "cp1".into(),
                signer_ca_certificate: path("ca.crt"),
                ca_key: path("ca.key"),
                days: 365,
                renew_before_days: 30,
                attributes: Attributes::default(),
            };
            Self { root, signer: Signer::default(), certificate }
        }

        /// The full check; returns the names of the fields that were shown as changed.
        fn converge(&mut self) -> Vec<String> {
            let outcome = check_with(&self.certificate, self.root.path(), &mut self.signer);
            let shown = format!("{outcome:?}");
            assert!(!shown.contains("PRIVATE KEY"), "{shown}");
            fields(&outcome)
        }

        fn key(&self) -> Vec<u8> {
            std::fs::read(&self.certificate.key).unwrap()
        }
    }

    fn make_ca(root: &Path, days: u32) {
        let (certificate, key) = pki::create_authority("kubernetes-ca", days).unwrap();
        std::fs::write(root.join("ca.crt"), certificate).unwrap();
        std::fs::write(root.join("ca.key"), key.to_pem()).unwrap();
    }

    fn fields(outcome: &Outcome) -> Vec<String> {
        let names = |diff: &Diff| match diff {
            Diff::Fields { fields, .. } => fields.iter().map(|(name, ..)| name.clone()).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        outcome.diff.iter().flat_map(names).collect()
    }

    #[test]
    fn a_certificate_is_issued_once() {
        let mut node = Node::new(3650);
        assert_eq!(node.converge(), ["subject", "sans", "usages", "key", "expires"]);
        assert_eq!(node.signer.asked.len(), 1);
        assert!(node.converge().is_empty());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&node.certificate.path), mode(&node.certificate.key)), (0o644, 0o600));
        let verify = std::process::Command::new("openssl")
            .args(["verify", "-x509_strict", "-purpose", "sslserver", "-verify_ip", "10.233.0.1", "-CAfile", "ca.crt"])
            .arg("apiserver.crt")
            .current_dir(node.root.path())
            .output()
            .unwrap();
        assert!(verify.status.success(), "{verify:?}");
        let text = std::fs::read_to_string(&node.certificate.path).unwrap();
        assert_eq!(text.matches("BEGIN").count(), 1, "the CA's certificate is not stored with it");
    }

    #[test]
    fn what_differs_is_issued_anew_for_the_same_key() {
        let mut node = Node::new(3650);
        node.converge();
        let key = node.key();
        node.certificate.sans.push("lb.example.com".into());
        assert_eq!(node.converge(), ["sans", "expires"]);
        node.certificate.subject.organization.push("system:masters".into());
        assert_eq!(node.converge(), ["subject", "expires"]);
        node.certificate.usages.insert(0, "client auth".into());
        assert_eq!(node.converge(), ["usages", "expires"]);
        make_ca(node.root.path(), 3650);
        assert_eq!(node.converge(), ["issuer", "expires"]);
        std::fs::write(&node.certificate.path, "garbage").unwrap();
        assert_eq!(node.converge()[0], "certificate");
        assert_eq!(node.key(), key);
    }

    #[test]
    fn a_key_that_is_lost_or_damaged_is_made_anew() {
        let mut node = Node::new(3650);
        node.converge();
        std::fs::remove_file(&node.certificate.key).unwrap();
        assert_eq!(node.converge(), ["key", "expires"]);
        std::fs::write(&node.certificate.key, "garbage").unwrap();
        std::fs::set_permissions(&node.certificate.key, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(node.converge(), ["key", "expires"]);
        // A run that was killed between the key and the certificate.
        std::fs::write(&node.certificate.key, Key::generate().unwrap().to_pem()).unwrap();
        assert_eq!(node.converge(), ["key", "expires"]);
        std::fs::set_permissions(&node.certificate.key, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(node.converge(), ["mode"]);
        node.certificate.attributes.group = Some("1".into());
        node.certificate.attributes.mode = Some(Mode::Bits(0o640));
        assert_eq!(node.converge(), ["group", "mode", "group"]);
        let group = |path: &Path| std::fs::metadata(path).unwrap().gid();
        assert_eq!((group(&node.certificate.path), group(&node.certificate.key)), (1, 1));
        std::fs::remove_file(&node.certificate.key).unwrap();
        node.converge();
        assert_eq!(group(&node.certificate.key), 1);
    }

    #[test]
    fn expiry_is_renewed_in_time_and_only_if_that_helps() {
        let mut node = Node::new(3650);
        node.certificate.days = 20;
        node.certificate.renew_before_days = 10;
        node.converge();
        node.certificate.days = 365;
        node.certificate.renew_before_days = 30;
        assert_eq!(node.converge(), ["expires"]);
        // A CA that is about to expire itself gives no longer one, so issuing it at every run would change nothing.
        let mut node = Node::new(15);
        node.converge();
        assert!(node.converge().is_empty());
    }

    #[test]
    fn in_a_plan_the_authority_may_be_unknown() {
        let node = Node::new(3650);
        let mut plan = System::new(system::Mode::Plan);
        let ca = node.certificate.ca_certificate.clone();
        plan.writer().fs().write(&ca, Content::later(), None, Owner::default()).unwrap();
        let outcome = converge(&node.certificate, &mut plan, &mut Signer::default()).unwrap();
        assert!(outcome.changed);
        assert_eq!(outcome.grade, crate::modules::Grade::KnownAfterApply);
        assert_eq!(outcome.result["not_after"], Value::later());
    }

    #[test]
    fn what_comes_back_is_verified() {
        let mut node = Node::new(3650);
        let other = Node::new(3650);
        let csr = pki::request(&Key::generate().unwrap(), &node.certificate.subject, &node.certificate.sans).unwrap();
        let request = |of: &Node| SigningRequest {
            ca_certificate: of.certificate.signer_ca_certificate.clone(),
            ca_key: of.certificate.ca_key.clone(),
            csr: csr.clone(),
            usages: node.certificate.usages.clone(),
            days: 365,
        };
        for (answer, reason) in [
            (pki::sign(&request(&other)).unwrap(), "does not verify against"),
            (pki::sign(&request(&node)).unwrap(), "has not signed what it was asked to"),
            ("garbage".to_owned(), "not a certificate"),
        ] {
            node.signer.answer = Some(answer);
            let failure = converge(&node.certificate, &mut System::new(system::Mode::Apply), &mut node.signer).unwrap_err();
            assert!(failure.message.contains(reason), "{failure}");
            assert!(!node.certificate.path.exists());
        }
    }

    #[test]
    fn an_authority_that_is_no_use_is_a_failure() {
        let node = Node::new(3650);
        std::fs::write(&node.certificate.ca_certificate, "garbage").unwrap();
        assert!(check_fails(&node.certificate, node.root.path()).contains("holds no certificate"));
        std::fs::remove_file(&node.certificate.ca_certificate).unwrap();
        assert!(check_fails(&node.certificate, node.root.path()).contains("ca.crt is missing"));
    }

    #[test]
    fn a_node_gets_only_what_its_task_says() {
        let mut node = Node::new(3650);
        node.converge();
        let request = node.signer.asked.remove(0);
        node.certificate.check_request("cp1", &request).unwrap();
        assert!(node.certificate.check_request("cp2", &request).is_err());
        let admin = Subject { common_name: "x".into(), organization: vec!["system:masters".into()] };
        let csr = pki::request(&Key::generate().unwrap(), &admin, &node.certificate.sans).unwrap();
        let failure = node.certificate.check_request("cp1", &SigningRequest { csr, ..request.clone() }).unwrap_err();
        assert!(failure.message.contains("O=system:masters, CN=x"), "{failure}");
        let other = SigningRequest { ca_key: "/etc/kubernetes/ssl/front-proxy-ca.key".into(), ..request };
        assert!(node.certificate.check_request("cp1", &other).is_err());
    }

    #[cfg(feature = "controller")]
    #[test]
    fn arguments() {
        let parse = |more: &[(&str, Value)]| {
            let mut args = args([]);
            let given: &[(&str, Value)] = &[
                ("path", "/a.crt".into()),
                ("key", "/a.key".into()),
                ("common_name", "system:node:n1".into()),
                ("organization", Value::List(vec!["system:nodes".into()])),
                ("sans", Value::List(vec!["N1".into(), "10.0.0.1".into(), "n1".into()])),
                ("usages", Value::List(vec!["server auth".into(), "client auth".into()])),
                ("ca_certificate", "/ca.crt".into()),
                ("ca_key", "/ca.key".into()),
                ("signer", "cp1".into()),
            ];
            let map: Map = given.iter().chain(more).map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
            args = crate::modules::args::Args::new(map, None, args.files);
            Certificate::from_args(args).map_err(|error| error.message)
        };
        let certificate = parse(&[]).unwrap();
        assert_eq!(certificate.sans, ["10.0.0.1", "n1"]);
        assert_eq!(certificate.usages, ["client auth", "server auth"]);
        assert_eq!((certificate.signer_ca_certificate.as_str(), certificate.days), ("/ca.crt", 365));
        for (name, value, expected) in [
            ("sans", Value::from("10.0.0.256"), "neither a DNS name nor an IP address"),
            ("usages", "server-auth".into(), "unknown usage `server-auth`"),
            ("days", 0i64.into(), "expected 1 to 36500 days"),
            ("renew_before_days", 365i64.into(), "issued anew by every run"),
            ("organization", "a,b".into(), "one organization at most"),
            ("subject", "x".into(), "unknown argument `subject`"),
        ] {
            let error = parse(&[(name, value)]).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
