//! The module tree of one crate root: its files, and which name stands for what in each module.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use quote::ToTokens;
use syn::{Attribute, Item, UseTree, Visibility};

/// A crate: one root file and all that it declares with `mod`.
#[derive(Default)]
pub(super) struct Tree {
    pub(super) files: Vec<SourceFile>,
    modules: HashMap<ModulePath, Module>,
}

pub(super) type ModulePath = Vec<String>;

pub(super) struct SourceFile {
    /// Relative to the top of the tree.
    pub(super) path: String,
    pub(super) module: ModulePath,
    /// Compiled for tests only.
    pub(super) for_tests: bool,
    pub(super) lines: usize,
    pub(super) syntax: syn::File,
}

#[derive(Debug)]
struct Module {
    file: usize,
    names: HashMap<String, Name>,
    globs: Vec<Vec<String>>,
}

#[derive(Clone, Debug)]
enum Name {
    Item,
    Module,
    /// What a `use` makes of it: the path as written.
    Alias(Vec<String>),
}

/// What a path stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resolved {
    /// An item in the file with this index.
    File(usize),
    /// A module as such, not something in it.
    Module,
    /// A path into another crate, written out.
    External(Vec<String>),
    Unknown,
}

/// A `use` written out: what it names, and as what.
pub(super) struct Import {
    pub(super) path: Vec<String>,
    /// None for a glob.
    pub(super) name: Option<String>,
}

impl Tree {
    pub(super) fn parse(top: &Path, root: &Path) -> Result<Tree> {
        let mut tree = Tree::default();
        let folder = root.parent().unwrap_or(top).to_path_buf();
        tree.add_file(top, root, &folder, Vec::new(), false)?;
        Ok(tree)
    }

    fn add_file(
        &mut self,
        top: &Path,
        path: &Path,
        children: &Path,
        module: ModulePath,
        for_tests: bool,
    ) -> Result<()> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let syntax = syn::parse_file(&text).with_context(|| format!("parse {}", path.display()))?;
        let file = self.files.len();
        let items = syntax.items.clone();
        let shown = path.strip_prefix(top).unwrap_or(path).display().to_string();
        let lines = text.lines().count();
        self.files.push(SourceFile { path: shown, module: module.clone(), for_tests, lines, syntax });
        let here = path.parent().unwrap_or(top);
        self.add_module(top, (here, children), file, module, &items, for_tests)
    }

    fn add_module(
        &mut self,
        top: &Path,
        (here, children): (&Path, &Path),
        file: usize,
        module: ModulePath,
        items: &[Item],
        for_tests: bool,
    ) -> Result<()> {
        let (mut names, mut globs) = (HashMap::new(), Vec::new());
        for item in items {
            declare(item, &mut names, &mut globs);
        }
        self.modules.insert(module.clone(), Module { file, names, globs });
        for item in items {
            let Item::Mod(child) = item else { continue };
            let name = child.ident.to_string();
            let for_tests = for_tests || is_for_tests(&child.attrs);
            let path: ModulePath = module.iter().cloned().chain([name.clone()]).collect();
            match &child.content {
                Some((_, items)) => {
                    self.add_module(top, (here, &children.join(&name)), file, path, items, for_tests)?;
                }
                None => {
                    let (at, children) = child_file(here, children, &name, &child.attrs);
                    self.add_file(top, &at, &children, path, for_tests)?;
                }
            }
        }
        Ok(())
    }

    /// What `path`, written in `module`, stands for.
    pub(super) fn resolve(&self, module: &[String], path: &[String]) -> Resolved {
        self.resolve_name(module, path, None, 0)
    }

    /// `without` is the alias that is being resolved: a `use` never names itself.
    fn resolve_name(&self, module: &[String], path: &[String], without: Option<&str>, depth: u8) -> Resolved {
        let Some(first) = path.first().filter(|_| depth < 32) else { return Resolved::Unknown };
        match first.as_str() {
            "crate" | "$crate" => self.walk(Vec::new(), &path[1..], depth),
            "self" => self.walk(module.to_vec(), &path[1..], depth),
            "super" => {
                let ups = path.iter().take_while(|segment| *segment == "super").count();
                let kept = module.len().saturating_sub(ups);
                self.walk(module[..kept].to_vec(), &path[ups..], depth)
            }
            "Self" => Resolved::Unknown,
            name if without == Some(name) => Resolved::External(path.to_vec()),
            _ => match self.look_up(module, path, depth) {
                Resolved::Unknown if path.len() > 1 => Resolved::External(path.to_vec()),
                resolved => resolved,
            },
        }
    }

    /// Goes down from `module` along `path`.
    fn walk(&self, module: ModulePath, path: &[String], depth: u8) -> Resolved {
        if path.is_empty() {
            return Resolved::Module;
        }
        match self.look_up(&module, path, depth) {
            // A macro made it: it belongs to the file of the module.
            Resolved::Unknown => {
                self.modules.get(&module).map_or(Resolved::Unknown, |m| Resolved::File(m.file))
            }
            resolved => resolved,
        }
    }

    /// Looks the first name up in `module` itself and in what it imports.
    fn look_up(&self, module: &[String], path: &[String], depth: u8) -> Resolved {
        let Some(found) = self.modules.get(module) else { return Resolved::Unknown };
        match found.names.get(&path[0]) {
            Some(Name::Item) => Resolved::File(found.file),
            Some(Name::Module) => {
                let child: ModulePath = module.iter().cloned().chain([path[0].clone()]).collect();
                self.walk(child, &path[1..], depth + 1)
            }
            Some(Name::Alias(target)) => {
                let whole: Vec<String> = target.iter().chain(&path[1..]).cloned().collect();
                self.resolve_name(module, &whole, Some(&path[0]), depth + 1)
            }
            None => self.look_up_in_globs(found, module, path, depth),
        }
    }

    fn look_up_in_globs(&self, found: &Module, module: &[String], path: &[String], depth: u8) -> Resolved {
        if depth > 16 {
            return Resolved::Unknown;
        }
        for glob in &found.globs {
            let Some(target) = self.module_of(module, glob) else { continue };
            let resolved = self.look_up(&target, path, depth + 1);
            if resolved != Resolved::Unknown {
                return resolved;
            }
        }
        Resolved::Unknown
    }

    /// The module that a path of modules names, without aliases.
    fn module_of(&self, module: &[String], path: &[String]) -> Option<ModulePath> {
        let mut at: ModulePath = match path.first()?.as_str() {
            "crate" => Vec::new(),
            "super" => module[..module.len().checked_sub(1)?].to_vec(),
            "self" => module.to_vec(),
            name => module.iter().cloned().chain([name.to_owned()]).collect(),
        };
        for segment in &path[1..] {
            match segment.as_str() {
                "super" => drop(at.pop()),
                name => at.push(name.to_owned()),
            }
        }
        self.modules.contains_key(&at).then_some(at)
    }
}

