//! From plays and hosts to a graph.

use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;
use std::collections::HashMap;

/// How a step of a play relates hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// Each host by itself.
    PerHost,
    /// Reads what earlier tasks found on other hosts: waits until all hosts have come this far.
    Gather,
    /// Runs on one host for all.
    Once,
    /// All hosts wait for all.
    Barrier,
}

/// A step that will be run.
#[derive(Clone, Debug)]
pub struct StepShape {
    /// Number of the step in its play.
    pub index: usize,
    pub kind: StepKind,
    pub title: String,
}

/// What of a play matters to the order of things.
#[derive(Clone, Debug)]
pub struct PlayShape {
    pub name: String,
    /// Hosts of each batch (`serial`).
    pub batches: Vec<Vec<String>>,
    pub steps: Vec<StepShape>,
    /// Plays that have to be done before, by number.
    pub needs: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    Task {
        play: usize,
        step: usize,
        host: String,
    },
    /// A task that runs once for all hosts of a batch.
    Once {
        play: usize,
        step: usize,
        batch: usize,
    },
    /// A point where hosts meet. Nothing runs here.
    Barrier {
        label: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// The next task of the same host: sent ahead, run in order.
    Order,
    /// Has to be done before the other may be sent.
    Waits,
}

/// The compiled graph.
#[derive(Debug)]
pub struct TaskGraph {
    pub graph: StableDiGraph<Node, Edge>,
    by_task: HashMap<(usize, usize, String), NodeIndex>,
    by_once: HashMap<(usize, usize, usize), NodeIndex>,
    starts: HashMap<(usize, usize), NodeIndex>,
    titles: HashMap<(usize, usize), String>,
}

/// Compiles plays to a graph. Nodes are inserted in the order of the plays, so the result is the same every time.
pub fn compile(plays: &[PlayShape]) -> TaskGraph {
    let mut this = TaskGraph {
        graph: StableDiGraph::new(),
        by_task: HashMap::new(),
        by_once: HashMap::new(),
        starts: HashMap::new(),
        titles: HashMap::new(),
    };
    let mut ends: Vec<NodeIndex> = Vec::new();
    for (number, play) in plays.iter().enumerate() {
        for step in &play.steps {
            this.titles.insert((number, step.index), step.title.clone());
        }
        let mut before: Vec<NodeIndex> = play.needs.iter().filter_map(|&need| ends.get(need).copied()).collect();
        let mut end = None;
        for (batch, hosts) in play.batches.iter().enumerate() {
            let start = this.barrier(format!("{} starts", play.name), &before);
            this.starts.insert((number, batch), start);
            let done = this.add_batch(number, play, batch, hosts, start);
            before = vec![done];
            end = Some(done);
        }
        ends.push(end.unwrap_or_else(|| this.barrier(format!("{} done", play.name), &before)));
    }
    this
}

impl TaskGraph {
    fn barrier(&mut self, label: String, before: &[NodeIndex]) -> NodeIndex {
        let node = self.graph.add_node(Node::Barrier { label });
        for &earlier in before {
            self.graph.add_edge(earlier, node, Edge::Waits);
        }
        node
    }

    fn add_batch(
        &mut self,
        number: usize,
        play: &PlayShape,
        batch: usize,
        hosts: &[String],
        start: NodeIndex,
    ) -> NodeIndex {
        // What the next step of each host comes after: an ordinary task by `Order`, a barrier by `Waits`.
        let mut last: Vec<(NodeIndex, Edge)> = vec![(start, Edge::Waits); hosts.len()];
        for step in &play.steps {
            match step.kind {
                StepKind::PerHost | StepKind::Gather => {
                    let meeting = (step.kind == StepKind::Gather && hosts.len() > 1).then(|| {
                        let before: Vec<_> = last.iter().map(|(node, _)| *node).collect();
                        self.barrier(format!("all hosts before {}", step.title), &before)
                    });
                    for (host, last) in hosts.iter().zip(&mut last) {
                        let node =
                            self.graph.add_node(Node::Task { play: number, step: step.index, host: host.clone() });
                        self.graph.add_edge(last.0, node, last.1);
                        if let Some(meeting) = meeting {
                            self.graph.add_edge(meeting, node, Edge::Waits);
                        }
                        self.by_task.insert((number, step.index, host.clone()), node);
                        *last = (node, Edge::Order);
                    }
                }
                StepKind::Once | StepKind::Barrier => {
                    let before: Vec<_> = last.iter().map(|(node, _)| *node).collect();
                    let mut meeting = self.barrier(format!("all hosts before {}", step.title), &before);
                    if step.kind == StepKind::Once {
                        let once = self.graph.add_node(Node::Once { play: number, step: step.index, batch });
                        self.graph.add_edge(meeting, once, Edge::Waits);
                        self.by_once.insert((number, step.index, batch), once);
                        meeting = once;
                    }
                    last.fill((meeting, Edge::Waits));
                }
            }
        }
        let before: Vec<_> = last.iter().map(|(node, _)| *node).collect();
        self.barrier(format!("{} done", play.name), &before)
    }

