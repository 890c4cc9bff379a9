//! `skep ingress report`: what Skep does with the Ingresses of a cluster or of files.
//!
//! In: Ingresses, from a cluster or as YAML. Out: a line for each annotation of ingress-nginx, and an exit status of 1 if one is refused.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::networking::v1::Ingress;
use kube::Api;
use kube::api::ListParams;
use serde_json::Value;
use skep_gateway::ingress::annotations::{Support, support};

use crate::kubeconfig::client_from_file;

const PAGE: u32 = 500;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Say for each annotation of ingress-nginx whether it is served
    Report(Report),
}

#[derive(clap::Args)]
pub(crate) struct Report {
    /// A kubeconfig whose user may list Ingresses
    #[arg(long, env = "KUBECONFIG", default_value = "/var/lib/skep/server/admin.kubeconfig")]
    kubeconfig: PathBuf,
    /// Files of manifests instead of a cluster; `-` is the input
    #[arg(short, long = "filename", conflicts_with = "kubeconfig")]
    files: Vec<PathBuf>,
}

pub(crate) async fn run(command: Command) -> Result<()> {
    let Command::Report(Report { kubeconfig, files }) = command;
    let ingresses = if files.is_empty() { of_cluster(&kubeconfig).await? } else { of_files(&files)? };
    let report = report(&ingresses);
    print!("{}", report.text);
    if report.refused > 0 {
        bail!("{} annotations are refused or unknown", report.refused);
    }
    Ok(())
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

async fn of_cluster(kubeconfig: &Path) -> Result<Vec<Ingress>> {
    let (_, client) = client_from_file(kubeconfig).await?;
    let (api, mut all): (Api<Ingress>, _) = (Api::all(client), Vec::new());
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&parameters).await.context("list Ingresses")?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(all),
        }
    }
}

fn of_files(files: &[PathBuf]) -> Result<Vec<Ingress>> {
    let mut all = Vec::new();
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

/// An Ingress, or those of a list.
fn take(mut object: Value, all: &mut Vec<Ingress>) -> Result<()> {
    if object["kind"] == "Ingress" {
        all.push(serde_json::from_value(object).context("an Ingress")?);
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
        let found = report(&of_files(&[file]).unwrap());
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
