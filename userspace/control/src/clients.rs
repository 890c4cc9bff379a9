//! The API clients of the parts: each controller acts as a ServiceAccount of its own, so that a fault of one has no more
//! rights than its work needs.

use std::sync::Arc;

use kube::Client;

/// The user who lists and watches what all parts share, and holds the lease.
const MANAGER: &str = "system:kube-controller-manager";
/// The user who binds pods.
const SCHEDULER: &str = "system:kube-scheduler";
/// Prefix of the users of the controllers' ServiceAccounts.
const CONTROLLERS: &str = "system:serviceaccount:kube-system:";

/// Makes clients that act as a user.
#[derive(Clone)]
pub struct Clients(Arc<dyn Fn(&str) -> Client + Send + Sync>);

impl Clients {
    /// `of` makes the client of a user: `system:kube-controller-manager`, `system:kube-scheduler`, or a ServiceAccount of
    /// the namespace kube-system.
    pub fn new(of: impl Fn(&str) -> Client + Send + Sync + 'static) -> Clients {
        Clients(Arc::new(of))
    }

    /// What all parts share.
    pub fn manager(&self) -> Client {
        (self.0)(MANAGER)
    }

    pub fn scheduler(&self) -> Client {
        (self.0)(SCHEDULER)
    }

    /// The client of a controller's ServiceAccount in the namespace kube-system.
    pub fn controller(&self, account: &str) -> Client {
        (self.0)(&format!("{CONTROLLERS}{account}"))
    }
}

/// All parts act as this client does.
impl From<Client> for Clients {
    fn from(client: Client) -> Clients {
        Clients::new(move |_| client.clone())
    }
}
