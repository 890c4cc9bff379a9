//! Query options of a write.

use skep_api::Status;

use crate::field_manager;
use crate::negotiate::Warnings;
use crate::query::Query;

/// Query options of a write.
pub(crate) struct Options {
    pub(crate) dry_run: bool,
    validation: FieldValidation,
    /// Server-side apply recorded the managed fields already.
    pub(crate) applied: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl Options {
    pub(crate) fn parse(query: &Query) -> Result<Options, Status> {
        let dry_run = match query.get("dryRun") {
            None => false,
            Some("All") => true,
            Some(other) => {
                return Err(Status::unsupported_option("dryRun", other, &["All"]));
            }
        };
        let validation = match query.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                let supported = ["Ignore", "Strict", "Warn"];
                return Err(Status::unsupported_option("fieldValidation", other, &supported));
            }
        };
        field_manager::check_name(query)?;
        Ok(Options { dry_run, validation, applied: false })
    }

    /// Whether unknown and duplicate fields go without a warning.
    pub(crate) fn ignores_unknown_fields(&self) -> bool {
        self.validation == FieldValidation::Ignore
    }

    /// The same options for server-side apply.
    pub(crate) fn of_apply(self) -> Options {
        Options { applied: true, ..self }
    }

    /// Turns unknown and duplicate fields into nothing, warnings or `refusal`, as `fieldValidation` says.
    pub(crate) fn report_fields(
        &self,
        found: Vec<String>,
        refusal: impl FnOnce(&str) -> Status,
    ) -> Result<Warnings, Status> {
        match self.validation {
            FieldValidation::Ignore => Ok(Vec::new()),
            FieldValidation::Strict if !found.is_empty() => Err(refusal(&found.join(", "))),
            FieldValidation::Warn | FieldValidation::Strict => Ok(found),
        }
    }
}
