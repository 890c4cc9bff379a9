//! A Service's columns: its addresses and ports.

use serde_json::Value;

use crate::table::cell::{NONE, labels_text, or_none, text_cell};
use crate::table::column::{AGE, Column, NAME};
use crate::value::items;

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Type", |object, _| text_cell(&object["spec"]["type"])),
    Column::text("Cluster-IP", |object, _| {
        or_none(object["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned())
    }),
    Column::text("External-IP", |object, _| external_addresses(object).into()),
    Column::text("Port(s)", |object, _| or_none(ports(&object["spec"]))),
    AGE,
    Column::wide("Selector", |object, _| or_none(labels_text(&object["spec"]["selector"]))),
];

fn ports(spec: &Value) -> String {
    let ports = items(spec, "ports").map(|port| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        match port["nodePort"].as_i64() {
            Some(node) if node != 0 => format!("{}:{node}/{protocol}", port["port"]),
            _ => format!("{}/{protocol}", port["port"]),
        }
    });
    ports.collect::<Vec<_>>().join(",")
}

fn external_addresses(object: &Value) -> String {
    let spec = &object["spec"];
    let mut all: Vec<&str> = items(&object["status"]["loadBalancer"], "ingress")
        .filter_map(|ingress| ingress["ip"].as_str().or(ingress["hostname"].as_str()))
        .collect();
    all.extend(items(spec, "externalIPs").filter_map(Value::as_str));
    match spec["type"].as_str() {
        Some("ExternalName") => spec["externalName"].as_str().unwrap_or_default().to_owned(),
        Some("LoadBalancer") if all.is_empty() => "<pending>".to_owned(),
        _ if all.is_empty() => NONE.to_owned(),
        _ => all.join(","),
    }
}
