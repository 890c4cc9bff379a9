//! PURE. A container's environment: services, envFrom, env with its references, and `$(NAME)` expansion.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, EnvVarSource, Pod, Secret, Service};

use crate::downward::{self, PodFacts};

/// The objects that environments and volumes refer to, by name within the pod's namespace.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    pub secrets: BTreeMap<String, Arc<Secret>>,
}

/// Shown to the user as CreateContainerConfigError.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey { key: String, kind: &'static str, namespace: String, name: String },
    #[error(transparent)]
    Field(#[from] downward::FieldError),
}

/// The environment in order: the container's own variables, then those of services.
pub fn resolve(
    container: &Container,
    facts: &PodFacts<'_>,
    objects: &Objects,
    services: &[(String, String)],
) -> Result<Vec<(String, String)>, EnvError> {
    let mut result: Vec<(String, String)> = Vec::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            match objects.config_maps.get(&reference.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        set(&mut result, format!("{prefix}{key}"), value.clone());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::NoConfigMap(reference.name.clone())),
            }
        }
        if let Some(reference) = &source.secret_ref {
            match objects.secrets.get(&reference.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        let text = String::from_utf8_lossy(&value.0).into_owned();
                        set(&mut result, format!("{prefix}{key}"), text);
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::NoSecret(reference.name.clone())),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value(variable, container, facts, objects, services, &result)? {
            set(&mut result, variable.name.clone(), value);
        }
    }
    let own: Vec<String> = result.iter().map(|(name, _)| name.clone()).collect();
    result.extend(services.iter().filter(|(name, _)| !own.contains(name)).cloned());
    Ok(result)
}

fn set(into: &mut Vec<(String, String)>, name: String, value: String) {
    match into.iter_mut().find(|(n, _)| *n == name) {
        Some(entry) => entry.1 = value,
        None => into.push((name, value)),
    }
}

fn value(
    variable: &EnvVar,
    container: &Container,
    facts: &PodFacts<'_>,
    objects: &Objects,
    services: &[(String, String)],
    before: &[(String, String)],
) -> Result<Option<String>, EnvError> {
    let Some(source) = &variable.value_from else {
        // The container's own variables override those of services.
        let known: Vec<_> = services.iter().chain(before).cloned().collect();
        return Ok(Some(expand(variable.value.as_deref().unwrap_or_default(), &known)));
    };
    from_source(source, container, facts, objects)
}

fn from_source(
    source: &EnvVarSource,
    container: &Container,
    facts: &PodFacts<'_>,
    objects: &Objects,
) -> Result<Option<String>, EnvError> {
    if let Some(field) = &source.field_ref {
        return Ok(Some(downward::field(facts, &field.field_path)?));
    }
    if let Some(resource) = &source.resource_field_ref {
        return Ok(Some(downward::resource(facts, resource, container)?));
    }
    let namespace = || facts.pod.metadata.namespace.clone().unwrap_or_default();
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        return match objects.config_maps.get(&reference.name) {
            None if optional => Ok(None),
            None => Err(EnvError::NoConfigMap(reference.name.clone())),
            Some(map) => match map.data.as_ref().and_then(|d| d.get(&reference.key)) {
                Some(value) => Ok(Some(value.clone())),
                None if optional => Ok(None),
                None => Err(EnvError::NoKey {
                    key: reference.key.clone(),
                    kind: "ConfigMap",
                    namespace: namespace(),
                    name: reference.name.clone(),
                }),
            },
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional == Some(true);
        return match objects.secrets.get(&reference.name) {
            None if optional => Ok(None),
            None => Err(EnvError::NoSecret(reference.name.clone())),
            Some(secret) => match secret.data.as_ref().and_then(|d| d.get(&reference.key)) {
                Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
                None if optional => Ok(None),
                None => Err(EnvError::NoKey {
                    key: reference.key.clone(),
                    kind: "Secret",
                    namespace: namespace(),
                    name: reference.name.clone(),
                }),
            },
        };
    }
    Ok(None)
}

/// Replaces `$(NAME)` by its value; unknown names stay as written, and `$$` is one dollar.
pub fn expand(text: &str, known: &[(String, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, tail) = rest.split_at(at);
        out.push_str(before);
        let after = tail.get(1..).unwrap_or_default();
        if let Some(next) = after.strip_prefix('$') {
            out.push('$');
            rest = next;
        } else if let Some((name, next)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match known.iter().rev().find(|(n, _)| n == name) {
                Some((_, value)) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = next;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// The variables of the services in the pod's namespace, and always of `kubernetes`.
pub fn of_services<'a>(pod: &Pod, services: impl Iterator<Item = &'a Service>) -> Vec<(String, String)> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let (Some(name), Some(service_namespace)) = (&service.metadata.name, &service.metadata.namespace)
        else {
            continue;
        };
        let master = service_namespace == "default" && name == "kubernetes";
        if service_namespace == namespace && (links || master) {
            chosen.insert(name, service);
        } else if master {
            chosen.entry(name).or_insert(service);
        }
    }
    chosen.into_iter().flat_map(|(name, service)| of_service(name, service)).collect()
}

fn of_service(name: &str, service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let ip = match spec.cluster_ip.as_deref() {
        None | Some("" | "None") => return Vec::new(),
        Some(ip) => ip,
    };
    let upper = |text: &str| text.to_uppercase().replace('-', "_");
    let name = upper(name);
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return Vec::new() };
    let mut out = vec![
        (format!("{name}_SERVICE_HOST"), ip.to_owned()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in ports {
        if let Some(label) = port.name.as_deref().filter(|n| !n.is_empty()) {
            out.push((format!("{name}_SERVICE_PORT_{}", upper(label)), port.port.to_string()));
        }
    }
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_lowercase();
        let url = format!("{lower}://{host}:{}", port.port);
        let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
        if index == 0 {
            out.push((format!("{name}_PORT"), url.clone()));
        }
        out.push((prefix.clone(), url));
        out.push((format!("{prefix}_PROTO"), lower));
        out.push((format!("{prefix}_PORT"), port.port.to_string()));
        out.push((format!("{prefix}_ADDR"), ip.to_owned()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion_leaves_unknown_names_and_escapes() {
        let known = [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "$(A)".to_owned())];
        let cases = [
            ("$(A)", "1"),
            ("x$(A)y$(B)", "x1y$(A)"),
            ("$$(A)", "$(A)"),
            ("$(C)", "$(C)"),
            ("$(A", "$(A"),
            ("$", "$"),
            ("a$b", "a$b"),
        ];
        for (text, expected) in cases {
            assert_eq!(expand(text, &known), expected, "{text}");
        }
    }

    #[test]
    fn a_later_variable_sees_an_earlier_one() {
        let pod = Pod::default();
        let facts = PodFacts::new(&pod, &[], &[], Default::default());
        let var = |name: &str, value: &str| EnvVar {
            name: name.into(),
            value: Some(value.into()),
            ..Default::default()
        };
        let container =
            Container { env: Some(vec![var("A", "1"), var("B", "$(A)$(S)")]), ..Default::default() };
        let services = [("S".to_owned(), "s".to_owned()), ("A".to_owned(), "lost".to_owned())];
        let env = resolve(&container, &facts, &Objects::default(), &services).expect("resolves");
        let text = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        assert_eq!(env, [text("A", "1"), text("B", "1s"), text("S", "s")]);
    }
}
