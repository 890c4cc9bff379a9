//! Connections outlive changes and agents: the short form of `cargo xtask soak`.

use std::time::Duration;

use anyhow::{Result, ensure};
use skep_tests::churn::{Options, run};
use xtask::binaries::Profile;

#[test]
fn no_connection_breaks_while_services_change_and_agents_die() -> Result<()> {
    let options = Options {
        profile: Profile::Dev,
        duration: Duration::from_secs(20),
        connections: 200,
        changes_per_second: 40,
        questions_per_second: 500,
        silent: 20,
        silence: Duration::from_secs(4),
        agent_life: Duration::from_secs(4),
        overlay: false,
    };
    let report = run(&options)?;
    println!("{report:?}");
    ensure!(report.broken.is_empty(), "{} broke: {:#?}", report.broken.len(), report.broken);
    ensure!(report.restarts > 0 && report.kills > 0, "no agent ended: {report:?}");
    let nothing = report.after_silence == 0 || report.refused == 0 || report.wrong_nodes == 0;
    ensure!(!nothing, "a part of the churn did nothing: {report:?}");
    Ok(())
}
