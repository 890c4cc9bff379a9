//! Records of the zone itself.

use hickory_proto::rr::rdata::{NS, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::address::record;
use super::found::{Asked, Lookup};
use crate::settings::Settings;

/// Version of the Kubernetes DNS specification.
const SPECIFICATION: &str = "1.1.0";
const VERSION_TTL: u32 = 28_800;
/// Times of the zone's SOA in seconds. No other server copies the zone, so they say nothing that anyone uses.
const REFRESH: i32 = 7200;
const RETRY: i32 = 1800;
const EXPIRE: i32 = 86_400;
const SERIAL: u32 = 1;

pub(super) fn lookup(asked: &Asked) -> Lookup {
    match asked.kind {
        RecordType::SOA | RecordType::ANY => {
            Lookup::records(vec![soa(asked.settings, asked.name.clone(), asked.ttl())])
        }
        RecordType::NS => {
            let server = server_name(asked.settings);
            let addrs = asked.index.dns_addrs().iter();
            let additionals = addrs.map(|ip| record(&server, *ip, asked.ttl())).collect();
            Lookup::Records { answers: vec![asked.record(RData::NS(NS(server)))], additionals }
        }
        _ => Lookup::Empty,
    }
}

/// `dns-version`: the version of the specification.
pub(super) fn version(asked: &Asked) -> Lookup {
    match asked.kind {
        RecordType::TXT | RecordType::ANY => {
            let text = RData::TXT(TXT::new(vec![SPECIFICATION.to_owned()]));
            Lookup::records(vec![Record::from_rdata(asked.name.clone(), VERSION_TTL, text)])
        }
        _ => Lookup::Empty,
    }
}

/// The SOA of a zone of ours. Its minimum is how long a negative answer may be kept (RFC 2308).
pub(crate) fn soa(settings: &Settings, zone: Name, ttl: u32) -> Record {
    let mailbox = under("hostmaster", settings.domain());
    let soa =
        SOA::new(server_name(settings), mailbox, SERIAL, REFRESH, RETRY, EXPIRE, settings.negative_ttl());
    Record::from_rdata(zone, ttl, RData::SOA(soa))
}

fn server_name(settings: &Settings) -> Name {
    under("ns.dns", settings.domain())
}

/// The domain is short enough for such names: see [`Settings::new`].
fn under(label: &str, domain: &Name) -> Name {
    let below = Name::from_ascii(label).and_then(|name| name.append_domain(domain));
    below.unwrap_or_else(|_| domain.clone())
}
