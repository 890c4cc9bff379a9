//! The paths that the code of a file names, outside its tests.

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItem, Item, ItemMod, ItemUse, Macro, Path};

use super::tree::{ModulePath, SourceFile, imports, is_for_tests, is_reexport};

/// A path as written, and the module and line that it is written in.
#[derive(Debug)]
pub(super) struct UsedPath {
    pub(super) module: ModulePath,
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
}

/// The paths by which a file imports others. Re-exports do not count: they only pass a name on.
pub(super) fn of(file: &SourceFile) -> Vec<UsedPath> {
    collect(file, file.for_tests, false)
}

/// Every path that a file names outside its tests.
pub(super) fn all(file: &SourceFile) -> Vec<UsedPath> {
    collect(file, false, true)
}

/// Every path that a file names, tests included.
pub(super) fn with_tests(file: &SourceFile) -> Vec<UsedPath> {
    collect(file, true, true)
}

fn collect(file: &SourceFile, with_tests: bool, with_reexports: bool) -> Vec<UsedPath> {
    let mut collector =
        Collector { module: file.module.clone(), found: Vec::new(), with_tests, with_reexports };
    collector.visit_file(&file.syntax);
    collector.found
}

struct Collector {
    module: ModulePath,
    found: Vec<UsedPath>,
    with_tests: bool,
    with_reexports: bool,
}

impl Collector {
    fn add(&mut self, segments: Vec<String>, line: usize) {
        self.found.push(UsedPath { module: self.module.clone(), segments, line });
    }

    fn skips(&self, attributes: &[Attribute]) -> bool {
        !self.with_tests && is_for_tests(attributes)
    }

    /// Macros take tokens: `a::b` in them is a path.
    fn tokens(&mut self, tokens: TokenStream) {
        let (mut path, mut colons) = (Vec::<String>::new(), 0);
        let mut line = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.flush(&mut path, line);
                    }
                    line = ident.span().start().line;
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.flush(&mut path, line);
                    colons = 0;
                    self.tokens(group.stream());
                }
                _ => {
                    self.flush(&mut path, line);
                    colons = 0;
                }
            }
        }
        self.flush(&mut path, line);
    }

    fn flush(&mut self, path: &mut Vec<String>, line: usize) {
        let path = std::mem::take(path);
        if !path.is_empty() {
            self.add(path, line);
        }
    }
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item(&mut self, item: &'ast Item) {
        if !self.skips(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let attributes = match item {
            ImplItem::Fn(function) => function.attrs.as_slice(),
            _ => &[],
        };
        if !self.skips(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        self.module.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !self.with_reexports && is_reexport(&item.vis) {
            return;
        }
        for import in imports(&item.tree) {
            self.add(import.path, item.span().start().line);
        }
    }

    fn visit_path(&mut self, path: &'ast Path) {
        let segments = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.add(segments, path.span().start().line);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        if call.path.segments.len() > 1 {
            self.visit_path(&call.path);
        } else if let Some(name) = call.path.get_ident() {
            self.add(vec![name.to_string()], name.span().start().line);
        }
        self.tokens(call.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        self.visit_path(attribute.path());
        if let syn::Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone());
        }
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
