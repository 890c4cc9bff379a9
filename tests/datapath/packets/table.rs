//! The tables' bench: rows of packet, verdict and packet out, counted; packets of every protocol.

use anyhow::{Context, Result, ensure};
use skep_abi::{DropReason, Proto};

use super::frame::{ACK, Body, Frame, SYN};
use super::lab::{Lab, PROTOS, Verdict, World};

pub(crate) const POD: &str = "tc_pod_egress";
pub(crate) const TO_POD: &str = "tc_pod_ingress";
pub(crate) const FROM_OUTSIDE: &str = "tc_node_ingress";
pub(crate) const TO_OUTSIDE: &str = "tc_node_egress";

/// A first packet of the protocol.
pub(crate) fn opening(proto: Proto) -> Body {
    match proto {
        Proto::TCP => Body::Tcp { flags: SYN, sequence: 1000, acknowledged: 0, window: 1024, data: vec![] },
        Proto::UDP => Body::Udp(b"question".to_vec()),
        _ => Body::Sctp(vec![1, 0, 0, 20, 0, 0, 0, 9, 0, 0, 4, 0, 0, 1, 0, 1, 0, 0, 0, 1]),
    }
}

/// A packet of an established flow.
pub(crate) fn data(proto: Proto) -> Body {
    match proto {
        Proto::TCP => {
            Body::Tcp { flags: ACK, sequence: 1001, acknowledged: 77, window: 9, data: b"odd".to_vec() }
        }
        Proto::UDP => Body::Udp(b"answer.".to_vec()),
        _ => Body::Sctp(vec![0, 3, 0, 20, 0, 0, 0, 9, 0, 0, 4, 0, 0, 1, 0, 1, 0, 0, 0, 1]),
    }
}

pub(crate) struct Table {
    pub(crate) lab: Lab,
    pub(crate) rows: usize,
}

impl Table {
    pub(crate) fn new(name: &str) -> Result<Table> {
        Ok(Table::with(Lab::new(name)?))
    }

    pub(crate) fn with(lab: Lab) -> Table {
        Table { lab, rows: 0 }
    }

    pub(crate) fn row(&mut self, program: &str, packet: &Frame, verdict: Verdict, out: &Frame) -> Result<()> {
        let (got, bytes) = self.run(program, packet)?;
        let ends = Frame::ends(&bytes);
        ensure!(got == verdict, "{program} {packet:?}: {got:?} instead of {verdict:?}; out {ends:?}");
        let same = bytes == out.bytes();
        ensure!(
            same,
            "{program} {packet:?}: out {bytes:02x?} {ends:?}\ninstead of {:02x?} {out:?}",
            out.bytes()
        );
        Ok(())
    }

    pub(crate) fn dropped(&mut self, program: &str, packet: &Frame, reason: DropReason) -> Result<()> {
        let (got, _) = self.run(program, packet)?;
        ensure!(got == Verdict::Drop(reason), "{program} {packet:?}: {got:?} instead of {reason:?}");
        Ok(())
    }

    pub(crate) fn run(&mut self, program: &str, packet: &Frame) -> Result<(Verdict, Vec<u8>)> {
        self.rows += 1;
        self.lab.run(program, &packet.bytes()).with_context(|| format!("{program} {packet:?}"))
    }
}

/// Every family and protocol, with a client port of its own.
pub(crate) fn each(mut work: impl FnMut(World, Proto, u16) -> Result<()>) -> Result<()> {
    for world in World::ALL {
        for (proto, number) in PROTOS.into_iter().zip(40_000..) {
            work(world, proto, number).with_context(|| format!("{world:?} {proto:?}"))?;
        }
    }
    Ok(())
}
