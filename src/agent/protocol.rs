//! What controller and agent say to each other.
//!
//! A frame is a big-endian `u32` length and one message in postcard. Both ends are always of one build: the first frame
//! of the agent says which, and the controller replaces an agent of another build before anything else is said. Tasks are
//! streamed ahead; the agent runs them in order, one at a time, and drops the rest of an epoch when one fails.

use crate::modules::{Blob, Diff, Failure, Outcome, Resource};
use crate::pki::SigningRequest;
use crate::system::Mode;
use crate::value::Value;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// The longest frame, in bytes. Content is sent in chunks well below it.
pub const MAX_FRAME: usize = 16 << 20;
/// How much of a blob one [`ToAgent::Chunk`] carries, in bytes.
pub const CHUNK: usize = 256 << 10;
/// How many bytes one end of a tunnel may send before the other has said that it passed them on.
pub const TUNNEL_WINDOW: u32 = 1 << 20;

/// What the result of a failure has when a newer run has begun on the host.
pub const REPLACED: &str = "replaced";

/// Number of a task on one host in one run; the controller counts.
pub type Seq = u32;

/// From the controller to the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToAgent {
    /// Starts the work: what tasks will do from here on. Before it they are planned. Answered with [`FromAgent::Begun`].
    Begin {
        mode: Mode,
        /// The run that the work belongs to, where it is one that changes hosts.
        run: Option<RunHeader>,
    },
    /// Asks about the lock, or for it; answered with [`FromAgent::Lock`].
    Lock(LockRequest),
    /// Asks for facts.
    Facts,
    Task(Box<Task>),
    /// Part of a blob that the task `seq` needs, in order; `last` carries the digest of the whole.
    Chunk {
        seq: Seq,
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
        last: Option<String>,
    },
    /// The certificate that the task `seq` needs.
    Certificate {
        seq: Seq,
        pem: String,
    },
    /// What the task `seq` needs cannot be had.
    Refused {
        seq: Seq,
        failure: Failure,
    },
    /// Signs with a CA key of this host for another one; answered with [`FromAgent::Signed`]. Served beside the tasks.
    Sign {
        id: u32,
        request: SigningRequest,
    },
    /// Opens a TCP connection from the node to `address` (IP:PORT). Served beside the tasks.
    Connect {
        id: u32,
        address: String,
    },
    /// Bytes for a connection, at most [`TUNNEL_WINDOW`] ahead of what [`FromAgent::Window`] has granted.
    Data {
        id: u32,
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// This many bytes of the connection have been passed on; as many more may come.
    Window {
        id: u32,
        bytes: u32,
    },
    /// No more bytes will come on this connection; what the node's side still sends is wanted.
    Close {
        id: u32,
    },
    /// Nobody wants the connection any longer.
    Reset {
        id: u32,
    },
    /// Begins no task any more and drops the rest. `now`: the task in hand does not wait for anything either, and its
    /// programs are ended.
    Cancel {
        now: bool,
    },
    /// The controller itself has done something for the host, such as a change of a Kubernetes object; to be recorded.
    Did(Box<Did>),
    /// The run is over; to be recorded. Answered with [`FromAgent::Ended`].
    End(RunEnd),
    /// Asks for what the host has recorded: of one run all, else of all runs who, when, and how each step ended. Answered
    /// with any number of [`FromAgent::Record`] and one [`FromAgent::Recorded`]. Changes nothing.
    Records {
        run: Option<String>,
    },
}

impl From<Task> for ToAgent {
    fn from(task: Task) -> Self {
        Self::Task(Box::new(task))
    }
}

/// Who runs what on a host. Holds no values of variables, for they may be secret. Every field is written down on nodes and
/// read by later builds: one that is missing has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunHeader {
    /// Sorts by time: `20261125T031928Z-4f2a91`.
    pub id: String,
    /// `USER@HOST` of the controller.
    pub operator: String,
    /// Seconds since 1970, by the controller's clock.
    pub started: i64,
    /// The verb and its flags.
    pub command: String,
    /// Larger than that of every run before it on the hosts that it changes; 0 as long as it has none. Nodes refuse a run
    /// when a newer one has begun on them.
    pub token: u64,
    /// The hosts that take part, by their names in the inventory.
    pub hosts: Vec<String>,
    /// The name of a built-in playbook, or an absolute path.
    pub playbook: String,
    pub limit: Option<String>,
    pub tags: Vec<String>,
    pub skip_tags: Vec<String>,
    /// What was given with `-e`, in that order.
    pub extra_vars: Vec<GivenVars>,
    /// SHA-256 of the saved plan that is applied.
    pub plan: Option<String>,
    /// The run that this one goes on with.
    pub resumes: Option<String>,
    /// Recorded even where nothing changes, so that every operator sees every run.
    pub always: bool,
    pub keep: Keep,
}

