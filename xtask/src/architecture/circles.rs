//! Circles of files that import each other, within one package.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::Finding;
use super::package::Package;
use super::rules::Rule;
use super::table::{self, Table};
use super::tree::{Resolved, Tree};
use super::uses;

/// Files that reach each other by imports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Circle {
    pub files: Vec<String>,
    /// From, to, and a name that makes the arrow.
    pub arrows: Vec<(String, String, String)>,
}

/// From a file to the files that it imports, with a path that does so.
type Graph = BTreeMap<String, BTreeMap<String, String>>;

pub(super) fn check(table: &Table, package: &Package) -> Vec<Finding> {
    let allowed = table.packages.get(&package.folder).map_or(0, |row| row.largest_circle);
    let circles = find(package);
    let largest = circles.first().map_or(0, |circle| circle.files.len());
    if largest < allowed {
        let folder = &package.folder;
        let problem = format!("{folder}: largest_circle is {allowed}, the tree has {largest}; lower it");
        return vec![table::finding(problem)];
    }
    let too_large = circles.into_iter().filter(|circle| circle.files.len() > allowed);
    too_large
        .map(|circle| {
            let problem = format!("{} files in a circle: {}", circle.files.len(), circle.files.join(", "));
            Finding::new(Rule::Circle, circle.files[0].clone(), 0, problem)
        })
        .collect()
}

/// The circles of a package, the largest first.
pub(super) fn find(package: &Package) -> Vec<Circle> {
    let mut graph = Graph::new();
    for tree in &package.production {
        add_arrows(tree, &mut graph);
    }
    let mut circles: Vec<Circle> = components(&graph)
        .into_iter()
        .filter(|files| files.len() > 1)
        .map(|files| circle(&graph, files))
        .collect();
    circles.sort_by_key(|circle| std::cmp::Reverse(circle.files.len()));
    circles
}

fn add_arrows(tree: &Tree, graph: &mut Graph) {
    for file in tree.files.iter().filter(|file| !file.for_tests) {
        let arrows = graph.entry(file.path.clone()).or_default();
        for path in uses::of(file) {
            let Resolved::File(target) = tree.resolve(&path.module, &path.segments) else { continue };
            let target = &tree.files[target];
            if target.path != file.path && !target.for_tests {
                arrows.entry(target.path.clone()).or_insert_with(|| path.segments.join("::"));
            }
        }
    }
}

fn circle(graph: &Graph, files: BTreeSet<String>) -> Circle {
    let mut arrows = Vec::new();
    for from in &files {
        for (to, name) in graph.get(from).into_iter().flatten() {
            if files.contains(to) {
                arrows.push((from.clone(), to.clone(), name.clone()));
            }
        }
    }
    Circle { files: files.into_iter().collect(), arrows }
}

/// The strongly connected components: files that reach each other. A package has a few hundred files, so the reach of
/// each is simply computed.
fn components(graph: &Graph) -> Vec<BTreeSet<String>> {
    let reach: BTreeMap<&String, BTreeSet<&String>> =
        graph.keys().map(|file| (file, reach_of(graph, file))).collect();
    let (mut done, mut found) = (BTreeSet::new(), Vec::new());
    for (file, reached) in &reach {
        if done.contains(*file) {
            continue;
        }
        let mutual = |other: &&&String| reach.get(**other).is_some_and(|back| back.contains(file));
        let mut component: BTreeSet<String> =
            reached.iter().filter(mutual).map(|other| (*other).clone()).collect();
        component.insert((*file).clone());
        done.extend(component.iter().cloned());
        found.push(component);
    }
    found
}

fn reach_of<'a>(graph: &'a Graph, from: &str) -> BTreeSet<&'a String> {
    let (mut reached, mut waiting) = (BTreeSet::new(), vec![from]);
    while let Some(file) = waiting.pop() {
        for next in graph.get(file).into_iter().flat_map(BTreeMap::keys) {
            if reached.insert(next) {
                waiting.push(next);
            }
        }
    }
    reached
}
