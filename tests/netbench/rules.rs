//! Rules as kube-proxy v1.36 lays them, for the peers in the benchmark: verdict maps for nftables, chains for iptables.
//!
//! In: services. Out: the text that `nft -f` or `iptables-restore` loads.

use std::fmt::Write as _;

use crate::cluster::{CLUSTER_CIDR, NODE_ADDR, Port, Service, services};

pub(crate) fn nftables(count: u32) -> String {
    let (mut chains, mut addresses, mut frontends, mut node_ports) =
        (String::new(), Vec::new(), Vec::new(), Vec::new());
    for service in services(count) {
        addresses.push(service.ip.to_string());
        for port in &service.ports {
            let proto = port.proto.to_lowercase();
            let name = format!("default/{}/{proto}/{}", service.name, port.name);
            nftables_chains(&mut chains, &name, &proto, port, &service);
            frontends.push(format!("{} . {proto} . {} : goto service-{name}", service.ip, port.port));
            if port.node_port != 0 {
                node_ports.push(format!("{proto} . {} : goto external-{name}", port.node_port));
            }
        }
    }
    let (addresses, frontends, node_ports) =
        (addresses.join(", "), frontends.join(", "), node_ports.join(", "));
    format!(
        "table ip kube-proxy {{
set cluster-ips {{ type ipv4_addr; elements = {{ {addresses} }}; }}
set nodeport-ips {{ type ipv4_addr; elements = {{ {NODE_ADDR} }}; }}
set hairpin-connections {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; }}
map firewall-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
map no-endpoint-nodeports {{ type inet_proto . inet_service : verdict; }}
map no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {frontends} }}; }}
map service-nodeports {{ type inet_proto . inet_service : verdict; elements = {{ {node_ports} }}; }}
{chains}{NFTABLES_BASE}chain services {{
 ip daddr @cluster-ips ip saddr != {CLUSTER_CIDR} meta mark set mark or 0x4000
 ip daddr . meta l4proto . th dport vmap @service-ips
 ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
}}
}}
"
    )
}

/// What stands there whatever the services are.
const NFTABLES_BASE: &str = "chain cluster-ips-check {
 ip daddr @cluster-ips reject
 ip daddr { 10.96.0.0/12 } drop
}
chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }
chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
chain nodeport-endpoints-check {
 ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
}
chain masquerading {
 meta mark and 0x4000 != 0 meta mark set mark xor 0x4000 masquerade fully-random
 ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random
}
chain filter-prerouting-pre-dnat { type filter hook prerouting priority -110; ct state new jump firewall-check; }
chain filter-output-pre-dnat { type filter hook output priority -110; ct state new jump firewall-check; }
chain filter-forward { type filter hook forward priority 0;
 ct state new jump service-endpoints-check
 ct state new jump cluster-ips-check
}
chain filter-input { type filter hook input priority 0;
 ct state new jump nodeport-endpoints-check
 ct state new jump service-endpoints-check
}
chain filter-output { type filter hook output priority 0;
 ct state new jump service-endpoints-check
 ct state new jump cluster-ips-check
}
chain nat-output { type nat hook output priority -100; jump services; }
chain nat-postrouting { type nat hook postrouting priority 100; jump masquerading; }
chain nat-prerouting { type nat hook prerouting priority -100; jump services; }
";

fn nftables_chains(out: &mut String, name: &str, proto: &str, port: &Port, service: &Service) {
    let places = service.endpoints.iter().enumerate();
    let places: Vec<String> =
        places.map(|(number, addr)| format!("{number} : {addr} . {}", port.target)).collect();
    let _ = writeln!(
        out,
        "chain service-{name} {{ meta l4proto {proto} dnat ip addr . port to numgen random mod {} map {{ {} }}; }}",
        places.len(),
        places.join(", ")
    );
    if port.node_port != 0 {
        let _ =
            writeln!(out, "chain external-{name} {{ meta mark set mark or 0x4000; goto service-{name}; }}");
    }
}

pub(crate) fn iptables(count: u32) -> String {
    let (mut declared, mut frontends, mut node_ports, mut chains) =
        (String::new(), String::new(), String::new(), String::new());
    let mut number = 0;
    for service in services(count) {
        for port in &service.ports {
            number += 1;
            let id = format!("{number:016X}");
            let (proto, name) =
                (port.proto.to_lowercase(), format!("default/{}:{}", service.name, port.name));
            let to = format!("-m {proto} -p {proto} -d {} --dport {}", service.ip, port.port);
            let _ = writeln!(declared, ":KUBE-SVC-{id} - [0:0]");
            let _ = writeln!(
                frontends,
                "-A KUBE-SERVICES -m comment --comment \"{name} cluster IP\" {to} -j KUBE-SVC-{id}"
            );
            let _ = writeln!(
                chains,
                "-A KUBE-SVC-{id} -m comment --comment \"{name} cluster IP\" {to} ! -s {CLUSTER_CIDR} -j KUBE-MARK-MASQ"
            );
            iptables_endpoints(&mut declared, &mut chains, &id, &name, port, &service);
            if port.node_port != 0 {
                let _ = writeln!(declared, ":KUBE-EXT-{id} - [0:0]");
                let _ = writeln!(
                    node_ports,
                    "-A KUBE-NODEPORTS -m comment --comment {name} -m {proto} -p {proto} --dport {} -j KUBE-EXT-{id}",
                    port.node_port
                );
                let _ = writeln!(chains, "-A KUBE-EXT-{id} -j KUBE-MARK-MASQ");
                let _ = writeln!(chains, "-A KUBE-EXT-{id} -j KUBE-SVC-{id}");
            }
        }
    }
    format!(
        "{IPTABLES_FILTER}{IPTABLES_NAT}{declared}{IPTABLES_NAT_RULES}{node_ports}{frontends}{IPTABLES_LAST}{chains}COMMIT\n"
    )
}

fn iptables_endpoints(
    declared: &mut String,
    chains: &mut String,
    id: &str,
    name: &str,
    port: &Port,
    service: &Service,
) {
    let (proto, count) = (port.proto.to_lowercase(), service.endpoints.len());
    for (place, addr) in service.endpoints.iter().enumerate() {
        // Chain names have at most 28 characters.
        let endpoint = format!("KUBE-SEP-{place:X}{}", &id[1..]);
        let _ = writeln!(declared, ":{endpoint} - [0:0]");
        let chance = match count - place {
            1 => String::new(),
            left => format!("-m statistic --mode random --probability {:.10} ", 1.0 / left as f64),
        };
        let comment = format!("-m comment --comment \"{name} -> {addr}:{}\"", port.target);
        let _ = writeln!(chains, "-A KUBE-SVC-{id} {comment} {chance}-j {endpoint}");
        let _ = writeln!(chains, "-A {endpoint} -m comment --comment {name} -s {addr} -j KUBE-MARK-MASQ");
        let _ = writeln!(
            chains,
            "-A {endpoint} -m comment --comment {name} -m {proto} -p {proto} -j DNAT --to-destination {addr}:{}",
            port.target
        );
    }
}

const IPTABLES_FILTER: &str = "*filter
:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
";

const IPTABLES_NAT: &str = "*nat
:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
";

const IPTABLES_NAT_RULES: &str = "-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
";

const IPTABLES_LAST: &str = "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
";