/// What the controller wants of the lock of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockRequest {
    /// To know who has it. Touches nothing.
    Show,
    /// To have it. When the holder in the answer is another run, that one has it.
    Take(RunHeader),
    /// To give it back.
    LetGo,
    /// To make the run with its token the newest of the node: older ones are refused.
    Fence(RunHeader),
    /// The same, and that the agents of older runs let go; those that do not are ended.
    Break(RunHeader),
}

/// The lock of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockState {
    /// The newest run of the node, whether or not it is over.
    pub newest: Option<RunHeader>,
    pub holder: Option<Holder>,
    /// The process of another agent that has a task in hand.
    pub busy: Option<u32>,
    /// The processes that had to be ended.
    pub ended: Vec<u32>,
}

/// Who holds the lock of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub run: RunHeader,
    pub pid: u32,
    /// Since it was taken, by the node's clock.
    pub seconds: u64,
}

/// One `-e`. A value that was typed may be secret and is not recorded, only what it takes to know it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GivenVars {
    /// The absolute path of a file.
    File(String),
    /// The names, where they can be told, and the SHA-256 of the run's id and the argument.
    Typed { names: Vec<String>, digest: String },
}

/// How much of its record a node keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Keep {
    /// How many runs that changed something, and as many that did not.
    pub runs: u32,
    /// The largest file that is kept before it is replaced, in MB (2^20 bytes).
    pub file_mb: u32,
    /// All such files of one run, in MB.
    pub run_mb: u32,
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunEnd {
    /// `done`, `failed` or `interrupted`.
    pub status: String,
    /// The columns of the recap, by host.
    pub hosts: IndexMap<String, IndexMap<String, u32>>,
}

/// What the controller has done for a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Did {
    pub name: StepName,
    pub seconds: f64,
    /// What changed, or why it failed.
    pub result: Result<Vec<Diff>, Failure>,
}

/// Which task it is, for the record and for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepName {
    /// The same in plan and apply: `3.12`.
    pub task_id: String,
    /// "" outside of roles.
    pub role: String,
    pub task: String,
    /// Which item of the task's loop, counted from 0.
    pub item: Option<u32>,
    /// What it does is not to be recorded or shown, only that it did something.
    pub no_log: bool,
}

/// One task, or one item of a task's loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub seq: Seq,
    pub name: StepName,
    /// Tasks of an epoch in which one has failed are dropped. The controller starts a new one to go on after a failure.
    pub epoch: u32,
    /// Items of one loop share a group, and run although another item has failed.
    pub group: Seq,
    /// A failure does not end the epoch.
    pub ignore_errors: bool,
    /// Handlers to run later if this task changes something. The agent writes them to the node's disk (under
    /// `/var/lib/kprov/pending/`) before the change is made, so that the next run finishes what a killed one began.
    /// When planning they are remembered in memory, on top of what is on the disk.
    pub notify: Vec<String>,
    /// This task is that handler: it runs only if the handler is pending, and clears it when it succeeded. The restart of
    /// a unit that was started after the handler was last notified is left out.
    pub handler: Option<String>,
    /// Whether a handler that an earlier run left behind runs too: at the end of a play, when its tasks have done what that
    /// run did not get to.
    pub carried: bool,
    /// Digests of the changes that it may make, where it has to keep to a plan; `None`: any. It may always find that
    /// nothing is left to do.
    pub expect: Option<Vec<String>>,
    pub resource: Resource,
}

/// From the agent to the controller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromAgent {
    /// The first frame. `build` is the SHA-256 of the agent's own binary, in hex.
    Hello {
        build: String,
    },
    Facts(Result<Value, Failure>),
    Begun {
        result: Result<(), Failure>,
    },
    Lock(Result<Box<LockState>, Failure>),
    /// Another run has taken the place of this one: the agent changes nothing any more, and drops what comes.
    Replaced {
        reason: String,
    },
    Started {
        seq: Seq,
    },
    Done {
        seq: Seq,
        result: TaskResult,
    },
    NeedBlob {
        seq: Seq,
        blob: Blob,
    },
    NeedCertificate {
        seq: Seq,
        signer: String,
        request: SigningRequest,
    },
    Signed {
        id: u32,
        result: Result<String, Failure>,
    },
    Connected {
        id: u32,
        result: Result<(), Failure>,
    },
    Data {
        id: u32,
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    Window {
        id: u32,
        bytes: u32,
    },
    /// The connection is over: its other end has closed it, or it broke.
    Closed {
        id: u32,
    },
    /// The end of the run is recorded, or cannot be.
    Ended(Result<(), Failure>),
    /// Part of the journal of a run, in order; see `journal`.
    Record {
        run: String,
        /// An agent of that run is still there.
        running: bool,
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// There are no more records.
    Recorded(Result<(), Failure>),
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TaskResult {
    Done(Outcome),
    Failed(Failure),
    /// A handler that nothing has notified.
    NotNeeded,
    /// An earlier task of the epoch failed, or the run was cancelled. Nothing was done.
    Dropped,
}
