//! The flags that verbs share, and what a run is to do by them.

use super::run::Verb;
use super::{Exit, usage};
use crate::engine::Options;
use crate::engine::plan::{Asked, Limit, Limits};
use crate::system::Mode;
use crate::transport::ConnectionFlags;
use crate::ui::{self, Format, Show};
use crate::vars::Secret;
use std::path::PathBuf;
use std::time::Duration;

/// What is read before any host is asked.
#[derive(clap::Args)]
pub struct InputArgs {
    /// Inventory file or directory, or a list of hosts that ends in a comma; can be given more than once
    #[arg(short, long, value_name = "INVENTORY")]
    pub inventory: Vec<PathBuf>,
    /// Variables: key=value, @file or JSON; can be given more than once
    #[arg(short, long, value_name = "VARS")]
    pub extra_vars: Vec<String>,
    /// A built-in playbook by name, or a file
    #[arg(long, default_value = "cluster", value_name = "NAME|FILE")]
    pub playbook: String,
    /// Read the password of vaulted variables from this file
    #[arg(long, value_name = "FILE", env = "ANSIBLE_VAULT_PASSWORD_FILE")]
    pub vault_password_file: Vec<PathBuf>,
}

/// What of the playbook is run.
#[derive(clap::Args)]
pub struct SelectArgs {
    /// Only hosts that match this pattern
    #[arg(short, long, value_name = "PATTERN")]
    pub limit: Option<String>,
    /// Only tasks with these tags
    #[arg(short, long, value_delimiter = ',')]
    pub tags: Vec<String>,
    /// No tasks with these tags
    #[arg(long, value_delimiter = ',', value_name = "TAGS")]
    pub skip_tags: Vec<String>,
}

/// Which hosts there are, and how to get in.
#[derive(clap::Args)]
pub struct ConnectArgs {
    #[command(flatten)]
    pub input: InputArgs,
    /// How many hosts are connected to at the same time
    #[arg(short, long, default_value_t = 50)]
    forks: usize,
    /// Connect as this user
    #[arg(short, long)]
    user: Option<String>,
    /// Log in with this key
    #[arg(long, value_name = "FILE")]
    private_key: Option<PathBuf>,
    /// Become another user (root) on the hosts
    #[arg(short, long)]
    r#become: bool,
    /// The user to become
    #[arg(long, value_name = "USER")]
    become_user: Option<String>,
    /// Ask for the sudo password
    #[arg(short = 'K', long)]
    ask_become_pass: bool,
    /// Read the sudo password from this file
    #[arg(long, value_name = "FILE", conflicts_with = "ask_become_pass")]
    become_password_file: Option<PathBuf>,
    /// Give up connecting after this many seconds
    #[arg(short = 'T', long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

#[derive(clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
    #[command(flatten)]
    select: SelectArgs,
    /// Text, or JSON lines
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Show tasks that change nothing too, and how long stages take
    #[arg(short, long)]
    verbose: bool,
    /// How long to wait for another run
    #[arg(skip)]
    pub lock_timeout: Duration,
    /// How long to try to reach a host again whose link dropped
    #[arg(skip)]
    pub reconnect_timeout: Duration,
}

#[derive(clap::Args)]
pub struct LimitArgs {
    /// Refuse to take a unit down on more hosts at the same time: kubelet=10%,etcd=1
    #[arg(long, value_delimiter = ',', value_name = "UNIT=HOSTS")]
    max_disruption: Vec<Limit>,
}

impl From<LimitArgs> for Limits {
    fn from(args: LimitArgs) -> Self {
        Self(args.max_disruption)
    }
}

impl InputArgs {
    /// A run that looks and changes nothing, of all hosts.
    pub fn options(&self, command: String) -> Result<Options, Exit> {
        if self.inventory.is_empty() {
            return Err(usage("there is no inventory: name one with -i"));
        }
        Ok(Options {
            mode: Mode::Plan,
            inventories: self.inventory.clone(),
            limit: None,
            tags: Vec::new(),
            skip_tags: Vec::new(),
            extra_vars: self.extra_vars.clone(),
            vault_password_files: self.vault_password_file.clone(),
            playbook: self.playbook.clone(),
            forks: 1,
            connection: ConnectionFlags::default(),
            lock_timeout: Duration::ZERO,
            reconnect_timeout: Duration::ZERO,
            only_preconditions: false,
            command,
            plan: None,
            resumes: None,
        })
    }

