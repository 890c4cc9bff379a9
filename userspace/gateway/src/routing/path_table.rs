//! Rules by path: a tree of path elements. A look-up walks the request's path once, and then up through the rules' prefixes.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::iter::successors;

use regex::Regex;

use super::rule::PathMatch;

/// Values by path. A prefix matches whole elements and ignores its last slash, as an Ingress' `Prefix`.
#[derive(Clone, Debug)]
pub(super) struct PathTable<T> {
    /// The root is the first node.
    nodes: Vec<Node<T>>,
    patterns: Vec<(Regex, T)>,
}

#[derive(Clone, Debug)]
struct Node<T> {
    children: HashMap<Box<str>, usize>,
    /// Of the path that ends here.
    exact: Vec<T>,
    /// Of this path and all below.
    prefix: Vec<T>,
    /// The nearest node above that has values of a prefix. It is up to date after [`PathTable::link`].
    up: Option<usize>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Node { children: HashMap::new(), exact: Vec::new(), prefix: Vec::new(), up: None }
    }
}

impl<T> Default for PathTable<T> {
    fn default() -> Self {
        PathTable { nodes: vec![Node::default()], patterns: Vec::new() }
    }
}

impl<T> PathTable<T> {
    pub(super) fn insert(&mut self, path: &PathMatch, value: T) {
        match path {
            PathMatch::Exact(path) => {
                let at = self.node(path);
                self.nodes[at].exact.push(value);
            }
            PathMatch::Prefix(path) => {
                let at = self.node(path.strip_suffix('/').unwrap_or(path));
                self.nodes[at].prefix.push(value);
            }
            PathMatch::Pattern(text) => {
                // One that does not compile matches nothing; who makes rules says so.
                if let Ok(pattern) = Regex::new(text) {
                    self.patterns.push((pattern, value));
                }
            }
        }
    }

    fn node(&mut self, path: &str) -> usize {
        let mut at = 0;
        for element in elements(path) {
            let next = self.nodes.len();
            at = *self.nodes[at].children.entry(element.into()).or_insert(next);
            if at == next {
                self.nodes.push(Node::default());
            }
        }
        at
    }

    /// Completes the table after the last insertion: the values of each path in the order of `key`.
    pub(super) fn link<K: Ord>(&mut self, key: impl Fn(&T) -> K) {
        self.patterns.sort_by_key(|(pattern, value)| (Reverse(pattern.as_str().len()), key(value)));
        // A node's children come after it.
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            node.exact.sort_by_key(&key);
            node.prefix.sort_by_key(&key);
            let up = if node.prefix.is_empty() { node.up } else { Some(at) };
            let children: Vec<usize> = node.children.values().copied().collect();
            for child in children {
                self.nodes[child].up = up;
            }
        }
    }

    /// The values of the paths that match, the most specific path first: exact, then patterns, then from the longest prefix to the
    /// shortest.
    pub(super) fn find<'t, 'p>(&'t self, path: &'p str) -> impl Iterator<Item = &'t T> + use<'t, 'p, T> {
        let (mut at, mut whole) = (0, true);
        for element in elements(path) {
            match self.nodes[at].children.get(element) {
                Some(child) => at = *child,
                None => {
                    whole = false;
                    break;
                }
            }
        }
        let exact = self.nodes[at].exact.iter().filter(move |_| whole);
        let above = successors(Some(at), |at| self.nodes[*at].up);
        let by_pattern = self.patterns.iter().filter(|(pattern, _)| pattern.is_match(path));
        exact.chain(by_pattern.map(|(_, value)| value)).chain(above.flat_map(|at| &self.nodes[at].prefix))
    }
}

/// `/` has none; `/a/` has two, and the second one is empty.
fn elements(path: &str) -> impl Iterator<Item = &str> {
    let rest = path.strip_prefix('/').unwrap_or(path);
    rest.split('/').take(if rest.is_empty() { 0 } else { usize::MAX })
}
