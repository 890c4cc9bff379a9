//! `skep ingress report`: what Skep does with the Ingresses of a cluster or of files. `skep ingress convert`: objects of Gateway API that
//! serve the same.
//!
//! In: Ingresses, and Services for the numbers of their ports, from a cluster or as YAML. Out: a line for each annotation of ingress-nginx,
//! and an exit status of 1 if one is refused; manifests, what they lack on the error output, and an exit status of 1 if something is lost.

use std::fmt::Debug;
use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::Ingress;
use kube::Api;
use kube::api::ListParams;
use serde::de::DeserializeOwned;
use serde_json::Value;
use skep_gateway::convert::{Converted, Options, convert};
use skep_gateway::ingress::annotations::{Support, support};

use crate::kubeconfig::client_from_file;

const PAGE: u32 = 500;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Say for each annotation of ingress-nginx whether it is served
    Report(Input),
    /// Write objects of Gateway API that serve the same
    Convert(Convert),
}

#[derive(clap::Args)]
pub(crate) struct Convert {
    #[command(flatten)]
    input: Input,
    /// Of the Gateways
    #[arg(long, default_value = "skep")]
    gateway_class: String,
    /// Convert also Ingresses with an annotation that keeps requests out and has no counterpart: their routes are open
    #[arg(long)]
    allow_open: bool,
}

#[derive(clap::Args)]
pub(crate) struct Input {
    /// A kubeconfig whose user may list Ingresses, and Services to convert
    #[arg(long, env = "KUBECONFIG", default_value = "/var/lib/skep/server/admin.kubeconfig")]
    kubeconfig: PathBuf,
    /// Files of manifests instead of a cluster; `-` is the input
    #[arg(short, long = "filename", conflicts_with = "kubeconfig")]
    files: Vec<PathBuf>,
}

pub(crate) async fn run(command: Command) -> Result<()> {
    match command {
        Command::Report(input) => {
            let report = report(&input.read(false).await?.ingresses);
            print!("{}", report.text);
            if report.refused > 0 {
                bail!("{} annotations are refused or unknown", report.refused);
            }
            Ok(())
        }
        Command::Convert(Convert { input, gateway_class, allow_open }) => {
            let Objects { ingresses, services } = input.read(true).await?;
            write(&convert(&ingresses, &services, &Options { gateway_class, allow_open }))
        }
    }
}

/// Manifests, and what they lack.
fn write(converted: &Converted) -> Result<()> {
    for object in &converted.objects {
        println!("---\n{}", serde_saphyr::to_string(object).context("write an object")?.trim_end());
    }
    for note in &converted.notes {
        eprintln!("{note}");
    }
    match converted.notes.iter().filter(|note| note.is_loss).count() {
        0 => Ok(()),
        lost => bail!("{lost} parts of Ingresses are lost; each has a line above"),
    }
}

#[derive(Default)]
struct Objects {
    ingresses: Vec<Ingress>,
    services: Vec<Service>,
}

impl Input {
    async fn read(&self, with_services: bool) -> Result<Objects> {
        if !self.files.is_empty() {
            return of_files(&self.files);
        }
        let (_, client) = client_from_file(&self.kubeconfig).await?;
        let ingresses = list(Api::all(client.clone())).await.context("list Ingresses")?;
        let services = match with_services {
            true => list(Api::all(client)).await.context("list Services")?,
            false => Vec::new(),
        };
        Ok(Objects { ingresses, services })
    }
}

struct Found {
    text: String,
    refused: usize,
}

fn report(ingresses: &[Ingress]) -> Found {
    let (mut text, mut counts) = (String::new(), [0; 4]);
    for ingress in ingresses {
        let meta = &ingress.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or("default");
        let name = meta.name.as_deref().unwrap_or_default();
        for annotation in meta.annotations.iter().flatten().map(|(annotation, _)| annotation) {
            let Some((support, effect)) = support(annotation) else { continue };
            let (at, word) = match support {
                Support::Served => (0, "served"),
                Support::Implied => (1, "changes nothing"),
                Support::Refused => (2, "REFUSED"),
                Support::Unknown => (3, "UNKNOWN"),
            };
            counts[at] += 1;
            text.push_str(&format!("{namespace}/{name}\t{annotation}\t{word}\t{effect}\n"));
        }
    }
    let [served, implied, refused, unknown] = counts;
    text.push_str(&format!(
        "{} Ingresses; annotations: {served} served, {implied} change nothing, {refused} refused, {unknown} unknown\n",
        ingresses.len()
    ));
    Found { text, refused: refused + unknown }
}

async fn list<K: Clone + DeserializeOwned + Debug>(api: Api<K>) -> kube::Result<Vec<K>> {
    let (mut all, mut parameters) = (Vec::new(), ListParams::default().limit(PAGE));
    loop {
        let page = api.list(&parameters).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(all),
        }
    }
}

fn of_files(files: &[PathBuf]) -> Result<Objects> {
    let mut all = Objects::default();
    for file in files {
        let mut text = String::new();
        match file.as_os_str() == "-" {
            true => std::io::stdin().read_to_string(&mut text).map(drop),
            false => std::fs::read_to_string(file).map(|read| text = read),
        }
        .with_context(|| format!("read {}", file.display()))?;
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&text).with_context(|| format!("parse {}", file.display()))?;
        for document in documents {
            take(document, &mut all).with_context(|| format!("parse {}", file.display()))?;
        }
    }
    Ok(all)
}

/// An Ingress or a Service, or those of a list.
fn take(mut object: Value, all: &mut Objects) -> Result<()> {
    if object["kind"] == "Ingress" {
        all.ingresses.push(serde_json::from_value(object).context("an Ingress")?);
    } else if object["kind"] == "Service" {
        all.services.push(serde_json::from_value(object).context("a Service")?);
    } else if let Some(Value::Array(items)) = object.get_mut("items").map(Value::take) {
        for item in items {
            take(item, all)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_annotation_has_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("all.yaml");
        let text = "
kind: Service
metadata: {name: web}
---
kind: List
items:
- kind: Ingress
  apiVersion: networking.k8s.io/v1
  metadata:
    name: web
    namespace: shop
    annotations:
      nginx.ingress.kubernetes.io/rewrite-target: /
      nginx.ingress.kubernetes.io/server-snippet: x
      nginx.ingress.kubernetes.io/proxy-buffering: \"on\"
      nginx.ingress.kubernetes.io/misspelt: \"1\"
      example.com/other: \"1\"
";
        std::fs::write(&file, text).unwrap();
        let found = report(&of_files(&[file]).unwrap().ingresses);
        assert_eq!(found.refused, 2);
        let words: Vec<_> = found.text.lines().filter_map(|line| line.split('\t').nth(2)).collect();
        assert_eq!(words, ["UNKNOWN", "changes nothing", "served", "REFUSED"]);
        assert!(
            found
                .text
                .ends_with("1 Ingresses; annotations: 1 served, 1 change nothing, 1 refused, 1 unknown\n")
        );
    }
}
