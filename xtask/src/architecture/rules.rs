//! The rules by name, and how to mend what breaks each of them.

/// A rule of the architecture check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Rule {
    /// A package imports another that the table does not allow.
    Import,
    /// A PURE package or folder names something that does I/O, reads a clock or starts tasks.
    Pure,
    /// Files of a package import each other in a circle larger than recorded.
    Circle,
    /// A dependency that no code names.
    Dependency,
    /// A file over 600 lines.
    FileLength,
    /// A function over 60 lines.
    FunctionLength,
    /// `Result<_, String>` where an error type is due.
    StringError,
    /// `unwrap` or `expect` in production code.
    Panic,
    /// A document names a file that does not exist.
    Document,
    /// The table itself does not fit the tree.
    Table,
}

impl Rule {
    pub const ALL: [Rule; 10] = [
        Rule::Import,
        Rule::Pure,
        Rule::Circle,
        Rule::Dependency,
        Rule::FileLength,
        Rule::FunctionLength,
        Rule::StringError,
        Rule::Panic,
        Rule::Document,
        Rule::Table,
    ];

    /// The name that findings carry and `--explain` takes.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Import => "import",
            Rule::Pure => "pure",
            Rule::Circle => "circle",
            Rule::Dependency => "dependency",
            Rule::FileLength => "file-length",
            Rule::FunctionLength => "function-length",
            Rule::StringError => "string-error",
            Rule::Panic => "panic",
            Rule::Document => "document",
            Rule::Table => "table",
        }
    }

    /// How to mend it.
    pub fn explain(self) -> &'static str {
        match self {
            Rule::Import => {
                "Packages form layers: `packages.*.imports` in xtask/architecture.toml lists what each may import.\n\
                 Move the shared value down into a package that both may import, or pass it in as an argument.\n\
                 A new arrow is a change of the architecture: change the table and docs/architecture.md in one commit\n\
                 that says why."
            }
            Rule::Pure => {
                "PURE code takes values and gives values: no tokio, aya, files, sockets, environment, processes,\n\
                 threads, clocks or random numbers. Let the caller read them and pass the result in: `now: Timestamp`,\n\
                 `seed: u64`, the text of the file. What must do I/O belongs to the package that performs the decision."
            }
            Rule::Circle => {
                "Two files that import each other cannot be understood or tested apart. `cargo xtask lint --circles\n\
                 PACKAGE` prints the circles with their arrows. Usual cuts: move the value that both use into a file\n\
                 below them; let a function take the field that it needs and not the whole; move the dispatcher above\n\
                 what it dispatches to. When a circle got smaller, lower `largest_circle` in xtask/architecture.toml:\n\
                 the numbers only go down."
            }
            Rule::Dependency => {
                "Remove the line from Cargo.toml. A dependency that is there for a feature or a build script only is\n\
                 listed under `unnamed_dependencies` in xtask/architecture.toml, with the reason."
            }
            Rule::FileLength => {
                "A file over 600 lines has a second noun: give it a file of its own. Tables of test data belong into\n\
                 testdata/ files."
            }
            Rule::FunctionLength => {
                "A function over 60 lines has steps: name them. A table in a function becomes a const. An exception\n\
                 needs a row under `long_functions` in xtask/architecture.toml, with the reason."
            }
            Rule::StringError => {
                "Return a thiserror enum that carries the object, the operation and the source. `Result<_, String>` is\n\
                 right only where the text is the API's own answer; `string_errors` in xtask/architecture.toml counts\n\
                 these for each file, and the counts only go down."
            }
            Rule::Panic => {
                "Return an error, use `let ... else`, or restructure so that the value cannot be missing. Input never\n\
                 ends a process. An invariant that the types cannot express needs a row under `panics` in\n\
                 xtask/architecture.toml, with the reason."
            }
            Rule::Document => {
                "A path or a link in a document leads nowhere. Name the file that has the noun now; when a file was renamed,\n\
                 `rg OLD_NAME docs` finds the other places."
            }
            Rule::Table => {
                "xtask/architecture.toml has a row for every package, and no row for what is not there any more.\n\
                 Numbers that are higher than what the tree needs are lowered: they only go down."
            }
        }
    }
}