    pub fn task(&self, play: usize, step: usize, host: &str) -> Option<NodeIndex> {
        self.by_task.get(&(play, step, host.to_owned())).copied()
    }

    /// Where the hosts of a batch start.
    pub fn start(&self, play: usize, batch: usize) -> Option<NodeIndex> {
        self.starts.get(&(play, batch)).copied()
    }

    pub fn once(&self, play: usize, step: usize, batch: usize) -> Option<NodeIndex> {
        self.by_once.get(&(play, step, batch)).copied()
    }

    /// How many nodes `node` has to wait for.
    pub(super) fn waits(&self, node: NodeIndex) -> usize {
        self.graph
            .edges_directed(node, petgraph::Direction::Incoming)
            .filter(|edge| *edge.weight() == Edge::Waits)
            .count()
    }

    pub(super) fn waiting_for(&self, node: NodeIndex) -> impl Iterator<Item = NodeIndex> + '_ {
        self.graph.edges(node).filter(|edge| *edge.weight() == Edge::Waits).map(|edge| edge.target())
    }

    /// The graph in the DOT language of Graphviz.
    pub fn to_dot(&self) -> String {
        let mut dot = String::from("digraph kprov {\n  rankdir=LR;\n  node [shape=box, fontsize=10];\n");
        let quote = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        for index in self.graph.node_indices() {
            let title = |play: usize, step: usize| self.titles.get(&(play, step)).cloned().unwrap_or_default();
            let (label, shape) = match &self.graph[index] {
                Node::Task { play, step, host } => (format!("{host}\\n{}", quote(&title(*play, *step))), ""),
                Node::Once { play, step, .. } => (format!("once\\n{}", quote(&title(*play, *step))), ", style=bold"),
                Node::Barrier { label } => (quote(label), ", shape=ellipse, style=dashed"),
            };
            dot += &format!("  n{} [label=\"{label}\"{shape}];\n", index.index());
        }
        for edge in self.graph.edge_indices() {
            if let Some((from, to)) = self.graph.edge_endpoints(edge) {
                dot += &format!("  n{} -> n{};\n", from.index(), to.index());
            }
        }
        dot + "}\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(name: &str, hosts: &[&[&str]], kinds: &[StepKind], needs: &[usize]) -> PlayShape {
        PlayShape {
            name: name.to_owned(),
            batches: hosts.iter().map(|batch| batch.iter().map(|&h| h.to_owned()).collect()).collect(),
            steps: kinds
                .iter()
                .enumerate()
                .map(|(index, &kind)| StepShape { index, kind, title: format!("t{index}") })
                .collect(),
            needs: needs.to_vec(),
        }
    }

    fn waits(graph: &TaskGraph, play: usize, step: usize, host: &str) -> usize {
        graph.waits(graph.task(play, step, host).unwrap())
    }

    #[test]
    fn hosts_run_ahead_on_their_own() {
        use StepKind::PerHost;
        let graph = compile(&[play("a", &[&["n1", "n2"]], &[PerHost, PerHost, PerHost], &[])]);
        assert_eq!(waits(&graph, 0, 0, "n1"), 1, "the start of the play");
        assert_eq!(waits(&graph, 0, 1, "n1"), 0);
        assert_eq!(waits(&graph, 0, 2, "n2"), 0);
    }

    #[test]
    fn run_once_is_a_meeting_of_all_hosts() {
        use StepKind::{Once, PerHost};
        let graph = compile(&[play("a", &[&["n1", "n2"]], &[PerHost, Once, PerHost], &[])]);
        let once = graph.once(0, 1, 0).unwrap();
        assert_eq!(graph.waits(once), 1);
        let meeting = graph.graph.neighbors_directed(once, petgraph::Direction::Incoming).next().unwrap();
        assert_eq!(
            graph.waits(meeting) + graph.graph.neighbors_directed(meeting, petgraph::Direction::Incoming).count(),
            2 + 2
        );
        assert_eq!(waits(&graph, 0, 2, "n2"), 1);
    }

    #[test]
    fn the_graph_has_no_cycle_and_says_so_in_dot() {
        use StepKind::{Barrier, Gather, Once, PerHost};
        let kinds = [PerHost, Gather, Barrier, Once, PerHost];
        let graph = compile(&[
            play("a", &[&["n1", "n2"], &["n3"]], &kinds, &[]),
            play("b", &[&["n4"]], &[PerHost], &[]),
            play("c", &[&["n1"]], &[PerHost], &[0, 1]),
        ]);
        assert!(!petgraph::algo::is_cyclic_directed(&graph.graph));
        assert!(graph.to_dot().contains("n3\\nt0"));
    }

    #[test]
    fn a_play_without_hosts_holds_nobody_up() {
        let graph =
            compile(&[play("a", &[], &[StepKind::PerHost], &[]), play("b", &[&["n1"]], &[StepKind::PerHost], &[0])]);
        assert_eq!(waits(&graph, 1, 0, "n1"), 1);
    }
}
