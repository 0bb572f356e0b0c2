//! Where variables come from, and how they look from inside a template.

use super::convert;
use super::lazy::Lazy;
use super::session::Session;
use crate::source::Source;
use crate::vars::Var;
use minijinja::Value as Jinja;
use minijinja::value::{Enumerator, Object, ObjectRepr};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The variables of one task on one host.
///
/// `hostvars`, `vars` and `omit` are made by the template engine from what the scope says; every other special variable
/// (`groups`, `group_names`, `inventory_hostname`, `item`) is looked up like the rest.
pub trait Scope: Send + Sync {
    /// The variable as it was written; the engine evaluates it if it is a template.
    fn lookup(&self, name: &str) -> Option<Var>;

    /// Every name that [`lookup`](Self::lookup) finds: for near misses and for reading `vars` as a whole.
    fn names(&self) -> Vec<String>;

    /// The names of the hosts in `hostvars`.
    fn hosts(&self) -> Vec<String>;

    /// What `hostvars[name]` shows.
    fn host(&self, name: &str) -> Option<Arc<dyn Scope>>;

    /// The file that a lookup, an `include` or an `import` names; `kind` is the role's directory for it ("files",
    /// "templates", "vars"). The default knows paths of the controller only.
    fn file(&self, kind: &str, name: &str) -> Option<Arc<Source>> {
        let _ = kind;
        Source::read(Path::new(name)).ok()
    }
}

/// A scope, and which host's it is when it is not the task's own.
pub(super) struct Place {
    pub scope: Arc<dyn Scope>,
    pub host: Option<String>,
}

impl Place {
    /// The name of a variable as a message writes it.
    pub fn label(&self, name: &str) -> String {
        match &self.host {
            Some(host) => format!("hostvars['{host}'].{name}"),
            None => name.to_owned(),
        }
    }
}

/// What names outside of a template's own `set` and `for` refer to. Also `vars` and each value of `hostvars`.
pub(super) struct Names {
    pub session: Arc<Session>,
    pub place: Arc<Place>,
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("variables")
    }
}

impl Object for Names {
    fn get_value(self: &Arc<Self>, key: &Jinja) -> Option<Jinja> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Jinja> {
        match key {
            Session::KEY => Some(Jinja::from_dyn_object(self.session.clone())),
            "omit" => Some(convert::omit()),
            "hostvars" => {
                Some(Jinja::from_object(HostVars { session: self.session.clone(), place: self.place.clone() }))
            }
            "vars" => Some(Jinja::from_dyn_object(self.clone())),
            // Leaving an undefined one to minijinja lets it note where that happened.
            _ => self.session.variable(&self.place, key).filter(|value| !value.is_undefined()),
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.place.scope.names().into_iter().map(Jinja::from).collect())
    }
}

/// `hostvars`: every host's variables, each looked up when it is read.
pub(super) struct HostVars {
    session: Arc<Session>,
    place: Arc<Place>,
}

impl fmt::Debug for HostVars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hostvars")
    }
}

impl Object for HostVars {
    fn get_value(self: &Arc<Self>, key: &Jinja) -> Option<Jinja> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Jinja> {
        let Some(scope) = self.place.scope.host(key) else { return self.session.missing() };
        let place = Arc::new(Place { scope, host: Some(key.to_owned()) });
        Some(Jinja::from_object(Names { session: self.session.clone(), place }))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.place.scope.hosts().into_iter().map(Jinja::from).collect())
    }
}

/// Stands for a value that is not there (unknown or undefined) while a template is tried again; see [`Session`].
pub(super) struct Probe {
    pub session: Arc<Session>,
    pub id: u32,
    /// Unknown rather than undefined.
    pub unknown: bool,
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.session.leak();
        f.write_str("unknown")
    }
}

impl Object for Probe {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    /// An attribute of what is undefined is undefined; whether an unknown value has an attribute nobody can say.
    fn get_value(self: &Arc<Self>, _key: &Jinja) -> Option<Jinja> {
        if self.unknown {
            self.session.leak();
        }
        Some(Jinja::from_dyn_object(self.clone()))
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.session.leak();
        false
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.session.leak();
        Enumerator::NonEnumerable
    }

    fn custom_cmp(self: &Arc<Self>, _other: &minijinja::value::DynObject) -> Option<std::cmp::Ordering> {
        self.session.leak();
        None
    }
}

/// Makes a variable's value visible to a template.
pub(super) fn expose(session: &Arc<Session>, place: &Arc<Place>, name: &str, var: Var) -> Jinja {
    Lazy::variable(session.clone(), place.clone(), name, var).expose()
}
