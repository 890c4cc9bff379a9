//! The programs' own log: lines for what was asked for, and no code of it otherwise.

use std::io::{Read as _, Seek as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skep_abi::Proto;
use skep_datapath::ProgramLogLevel;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::frame::Frame;
use super::lab::{Lab, World, at};
use super::table::{POD, opening};
use crate::node::runtime;

/// Longer than the reader needs for some lines.
const READING_TIME: Duration = Duration::from_millis(300);

impl Lab {
    fn set_program_log(&mut self, level: ProgramLogLevel) -> Result<()> {
        self.node.program_log = level;
        self.node.datapath = None;
        self.node.open()
    }

    /// Instructions of the pod's hook that the verifier met.
    fn instructions(&self) -> Result<u32> {
        let all = self.node.datapath.as_ref().context("no datapath")?.verified()?;
        let found = all.into_iter().find(|verified| verified.program == POD).context("no such program")?;
        found.instructions.context("not loaded")
    }

    /// The lines that came since the datapath was opened.
    fn lines(&mut self) -> Result<String> {
        let lines = Arc::new(tempfile::tempfile()?);
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(lines.clone()).finish();
        let datapath = self.node.datapath.as_mut().context("no datapath")?;
        let _shown = subscriber.set_default();
        runtime().block_on(async {
            if let Some(log) = datapath.program_log()? {
                let _ = tokio::time::timeout(READING_TIME, log.run()).await;
            }
            anyhow::Ok(())
        })?;
        let (mut file, mut text) = (lines.as_ref(), String::new());
        file.rewind()?;
        file.read_to_string(&mut text)?;
        Ok(text)
    }
}

#[test]
fn the_programs_log_what_was_asked_for_and_have_no_code_of_the_rest() -> Result<()> {
    let mut lab = Lab::new("pkpl")?;
    let [v4, v6] = World::ALL;
    let denied = Frame::new(at(v4.a(), 41_000), at(v4.closed(), 80), opening(Proto::TCP));
    let opened = Frame::new(at(v6.a(), 41_001), at(v6.b(), 81), opening(Proto::UDP));
    let mut before = lab.instructions()?;
    for (level, dropped, opens, passes) in [
        (ProgramLogLevel::Off, false, false, false),
        (ProgramLogLevel::Info, true, false, false),
        (ProgramLogLevel::Debug, true, true, false),
        (ProgramLogLevel::Trace, true, true, true),
    ] {
        lab.set_program_log(level)?;
        let now = lab.instructions()?;
        ensure!(
            (now > before) == (level != ProgramLogLevel::Off),
            "{level:?}: {before} instructions, then {now}"
        );
        before = now;
        for packet in [&denied, &opened] {
            lab.forget_flows()?;
            lab.run(POD, &packet.bytes())?;
        }
        let lines = lab.lines()?;
        let texts: Vec<&str> = lines.lines().collect();
        // A line that says what was decided, and the one after it with the packet.
        let has = |decision: &str, packet: &str| {
            texts.windows(2).any(|two| two[0].contains(decision) && two[1].contains(packet))
        };
        let tcp = "protocol 6, ::ffff:10.77.0.2 port 41000 to ::ffff:10.77.0.4 port 80";
        let udp = "protocol 17, fd00:4d::2 port 41001 to fd00:4d::3 port 81";
        for (line, wanted) in [
            (has("dropped: hook 0, reason 4", tcp), dropped),
            (has("opened: hook 0, rule 0, service 0", udp), opens),
            (has("action 7: hook 0", udp), passes),
        ] {
            ensure!(line == wanted, "{level:?}:\n{lines}");
        }
    }
    Ok(())
}
