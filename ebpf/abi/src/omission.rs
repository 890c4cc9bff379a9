//! Parts of the programs that a benchmark leaves out, to see what each of them costs.

/// Bits of the programs' global `OMITTED`. An agent omits nothing: each part is needed for what is right.
pub struct Omission;

impl Omission {
    /// Everything is done.
    pub const NOTHING: u32 = 0;
    /// `connect` does not store what the application addressed.
    pub const FRONTEND: u32 = 1 << 0;
    /// `connect` and `getpeername` leave the address as it is.
    pub const SOCKETS: u32 = 1 << 1;
    /// The last acknowledgement of a connection does not remove its entry.
    pub const CLOSE: u32 = 1 << 2;
    /// New flows make no room for themselves, and no flow is kept.
    pub const OPENERS: u32 = 1 << 3;
    /// No policy is looked at.
    pub const POLICY: u32 = 1 << 4;
    /// Flows have no entries: a pod's packet goes to the pod that it addresses.
    pub const ENTRIES: u32 = 1 << 5;
    /// A new flow is not looked up among services.
    pub const SERVICES: u32 = 1 << 6;
}
