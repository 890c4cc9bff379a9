//! What the encoders of upstream's Go types do with a zero: read off the struct tags of their source.
//!
//! In: the folder that holds the packages of `k8s.io` (`staging/src/k8s.io` of Kubernetes). Out: for a field, whether its zero
//! is left out or written. Only names, tags and whether a field is a pointer are read.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// Embedded structs within each other.
const MAX_EMBEDDED: usize = 8;

pub(super) struct GoTypes {
    root: PathBuf,
    packages: RefCell<HashMap<String, Package>>,
}

#[derive(Default)]
struct Package {
    structs: HashMap<String, Vec<GoField>>,
    /// Types that are declared as another named type.
    aliases: HashMap<String, String>,
    /// The folders of imported packages, by their name in the source.
    imports: HashMap<String, String>,
}

#[derive(Clone)]
struct GoField {
    /// Empty for an embedded struct.
    json_name: String,
    type_name: String,
    omits_empty: bool,
    omits_zero: bool,
}

/// What an encoder does with a zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zero {
    /// A pointer: only null is left out.
    Kept,
    Dropped,
    /// Written, as null if the type has no other zero.
    Written,
    /// A pointer without omitempty: null is written.
    WrittenNull,
}

impl Zero {
    /// The value of the facts' attribute; none for the usual one.
    pub(super) fn letter(self) -> Option<&'static str> {
        match self {
            Zero::Kept => None,
            Zero::Dropped => Some("d"),
            Zero::Written => Some("w"),
            Zero::WrittenNull => Some("n"),
        }
    }
}

impl GoTypes {
    pub(super) fn new(root: PathBuf) -> GoTypes {
        GoTypes { root, packages: RefCell::default() }
    }

    /// `owner` as the facts name it, `api.core.v1.Container`. None if the source does not have the field.
    pub(super) fn zero(&self, owner: &str, field: &str, is_go_struct: bool) -> Result<Option<Zero>> {
        let Some((package, name)) = owner.rsplit_once('.') else { return Ok(None) };
        let found = self.field(&package.replace('.', "/"), name, field, MAX_EMBEDDED)?;
        Ok(found.map(|found| {
            match (found.type_name.starts_with('*'), found.omits_empty || found.omits_zero) {
                (true, true) => Zero::Kept,
                (true, false) => Zero::WrittenNull,
                // omitempty does not leave out a struct.
                (false, true) if is_go_struct && !found.omits_zero => Zero::Written,
                (false, true) => Zero::Dropped,
                (false, false) => Zero::Written,
            }
        }))
    }

    fn field(&self, package: &str, owner: &str, field: &str, depth: usize) -> Result<Option<GoField>> {
        self.load(package)?;
        let (found, embedded) = {
            let packages = self.packages.borrow();
            let Some(here) = packages.get(package) else { return Ok(None) };
            let fields = here.structs.get(owner).map_or(&[][..], Vec::as_slice);
            let found = fields.iter().find(|one| one.json_name == field).cloned();
            let embedded = fields.iter().filter(|one| one.json_name.is_empty()).map(|one| &one.type_name);
            let names = embedded.chain(here.aliases.get(owner));
            let resolved: Vec<_> = names.map(|name| here.resolve(package, name)).collect();
            (found, resolved)
        };
        if found.is_some() || depth == 0 {
            return Ok(found);
        }
        for (package, name) in embedded.iter().filter(|(package, _)| !package.is_empty()) {
            if let Some(found) = self.field(package, name, field, depth - 1)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn load(&self, package: &str) -> Result<()> {
        if self.packages.borrow().contains_key(package) {
            return Ok(());
        }
        let mut parsed = Package::default();
        let folder = self.root.join(package);
        let entries = std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_source = name.ends_with(".go") && !name.ends_with("_test.go") && !name.starts_with("zz_");
            if is_source && name != "generated.pb.go" {
                let text = std::fs::read_to_string(&path);
                parsed.read(&text.with_context(|| format!("read {}", path.display()))?);
            }
        }
        self.packages.borrow_mut().insert(package.to_owned(), parsed);
        Ok(())
    }
}

impl Package {
    /// The folder of a type's package, and the type's name in it.
    fn resolve(&self, package: &str, name: &str) -> (String, String) {
        match name.split_once('.') {
            Some((alias, name)) => (self.imports.get(alias).cloned().unwrap_or_default(), name.to_owned()),
            None => (package.to_owned(), name.to_owned()),
        }
    }

