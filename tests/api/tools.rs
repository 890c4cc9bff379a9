//! The kubectls that are tried: the machine's own, and those of PyPI by their exact versions.

use std::path::PathBuf;

use xtask::deps;

/// The minor version of the machine's kubectl whose answers the stories know.
const OWN: &str = "1.32";

/// The minor version of the API that the server speaks.
const SERVER: &str = "1.36";

/// Set it to one minor version to try no other.
const ONLY: &str = "SKEP_KUBECTL";

#[derive(Clone)]
pub(crate) struct Kubectl {
    pub(crate) version: String,
    pub(crate) program: PathBuf,
}

pub(crate) fn all() -> Vec<Kubectl> {
    let own = deps::program("kubectl").filter(|program| deps::kubectl_minor(program).as_deref() == Some(OWN));
    let own = own.map(|program| Kubectl { version: OWN.to_owned(), program });
    let pinned = deps::KUBECTLS.map(|exact| Kubectl {
        version: exact.rsplit_once('.').expect("a version of three parts").0.to_owned(),
        program: deps::pinned_kubectl(exact).expect("kubectl of PyPI"),
    });
    let only = std::env::var(ONLY).ok();
    let all = own.into_iter().chain(pinned);
    all.filter(|kubectl| only.as_ref().is_none_or(|only| *only == kubectl.version)).collect()
}

/// The kubectl of the server's own version alone.
pub(crate) fn of_server() -> Vec<Kubectl> {
    all().into_iter().filter(|kubectl| kubectl.version == SERVER).collect()
}
