//! How much happens, and for how long.

use std::time::Duration;

use xtask::binaries::Profile;

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub profile: Profile,
    pub duration: Duration,
    /// Half of them to the cluster address from a pod, half to the nodes' ports from outside.
    pub connections: usize,
    pub changes_per_second: u32,
    /// To the cluster's DNS, from a pod.
    pub questions_per_second: u32,
    /// Connections of a pod to the outside that are silent for `silence` between two words.
    pub silent: usize,
    pub silence: Duration,
    /// Between two ends of an agent, of either node in turn, by turns asked for and by force.
    pub agent_life: Duration,
    /// Whether packets between the nodes' pods go in VXLAN.
    pub overlay: bool,
}