    /// The inventories as they were given.
    pub fn inventories(&self) -> impl Iterator<Item = String> {
        self.inventory.iter().map(|inventory| format!("-i {}", inventory.display()))
    }
}

impl SelectArgs {
    pub fn of(&self, options: Options) -> Options {
        let Self { limit, tags, skip_tags } = self;
        Options { limit: limit.clone(), tags: tags.clone(), skip_tags: skip_tags.clone(), ..options }
    }
}

impl ConnectArgs {
    /// The same as [`InputArgs::options`], for a run that asks hosts.
    pub fn options(&self, command: String) -> Result<Options, Exit> {
        let options = self.input.options(command)?;
        let become_password = match (&self.become_password_file, self.ask_become_pass) {
            (Some(file), _) => {
                let text = std::fs::read_to_string(file).map_err(|e| usage(&format!("{}: {e}", file.display())))?;
                Some(Secret::new(text.trim_end_matches('\n')))
            }
            (None, true) => {
                ui::prompt("BECOME password: ");
                let typed = console::Term::stderr().read_secure_line();
                let typed = typed.map_err(|e| usage(&format!("cannot read the password: {e}")))?;
                Some(Secret::new(typed))
            }
            (None, false) => None,
        };
        Ok(Options {
            forks: self.forks,
            connection: ConnectionFlags {
                user: self.user.clone(),
                private_key: self.private_key.clone(),
                escalate: self.r#become,
                become_user: self.become_user.clone(),
                become_password,
                timeout: self.timeout.map(Duration::from_secs),
                ..ConnectionFlags::default()
            },
            ..options
        })
    }
}

/// What a run is to do.
pub fn options(args: &RunArgs, verb: &Verb) -> Result<Options, Exit> {
    Ok(Options {
        mode: verb.mode,
        lock_timeout: args.lock_timeout,
        reconnect_timeout: args.reconnect_timeout,
        only_preconditions: verb.only_preconditions,
        ..args.select.of(args.connect.options(command(args, verb))?)
    })
}

impl RunArgs {
    pub fn show(&self, verb: &Verb) -> Show {
        let plan = verb.mode == Mode::Plan;
        Show { verb: verb.name, format: self.format, verbose: self.verbose, diff: verb.diff, plan }
    }

    /// Takes what was asked for a plan for what is asked now.
    pub fn ask(&mut self, asked: Asked) {
        let Asked { inventories, limit, tags, skip_tags, playbook, extra_vars } = asked;
        let input = &mut self.connect.input;
        (input.inventory, input.playbook, input.extra_vars) = (inventories, playbook, extra_vars);
        self.select = SelectArgs { limit, tags, skip_tags };
    }
}

/// The verb and the flags that say what is done where. Values of variables stay out: they may be secret.
fn command(args: &RunArgs, verb: &Verb) -> String {
    let mut words = vec![verb.name.to_owned()];
    words.extend(verb.plan.iter().map(|plan| format!("--plan {}", plan.display())));
    let (input, select) = (&args.connect.input, &args.select);
    words.extend(input.inventories());
    let playbook = (input.playbook != "cluster").then(|| input.playbook.clone());
    let flags = [("--playbook", playbook), ("-l", select.limit.clone())];
    let lists = [("-t", &select.tags), ("--skip-tags", &select.skip_tags)];
    let lists = lists.into_iter().map(|(flag, list)| (flag, (!list.is_empty()).then(|| list.join(","))));
    words.extend(flags.into_iter().chain(lists).filter_map(|(flag, value)| Some(format!("{flag} {}", value?))));
    for extra in &input.extra_vars {
        words.push(match extra.strip_prefix('@') {
            Some(_) => format!("-e {extra}"),
            None => format!("-e {}=…", extra.split_once('=').map_or("", |(name, _)| name)),
        });
    }
    words.join(" ")
}
