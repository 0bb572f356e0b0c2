//! The graph while it runs.

use super::compile::{Node, TaskGraph};
use petgraph::stable_graph::NodeIndex;
use std::collections::HashMap;
use std::sync::Mutex;
use tokio::sync::oneshot;

/// Which nodes are done, and who waits for which.
#[derive(Debug)]
pub struct Progress {
    graph: TaskGraph,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// How many nodes each node still waits for.
    open: Vec<usize>,
    done: Vec<bool>,
    waiting: HashMap<NodeIndex, Vec<oneshot::Sender<()>>>,
}

impl Progress {
    pub fn new(graph: TaskGraph) -> Self {
        let nodes = graph.graph.node_count();
        let mut state = State { open: vec![0; nodes], done: vec![false; nodes], waiting: HashMap::new() };
        for node in graph.graph.node_indices() {
            state.open[node.index()] = graph.waits(node);
        }
        let this = Self { graph, state: Mutex::new(state) };
        let free: Vec<_> = this.graph.graph.node_indices().filter(|&node| this.graph.waits(node) == 0).collect();
        for node in free {
            if matches!(this.graph.graph[node], Node::Barrier { .. }) {
                this.done(node);
            }
        }
        this
    }

    pub fn graph(&self) -> &TaskGraph {
        &self.graph
    }

    /// Returns when everything that `node` waits for is done.
    pub async fn ready(&self, node: NodeIndex) {
        let receiver = {
            let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if state.open[node.index()] == 0 {
                return;
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.entry(node).or_default().push(sender);
            receiver
        };
        // The sender lives as long as this progress does, and a closed channel means that nobody waits any more.
        let _ = receiver.await;
    }

    /// Marks a node as done (or as never to be done); barriers behind it that have become free are done too.
    pub fn done(&self, node: NodeIndex) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut stack = vec![node];
        while let Some(node) = stack.pop() {
            if std::mem::replace(&mut state.done[node.index()], true) {
                continue;
            }
            for next in self.graph.waiting_for(node) {
                state.open[next.index()] -= 1;
                if state.open[next.index()] > 0 {
                    continue;
                }
                for sender in state.waiting.remove(&next).unwrap_or_default() {
                    let _ = sender.send(());
                }
                if matches!(self.graph.graph[next], Node::Barrier { .. }) {
                    stack.push(next);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PlayShape, StepKind, StepShape, compile};
    use super::*;

    #[tokio::test]
    async fn a_play_waits_for_the_play_before() {
        let step = |kind| vec![StepShape { index: 0, kind, title: "t".into() }];
        let shape = |name: &str, needs: Vec<usize>| PlayShape {
            name: name.into(),
            batches: vec![vec!["n1".into(), "n2".into()]],
            steps: step(StepKind::PerHost),
            needs,
        };
        let progress = Progress::new(compile(&[shape("a", vec![]), shape("b", vec![0])]));
        let node = |play, host| progress.graph().task(play, 0, host).unwrap();
        progress.ready(node(0, "n1")).await;
        let second = progress.ready(node(1, "n1"));
        tokio::pin!(second);
        progress.done(node(0, "n1"));
        assert!(futures_util::poll!(&mut second).is_pending());
        progress.done(node(0, "n2"));
        second.await;
    }
}