/// Where the file of a `mod name;` is, and where its own children are.
fn child_file(here: &Path, children: &Path, name: &str, attributes: &[Attribute]) -> (PathBuf, PathBuf) {
    if let Some(path) = path_attribute(attributes) {
        let at = here.join(path);
        let children = at.parent().unwrap_or(here).to_path_buf();
        return (at, children);
    }
    let folder = children.join(name);
    let inside = folder.join("mod.rs");
    let at = if inside.exists() { inside } else { children.join(format!("{name}.rs")) };
    (at, folder)
}

fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.path().is_ident("path"))?;
    let syn::Meta::NameValue(pair) = &attribute.meta else { return None };
    let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }) = &pair.value else { return None };
    Some(path.value())
}

/// `#[cfg(test)]` and the like, and `#[test]`.
pub(super) fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let text = attribute.meta.to_token_stream().to_string();
        let last = attribute.path().segments.last().map(|segment| segment.ident.to_string());
        let named = last.as_deref() == Some("test");
        named || (attribute.path().is_ident("cfg") && text.contains("test") && !text.contains("not (test"))
    })
}

fn declare(item: &Item, names: &mut HashMap<String, Name>, globs: &mut Vec<Vec<String>>) {
    let name = match item {
        Item::Fn(item) => &item.sig.ident,
        Item::Struct(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Union(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Const(item) => &item.ident,
        Item::Static(item) => &item.ident,
        Item::Mod(item) => {
            names.insert(item.ident.to_string(), Name::Module);
            return;
        }
        Item::Use(item) => {
            for import in imports(&item.tree) {
                match import.name {
                    Some(name) => drop(names.entry(name).or_insert(Name::Alias(import.path))),
                    None => globs.push(import.path),
                }
            }
            return;
        }
        _ => return,
    };
    names.insert(name.to_string(), Name::Item);
}

/// Every single import of a `use`.
pub(super) fn imports(tree: &UseTree) -> Vec<Import> {
    let mut found = Vec::new();
    collect(tree, &mut Vec::new(), &mut found);
    found
}

fn collect(tree: &UseTree, before: &mut Vec<String>, found: &mut Vec<Import>) {
    let import = |before: &[String], last: String, name: String| {
        let mut path = before.to_vec();
        // `use a::{self}` names `a`.
        let name = if last == "self" { path.last().cloned().unwrap_or(name) } else { name };
        if last != "self" {
            path.push(last);
        }
        Import { path, name: Some(name) }
    };
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            collect(&path.tree, before, found);
            before.pop();
        }
        UseTree::Name(name) => found.push(import(before, name.ident.to_string(), name.ident.to_string())),
        UseTree::Rename(rename) => {
            let mut made = import(before, rename.ident.to_string(), String::new());
            made.name = Some(rename.rename.to_string());
            found.push(made);
        }
        UseTree::Glob(_) => found.push(Import { path: before.clone(), name: None }),
        UseTree::Group(group) => group.items.iter().for_each(|tree| collect(tree, before, found)),
    }
}

/// Whether a `use` only passes names on.
pub(super) fn is_reexport(visibility: &Visibility) -> bool {
    !matches!(visibility, Visibility::Inherited)
}
