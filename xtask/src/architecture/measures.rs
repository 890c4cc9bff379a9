//! Lengths of files and functions.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Block, ImplItemFn, ItemFn, TraitItemFn};

use super::finding::Finding;
use super::package::Package;
use super::rules::Rule;

const MAX_FILE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 60;

pub(super) fn check(package: &Package) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in package.trees().flat_map(|tree| &tree.files) {
        if file.lines > MAX_FILE_LINES {
            let problem = format!("{} lines; at most {MAX_FILE_LINES}", file.lines);
            findings.push(Finding::new(Rule::FileLength, file.path.clone(), 0, problem));
        }
        let mut functions = Functions::default();
        functions.visit_file(&file.syntax);
        for long in functions.long {
            let problem = format!("fn {} has {} lines; at most {MAX_FUNCTION_LINES}", long.name, long.lines);
            findings.push(
                Finding::new(Rule::FunctionLength, file.path.clone(), long.line, problem).about(long.name),
            );
        }
    }
    findings.sort();
    // A file that two targets of a package share is parsed for each.
    findings.dedup();
    findings
}

#[derive(Default)]
struct Functions {
    long: Vec<Long>,
}

struct Long {
    name: String,
    line: usize,
    lines: usize,
}

impl Functions {
    fn measure(&mut self, signature: &syn::Signature, block: &Block) {
        let line = signature.span().start().line;
        let lines = block.span().end().line + 1 - line;
        if lines > MAX_FUNCTION_LINES {
            self.long.push(Long { name: signature.ident.to_string(), line, lines });
        }
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast TraitItemFn) {
        if let Some(block) = &function.default {
            self.measure(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}
