//! Query options of a write.

use http::Method;
use skep_api::field::Path;
use skep_api::{Errors, Status};

use crate::admission::Notes;
use crate::body::media_type;
use crate::call::Call;
use crate::field_manager;
use crate::yaml_duplicates::unmarshal_errors;

/// Query options of a write.
pub(crate) struct Options {
    pub(crate) dry_run: bool,
    validation: FieldValidation,
    /// The managed fields are recorded already, by server-side apply or a Scale.
    pub(crate) applied: bool,
}

/// The kinds of writes that have options.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    Create,
    Update,
    Patch,
    Apply,
}

impl Write {
    /// The kind of the options, for messages.
    fn options(self) -> &'static str {
        match self {
            Write::Create => "CreateOptions",
            Write::Update => "UpdateOptions",
            Write::Patch | Write::Apply => "PatchOptions",
        }
    }

    /// The write of a request to an object or a part of it.
    pub(crate) fn of(call: &Call) -> Write {
        match call.method {
            Method::POST => Write::Create,
            Method::PATCH if media_type(&call.headers) == APPLY_MEDIA_TYPE => Write::Apply,
            Method::PATCH => Write::Patch,
            _ => Write::Update,
        }
    }
}

/// The media type of a server-side apply.
pub(crate) const APPLY_MEDIA_TYPE: &str = "application/apply-patch+yaml";

#[derive(Clone, Copy, PartialEq, Eq)]
enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl Options {
    /// Err: 422 that names every invalid option.
    pub(crate) fn parse(call: &Call) -> Result<Options, Status> {
        let (query, write) = (&call.query, Write::of(call));
        let mut errors = Errors::default();
        match write {
            Write::Apply if query.get("fieldManager").is_none() => {
                errors.required(&Path::new("fieldManager"), "is required for apply patch");
            }
            Write::Patch if query.get("force").is_some() => {
                errors.forbidden(&Path::new("force"), "may not be specified for non-apply patch");
            }
            _ => {}
        }
        field_manager::check_name(query, &mut errors);
        let dry_run: Vec<&str> = query.all("dryRun").filter(|value| !value.is_empty()).collect();
        if dry_run.iter().any(|value| *value != "All") {
            errors.not_supported(&Path::new("dryRun"), &dry_run.clone().into(), &["All"]);
        }
        let validation = match query.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                let supported = ["", "Ignore", "Strict", "Warn"];
                errors.not_supported(&Path::new("fieldValidation"), &other.into(), &supported);
                FieldValidation::Ignore
            }
        };
        if !errors.is_empty() {
            return Err(Status::invalid_as("meta.k8s.io", write.options(), "", &errors));
        }
        Ok(Options { dry_run: !dry_run.is_empty(), validation, applied: write == Write::Apply })
    }

    /// Whether unknown and duplicate fields go without a warning.
    pub(crate) fn ignores_unknown_fields(&self) -> bool {
        self.validation == FieldValidation::Ignore
    }

    /// Errors of a YAML parser: one text if they refuse the body, a text each if they are warnings (upstream's
    /// parseYAMLWarnings). `by`: who converts it.
    pub(crate) fn as_yaml_errors(&self, by: &str, lines: Vec<String>) -> Vec<String> {
        match self.validation {
            FieldValidation::Strict if !lines.is_empty() => {
                vec![format!("{by}{}", unmarshal_errors(&lines))]
            }
            _ => lines,
        }
    }

    /// The same options for a write whose managed fields are recorded already.
    pub(crate) fn recorded(self) -> Options {
        Options { applied: true, ..self }
    }

    /// Turns unknown and duplicate fields into nothing, warnings or `refusal`, as `fieldValidation` says.
    pub(crate) fn report_fields(
        &self,
        notes: &Notes,
        found: Vec<String>,
        refusal: impl FnOnce(&str) -> Status,
    ) -> Result<(), Status> {
        match self.validation {
            FieldValidation::Strict if !found.is_empty() => return Err(refusal(&found.join(", "))),
            FieldValidation::Warn => found.into_iter().for_each(|warning| notes.warn(warning)),
            FieldValidation::Ignore | FieldValidation::Strict => {}
        }
        Ok(())
    }
}
