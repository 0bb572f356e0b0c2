//! Digests and password hashes.

use crate::template::call::{Call, Signature, Table, row};
use minijinja::{Error, Value as Jinja};
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use std::io::Read;

pub(super) static TABLE: &Table = &[
    row!("hash", |call| hash(call, "sha1"), "value", "hashtype"),
    row!("checksum", |call| hash(call, "sha1"), "value"),
    row!("password_hash", password_hash, "value", "hashtype", "salt", "salt_size", "rounds"),
    row!("to_uuid", to_uuid, "value", "namespace"),
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash(call: &Call, default: &str) -> Result<Jinja, Error> {
    let text = call.text()?;
    let digest = match call.arg_text("hashtype")?.as_deref().unwrap_or(default) {
        "sha1" => hex(&Sha1::digest(text)),
        "sha224" => hex(&Sha224::digest(text)),
        "sha256" => hex(&Sha256::digest(text)),
        "sha384" => hex(&Sha384::digest(text)),
        "sha512" => hex(&Sha512::digest(text)),
        other => {
            return Err(
                call.error(format!("unknown digest `{other}`, expected sha1, sha224, sha256, sha384 or sha512"))
            );
        }
    };
    call.give(digest)
}

/// A hash for `/etc/shadow`. Without a salt each run gives another one, and the task that writes it always changes.
fn password_hash(call: &Call) -> Result<Jinja, Error> {
    // The numbers of rounds are passlib's, which Ansible uses.
    let (sha512, rounds) = match call.arg_text("hashtype")?.as_deref() {
        None | Some("sha512" | "sha512_crypt") => (true, 656_000),
        Some("sha256" | "sha256_crypt") => (false, 535_000),
        Some(other) => return Err(call.error(format!("unknown hash `{other}`, expected sha512 or sha256"))),
    };
    let rounds = match call.arg_int("rounds")? {
        None => rounds,
        Some(rounds) => u32::try_from(rounds).map_err(|_| call.error("rounds is out of range"))?,
    };
    let salt = match call.arg_text("salt")? {
        Some(salt) => salt,
        None => random_salt(call.arg_int("salt_size")?.unwrap_or(16)).map_err(|error| call.error(error))?,
    };
    if salt.len() > 16 || !salt.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '/') {
        return Err(call.error("a salt has at most 16 characters, of a-z, A-Z, 0-9, `.` and `/`"));
    }
    let params = sha_crypt::Params::new(rounds).map_err(|error| call.error(error))?;
    let password = call.text()?;
    let (id, sum) = match sha512 {
        true => ('6', crypt_base64(&sha_crypt::sha512_crypt(password.as_bytes(), salt.as_bytes(), params))),
        false => ('5', crypt_base64(&sha_crypt::sha256_crypt(password.as_bytes(), salt.as_bytes(), params))),
    };
    // 5000 is what crypt(3) does when it is not said.
    let rounds = if rounds == 5000 { String::new() } else { format!("rounds={rounds}$") };
    call.give(format!("${id}${rounds}{salt}${sum}"))
}

const CRYPT: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

fn random_salt(size: i64) -> std::io::Result<String> {
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0).clamp(1, 16)];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| char::from(CRYPT[usize::from(byte & 63)])).collect())
}

/// crypt's base64 of a digest: three bytes a group, the low bits first, the bytes in an order of its own.
///
/// Source: Ulrich Drepper, "Unix crypt using SHA-256 and SHA-512". The first group is a byte of each third; each following
/// group takes the next byte of each third, with the thirds rotated.
fn crypt_base64(digest: &[u8]) -> String {
    let third = digest.len() / 3;
    let mut out = String::new();
    let mut push = |bytes: [u8; 3], characters: usize| {
        let mut bits = u32::from(bytes[0]) << 16 | u32::from(bytes[1]) << 8 | u32::from(bytes[2]);
        for _ in 0..characters {
            out.push(char::from(CRYPT[(bits & 63) as usize]));
            bits >>= 6;
        }
    };
    for i in 0..third {
        let of = |which: usize| digest[which % 3 * third + i];
        // SHA-512 rotates one way, SHA-256 the other.
        let turn = if digest.len() == 64 { i } else { 2 * i };
        push([of(turn), of(turn + 1), of(turn + 2)], 4);
    }
    match digest[3 * third..] {
        [last] => push([0, 0, last], 2),
        [first, last] => push([0, last, first], 3),
        _ => {}
    }
    out
}

/// A UUID of version 5 (RFC 9562) in Ansible's name space, so that one text always gives one UUID.
fn to_uuid(call: &Call) -> Result<Jinja, Error> {
    let namespace = call.arg_text("namespace")?.unwrap_or_else(|| "361E6D51-FAEC-444A-9079-341386DA8E2E".to_owned());
    let digits: String = namespace.chars().filter(char::is_ascii_hexdigit).collect();
    let namespace = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32);
    let namespace = namespace.ok_or_else(|| call.error("the namespace is no UUID"))?;
    let digest = Sha1::new().chain_update(namespace.to_be_bytes()).chain_update(call.text()?).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x50;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex(&bytes);
    call.give(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}
