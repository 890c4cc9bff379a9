//! The version of the ABI, and the maps that outlive the agent.

/// Version of everything in this crate. Maps are pinned below a folder of this number.
pub const ABI_VERSION: u32 = 11;

/// The pinned maps by name, each with the first ABI version whose layout and meaning are the present ones. In version 6
/// the upper half of a flow's tick, always zero before, became [`crate::Flow::extra`]. The TCP flags of flows of other
/// protocols, always zero before, became [`crate::logic::signal`]s; a flow with zeros has not shown its state yet. In
/// version 7 there are more reasons for drops, and the entry of a fragmented datagram has its protocol; the word before a
/// pod's rates, always zero before, became [`crate::Pod::isolated`], and verdict maps may have entries of
/// [`crate::CLASS_ANY`]; flows have [`crate::Flow::KEPT`], and those without it that an earlier version put expire by time alone. In version 8 there is one more reason for drops. A
/// frontend's flags [`crate::ServiceValue::NODE`], `BLOCKS` and `SAME_PORT`, and the levels and LOOPBACK of its scope, were always zero before
/// they had a meaning. In version 9 drops are counted by hook too, flow events have their hook, and the
/// number in a verdict, which only the flow log reads, is that of a rule; earlier it was that of a policy. In version 10 `CONNECTED` is an
/// array; earlier it was the storage of sockets. The upper half of the configuration's word of observations, always zero before, became
/// [`crate::NodeConfig::flags`], and there is one more reason for drops. In version 11 `BACKEND_PAGES` has what `BACKENDS` had, three
/// backends in an entry, and `OTHER_PORTS` what entries of port 0 and protocol 0 in `SERVICES` said; the datapath makes both from the
/// older maps.
pub const MAPS: [(&str, u32); 27] = [
    ("AFFINITY", 5),
    ("BACKEND_PAGES", 11),
    ("BUCKETS", 5),
    ("CLASSES_EVEN", 5),
    ("CLASSES_ODD", 5),
    ("CLUSTER", 5),
    ("CONFIG", 5),
    ("CONNECTED", 10),
    ("CONNTRACK", 5),
    ("DISPLACED", 10),
    ("DROPS", 10),
    ("EVICTIONS", 7),
    ("EXEMPTIONS", 8),
    ("FLOWS", 9),
    ("FRAGMENTS", 7),
    ("HELD", 7),
    ("MAGLEV", 5),
    ("NODES", 7),
    ("NODE_ADDRS", 10),
    ("OTHER_PORTS", 11),
    ("PODS", 5),
    ("RANGES", 5),
    ("REPORTS", 9),
    ("SERVICES", 5),
    ("SOCKETS", 5),
    ("UPLINKS", 10),
    ("VERDICTS", 5),
];