    fn read(&mut self, text: &str) {
        let mut current: Option<String> = None;
        for line in without_comments(text).lines().map(str::trim) {
            if let Some(path) = line.split('"').nth(1).filter(|path| path.starts_with("k8s.io/")) {
                let alias = line.trim_start_matches("import ").split('"').next().unwrap_or_default().trim();
                let last = path.rsplit('/').next().unwrap_or_default();
                let alias = if alias.is_empty() { last } else { alias };
                let folder = path.trim_start_matches("k8s.io/").to_owned();
                self.imports.entry(alias.to_owned()).or_insert(folder);
            } else if let Some(rest) = line.strip_prefix("type ") {
                let (name, kind) = rest.split_once(' ').unwrap_or_default();
                current = (kind.trim() == "struct {").then(|| name.to_owned());
                if current.is_none() {
                    self.aliases.insert(name.to_owned(), kind.trim_start_matches('=').trim().to_owned());
                }
            } else if line == "}" {
                current = None;
            } else if let (Some(name), Some(field)) = (&current, GoField::parse(line)) {
                self.structs.entry(name.clone()).or_default().push(field);
            }
        }
    }
}

impl GoField {
    /// `Name *Type `json:"name,omitempty"``, or an embedded `Type `json:",inline"``.
    fn parse(line: &str) -> Option<GoField> {
        let (declared, tag) = line.split_once('`')?;
        let options = tag.split_once("json:\"")?.1.split('"').next()?;
        let mut options = options.split(',');
        let json_name = options.next()?.to_owned();
        let options: Vec<&str> = options.collect();
        let mut words = declared.split_whitespace();
        let first = words.next()?;
        // A type such as `map[string]string` has no space; one with a space begins with its first word.
        let type_name = words.next().unwrap_or(first).to_owned();
        let is_embedded = json_name.is_empty() && options.contains(&"inline");
        (is_embedded || !json_name.is_empty()).then(|| GoField {
            json_name,
            type_name,
            omits_empty: options.contains(&"omitempty"),
            omits_zero: options.contains(&"omitzero"),
        })
    }
}

/// The text without `//` and `/* */`; strings in declarations of types hold neither.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('/') {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        rest = if after.starts_with("//") {
            after.find('\n').map_or("", |end| &after[end..])
        } else if after.starts_with("/*") {
            after.find("*/").map_or("", |end| &after[end + 2..])
        } else {
            out.push('/');
            &after[1..]
        };
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"
package v1
import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)
/* type Hidden struct {
} */
type A struct {
	metav1.TypeMeta `json:",inline"`
	// Plain `json:"commented"`
	Plain string `json:"plain" protobuf:"bytes,1"`
	Empty []string `json:"empty,omitempty"`
	Pointer *int32 `json:"pointer,omitempty"`
	Null *int32 `json:"null"`
	When metav1.Time `json:"when,omitempty,omitzero"`
	B `json:",inline"`
}
type B struct {
	Inner C `json:"inner,omitempty"`
}
type Name string
type Same = A
"#;

    #[test]
    fn tags_decide_about_zeros() {
        let mut package = Package::default();
        package.read(SOURCE);
        let types = GoTypes::new(PathBuf::from("none"));
        let meta = ("apimachinery/pkg/apis/meta/v1".to_owned(), Package::default());
        types.packages.borrow_mut().extend([("x/v1".to_owned(), package), meta]);
        for (field, is_struct, wanted) in [
            ("plain", false, Some(Zero::Written)),
            ("empty", false, Some(Zero::Dropped)),
            ("pointer", false, Some(Zero::Kept)),
            ("null", false, Some(Zero::WrittenNull)),
            ("when", true, Some(Zero::Dropped)),
            ("inner", true, Some(Zero::Written)),
            ("commented", false, None),
        ] {
            assert_eq!(types.zero("x.v1.A", field, is_struct).unwrap(), wanted, "{field}");
            assert_eq!(types.zero("x.v1.Same", field, is_struct).unwrap(), wanted, "{field}");
        }
    }
}
