//! Definitions within definitions: in which order they are set up, how deep they lie, how much they become, and the ids of
//! their nodes.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};

use super::{DEEPEST, Document, Level, MOST_NODES, plain};
use crate::echo;
use crate::error::JobError;
use crate::workflow::convert::report::{invalid, refused};

impl Document<'_> {
    /// Finds the hosts of each definition.
    pub(super) fn find_hosts(&mut self) -> Result<(), JobError> {
        let mut by_id = HashMap::with_capacity(self.levels.len());
        for (index, level) in self.levels.iter().enumerate().skip(1) {
            if by_id.insert(level.id, index).is_some() {
                let id = echo::cut(level.id);
                return Err(refused(vec![plain(format!(
                    "there are two subgraphs with the id `{id}`"
                ))]));
            }
        }
        for node in self.levels.iter_mut().flat_map(|level| &mut level.nodes) {
            node.host = by_id.get(node.class).copied();
        }
        Ok(())
    }

    /// Puts the levels in order, those that others hold first, and refuses what lies in a circle, too deep, or becomes too
    /// much.
    pub(super) fn put_in_order(&mut self) -> Result<(), JobError> {
        let count = self.levels.len();
        let mut holders: Vec<Vec<usize>> = vec![Vec::new(); count];
        let mut open = vec![0_usize; count];
        for (index, level) in self.levels.iter().enumerate() {
            for held in level.nodes.iter().filter_map(|node| node.host) {
                holders[held].push(index);
                open[index] += 1;
            }
        }
        let mut ready: VecDeque<usize> = (1..count).filter(|index| open[*index] == 0).collect();
        let mut depth = vec![0_usize; count];
        while let Some(index) = ready.pop_front() {
            self.order.push(index);
            for holder in std::mem::take(&mut holders[index]) {
                depth[holder] = depth[holder].max(depth[index] + 1);
                open[holder] -= 1;
                if open[holder] == 0 && holder != 0 {
                    ready.push_back(holder);
                }
            }
        }
        if self.order.len() + 1 < count {
            let placed: HashSet<usize> = self.order.iter().copied().collect();
            let circle = (1..count)
                .find(|index| !placed.contains(index))
                .map(|index| &self.levels[index]);
            let name = circle.map_or_else(String::new, |level| format!(" `{}`", echo::cut(level.name)));
            return Err(invalid(&format!("the subgraph{name} holds itself, or one that does")));
        }
        self.order.push(0);
        if depth.iter().any(|depth| *depth > DEEPEST) {
            return Err(invalid(&format!(
                "subgraphs lie more than {DEEPEST} levels within each other"
            )));
        }
        let mut sizes = vec![0_usize; count];
        for index in &self.order {
            sizes[*index] = size(&self.levels[*index], &sizes);
        }
        if sizes[0] > MOST_NODES {
            return Err(invalid(&format!("its subgraphs become more than {MOST_NODES} nodes")));
        }
        Ok(())
    }

    /// Gives a node of a definition another id where a node before it has the same, as the page does when it opens a file.
    pub(super) fn make_ids_unique(&mut self) {
        let mut used: HashSet<Cow<'_, str>> = HashSet::new();
        // Larger ones are no counting.
        let most = u64::from(u32::MAX);
        let mut last = self.levels[0].last_id.min(most);
        for (index, level) in self.levels.iter_mut().enumerate() {
            for node in &mut level.nodes {
                if index > 0 && used.contains(&node.id) {
                    last += 1;
                    while used.contains(last.to_string().as_str()) {
                        last += 1;
                    }
                    node.id = Cow::Owned(last.to_string());
                } else if let Ok(id) = node.id.parse::<u64>() {
                    last = last.max(id.min(most));
                }
                used.insert(node.id.clone());
            }
        }
    }
}

/// How many nodes a level becomes when every host in it is written out.
fn size(level: &Level<'_>, sizes: &[usize]) -> usize {
    let nodes = level
        .nodes
        .iter()
        .map(|node| node.host.map_or(1, |held| sizes[held].max(1)));
    nodes.fold(0, usize::saturating_add)
}
