//! Which endpoints may answer whom, and whose address they see: the rules of Kubernetes v1.36 as a pure function.
//!
//! One place differs from kube-proxy, for the better: under the Cluster policy it hides every outside client behind the
//! node; here a client is hidden only where the answer would else not come back by the node that translated.

/// By which address the service is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalIp,
}

impl Kind {
    pub(super) const ALL: [Kind; 4] = [Kind::ClusterIp, Kind::NodePort, Kind::LoadBalancer, Kind::ExternalIp];
}

/// internalTrafficPolicy of cluster addresses, externalTrafficPolicy of all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Cluster,
    Local,
}

/// A pod, or a process in the network of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Endpoint {
    pub(super) node: usize,
    pub(super) host: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    PodOnEach,
    PodOfFirst,
    HostOfFirst,
    NoEndpoint,
}

impl Layout {
    pub(super) const ALL: [Layout; 4] =
        [Layout::PodOnEach, Layout::PodOfFirst, Layout::HostOfFirst, Layout::NoEndpoint];

    pub(super) fn endpoints(self) -> Vec<Endpoint> {
        let pod = |node| Endpoint { node, host: false };
        match self {
            Layout::PodOnEach => vec![pod(0), pod(1)],
            Layout::PodOfFirst => vec![pod(0)],
            Layout::HostOfFirst => vec![Endpoint { node: 0, host: true }],
            Layout::NoEndpoint => Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    Pod(usize),
    Host(usize),
    Outside,
}

impl Client {
    pub(super) fn node(self) -> Option<usize> {
        match self {
            Client::Pod(node) | Client::Host(node) => Some(node),
            Client::Outside => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(super) kind: Kind,
    pub(super) policy: Policy,
    pub(super) layout: Layout,
    pub(super) client: Client,
    /// The node that the packet meets first: whose address it is sent to, or by whose link it comes.
    pub(super) entry: usize,
}

/// Whose address an endpoint sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Client,
    Node(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// Each of them, now and then.
    Answered(Vec<(Endpoint, Seen)>),
    /// At once, by a TCP reset, an ICMP error or the system call.
    Refused,
    Dropped,
}

pub(super) fn expected(cell: &Cell) -> Expected {
    // The client's own node answers for it, but for the node ports of another one.
    let inside = cell.client.node() == Some(cell.entry);
    // From inside, external addresses are short-cut to all endpoints: as if traffic went up to a balancer and came back
    // in. A cluster address may be routed here from outside too.
    let policy = match (cell.kind, inside) {
        (Kind::ClusterIp, _) | (_, false) => cell.policy,
        (_, true) => Policy::Cluster,
    };
    let all = cell.layout.endpoints();
    if all.is_empty() {
        return Expected::Refused;
    }
    let near = |endpoint: &Endpoint| endpoint.node == cell.entry;
    let admitted = all.into_iter().filter(|endpoint| policy == Policy::Cluster || near(endpoint));
    let seen = |endpoint: &Endpoint| match inside || near(endpoint) {
        true => Seen::Client,
        false => Seen::Node(cell.entry),
    };
    let admitted: Vec<_> = admitted.map(|endpoint| (endpoint, seen(&endpoint))).collect();
    match admitted.is_empty() {
        // Somebody elsewhere could serve: the client is to try again, and to land there.
        true => Expected::Dropped,
        false => Expected::Answered(admitted),
    }
}
