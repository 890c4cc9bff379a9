//! Errors without a type, and calls that panic.

use std::collections::BTreeMap;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{
    Expr, ExprMethodCall, GenericArgument, ImplItem, ImplItemFn, Item, ItemFn, PathArguments, Type, TypePath,
};

use super::finding::Finding;
use super::package::Package;
use super::rules::Rule;
use super::table::Table;
use super::tree::{SourceFile, is_for_tests};

/// Calls of `unwrap` and `expect` in code that runs for users.
pub(super) fn panics(table: &Table, package: &Package) -> Vec<Finding> {
    if !table.packages.get(&package.folder).is_some_and(|row| row.production) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for file in production_files(package) {
        let found = Visitor::run(file).panics.into_iter();
        findings.extend(found.map(|(function, method, line)| {
            Finding::new(Rule::Panic, file.path.clone(), line, format!("{method} in fn {function}"))
                .about(function)
        }));
    }
    findings
}

/// `Result<_, String>` by file.
pub(super) fn string_errors(packages: &[Package]) -> BTreeMap<String, Vec<Finding>> {
    let mut counted: BTreeMap<String, Vec<Finding>> = BTreeMap::new();
    for file in packages.iter().flat_map(production_files) {
        if counted.contains_key(&file.path) {
            continue;
        }
        let lines = Visitor::run(file).string_errors;
        let found = lines.into_iter().map(|line| {
            Finding::new(
                Rule::StringError,
                file.path.clone(),
                line,
                "Result<_, String>: an error type is due",
            )
        });
        let found: Vec<Finding> = found.collect();
        if !found.is_empty() {
            counted.insert(file.path.clone(), found);
        }
    }
    counted
}

fn production_files(package: &Package) -> impl Iterator<Item = &SourceFile> {
    package.production.iter().flat_map(|tree| &tree.files).filter(|file| !file.for_tests)
}

#[derive(Default)]
struct Visitor {
    /// The function that is being visited.
    function: String,
    /// Function, method, line.
    panics: Vec<(String, String, usize)>,
    string_errors: Vec<usize>,
}

impl Visitor {
    fn run(file: &SourceFile) -> Visitor {
        let mut visitor = Visitor::default();
        visitor.visit_file(&file.syntax);
        visitor
    }

    fn within(&mut self, function: String, visit: impl FnOnce(&mut Visitor)) {
        let outer = std::mem::replace(&mut self.function, function);
        visit(self);
        self.function = outer;
    }
}

impl<'ast> Visit<'ast> for Visitor {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Fn(item) => item.attrs.as_slice(),
            Item::Impl(item) => &item.attrs,
            Item::Mod(item) => &item.attrs,
            _ => &[],
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        if !matches!(item, ImplItem::Fn(function) if is_for_tests(&function.attrs)) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        self.within(function.sig.ident.to_string(), |visitor| visit::visit_item_fn(visitor, function));
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        self.within(function.sig.ident.to_string(), |visitor| visit::visit_impl_item_fn(visitor, function));
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        let method = call.method.to_string();
        let unwraps = method == "unwrap" && call.args.is_empty();
        // A parser's own `expect(Token::Comma)` is none.
        let expects = method == "expect" && matches!(call.args.first(), Some(Expr::Lit(_)));
        if unwraps || expects {
            self.panics.push((self.function.clone(), method, call.method.span().start().line));
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_type_path(&mut self, path: &'ast TypePath) {
        if is_string_result(path) {
            self.string_errors.push(path.span().start().line);
        }
        visit::visit_type_path(self, path);
    }
}

fn is_string_result(path: &TypePath) -> bool {
    let Some(last) = path.path.segments.last().filter(|last| last.ident == "Result") else { return false };
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return false };
    let Some(GenericArgument::Type(Type::Path(error))) = arguments.args.iter().nth(1) else { return false };
    error.path.is_ident("String")
}
