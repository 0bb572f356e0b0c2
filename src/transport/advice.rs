//! What both SSH transports tell a user who is not let in: the same words, and what to do.

/// How ssh writes a host in known_hosts.
fn known_name(address: &str, port: Option<u16>) -> String {
    match port {
        None | Some(22) => address.to_owned(),
        Some(port) => format!("[{address}]:{port}"),
    }
}

pub(super) fn changed_key(address: &str, port: Option<u16>, place: &str) -> String {
    let name = known_name(address, port);
    format!(
        "the key of {name} has changed{place}; if the host was rebuilt, forget the old one with `ssh-keygen -R '{name}'`, \
         else somebody may be listening in"
    )
}

pub(super) fn unknown_key(address: &str, port: Option<u16>, fingerprint: &str) -> String {
    let name = known_name(address, port);
    format!(
        "the key of {name} is not known{fingerprint}; connect once with ssh and compare its fingerprint, \
         or say ansible_host_key_checking=false"
    )
}

pub(super) fn refused(reason: &str) -> String {
    format!("{reason}; check ansible_user (-u), the key (--private-key, ssh-add -l) and authorized_keys on the host")
}
