use serde_json::{Value, json};

use super::*;

fn ingress(namespace: &str, name: &str, annotations: &[(&str, &str)], spec: Value) -> Ingress {
    let annotations = annotations.iter();
    let annotations =
        annotations.map(|(name, value)| (format!("nginx.ingress.kubernetes.io/{name}"), json!(value)));
    let meta = json!({"namespace": namespace, "name": name, "annotations": annotations.collect::<serde_json::Map<_, _>>()});
    serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
}

fn rule(host: &str, paths: &[(&str, &str, &str)]) -> Value {
    let paths = paths.iter().map(|(path, kind, service)| {
        json!({"path": path, "pathType": kind, "backend": {"service": {"name": service, "port": {"number": 80}}}})
    });
    json!({"host": host, "http": {"paths": paths.collect::<Vec<_>>()}})
}

/// An Ingress of the class `nginx` for `a.com`.
fn simple(annotations: &[(&str, &str)], path: &str) -> Ingress {
    let rules = [rule("a.com", &[(path, "Prefix", "web")])];
    ingress("shop", "web", annotations, json!({"ingressClassName": "nginx", "rules": rules}))
}

fn converted(ingresses: &[Ingress]) -> Converted {
    let options = Options { gateway_class: "skep".into(), allow_open: false };
    let found = convert(ingresses, &[], &options);
    // What is made has the form that the server takes.
    for object in &found.objects {
        valid(object);
    }
    found
}

/// Names and enumerations as the schemas of the definitions have them.
fn valid(object: &Value) {
    let definitions = crate::gateway_api::definitions();
    let kind = &object["kind"];
    let definition =
        definitions.iter().find(|definition| definition["spec"]["names"]["kind"] == *kind).unwrap();
    let versions = definition["spec"]["versions"].as_array().unwrap();
    let version = versions.iter().find(|version| {
        object["apiVersion"] == format!("gateway.networking.k8s.io/{}", version["name"].as_str().unwrap())
    });
    check(&object["spec"], &version.unwrap()["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec");
}

fn check(value: &Value, schema: &Value, at: &str) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let known = &schema["properties"][name];
                assert!(known.is_object(), "{at}.{name} is no field");
                check(field, known, &format!("{at}.{name}"));
            }
        }
        Value::Array(items) => items.iter().for_each(|item| check(item, &schema["items"], at)),
        value => {
            if let Some(allowed) = schema["enum"].as_array() {
                assert!(allowed.contains(value), "{at}: {value} is none of {allowed:?}");
            }
        }
    }
}

fn of<'c>(found: &'c Converted, kind: &str, name: &str) -> &'c Value {
    let is = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    &found.objects.iter().find(is).unwrap_or_else(|| panic!("no {kind} {name} in {:#?}", found.objects))["spec"]
}

fn texts(found: &Converted) -> Vec<String> {
    found.notes.iter().map(ToString::to_string).collect()
}

#[test]
fn hosts_paths_and_tls_become_listeners_and_routes() {
    let rules = [
        rule("a.com", &[("/", "Prefix", "web"), ("/exact", "Exact", "other")]),
        rule("*.b.com", &[("/x", "ImplementationSpecific", "web")]),
    ];
    let spec = json!({
        "ingressClassName": "nginx", "rules": rules, "tls": [{"hosts": ["a.com"], "secretName": "cert"}],
        "defaultBackend": {"service": {"name": "rest", "port": {"number": 81}}},
    });
    let found = converted(&[ingress("shop", "web", &[], spec)]);
    let gateway = of(&found, "Gateway", "nginx");
    assert_eq!(gateway["gatewayClassName"], "skep");
    let listeners: Vec<_> = gateway["listeners"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(listeners, ["http", "https-a-com"]);
    let route = of(&found, "HTTPRoute", "web-a-com");
    assert_eq!(route["parentRefs"], json!([{"name": "nginx", "sectionName": "https-a-com"}]));
    assert_eq!(route["hostnames"], json!(["a.com"]));
    assert_eq!(route["rules"][1]["matches"][0]["path"], json!({"type": "Exact", "value": "/exact"}));
    assert_eq!(route["rules"][0]["backendRefs"], json!([{"name": "web", "port": 80}]));
    // The class of ingress-nginx redirects what has TLS.
    let redirect = of(&found, "HTTPRoute", "web-a-com-to-tls");
    assert_eq!(redirect["parentRefs"], json!([{"name": "nginx", "sectionName": "http"}]));
    assert_eq!(redirect["rules"][0]["filters"][0]["requestRedirect"]["scheme"], "https");
    let wildcard = of(&found, "HTTPRoute", "web-wildcard-b-com");
    assert_eq!(wildcard["parentRefs"], json!([{"name": "nginx", "sectionName": "http"}]));
    let default = of(&found, "HTTPRoute", "web-default");
    assert_eq!(
        (&default["rules"][0]["backendRefs"][0]["name"], &default["hostnames"]),
        (&json!("rest"), &Value::Null)
    );
    assert_eq!(
        texts(&found),
        ["shop/web: note: *.b.com stands for any number of labels in a route, for one in an Ingress"]
    );
}

#[test]
fn more_hosts_than_a_gateway_takes_are_in_listener_sets() {
    let hosts: Vec<String> = (0..70).map(|at| format!("h{at:02}.com")).collect();
    let rules: Vec<Value> = hosts.iter().map(|host| rule(host, &[("/", "Prefix", "web")])).collect();
    let spec =
        json!({"ingressClassName": "nginx", "rules": rules, "tls": [{"hosts": hosts, "secretName": "cert"}]});
    let found = converted(&[ingress("shop", "web", &[], spec)]);
    assert_eq!(of(&found, "Gateway", "nginx")["listeners"].as_array().unwrap().len(), 64);
    assert_eq!(of(&found, "Gateway", "nginx")["allowedListeners"]["namespaces"]["from"], "Same");
    let set = of(&found, "ListenerSet", "nginx-1");
    assert_eq!((set["listeners"].as_array().unwrap().len(), &set["parentRef"]["name"]), (7, &json!("nginx")));
    assert_eq!(of(&found, "HTTPRoute", "web-h69-com")["parentRefs"][0]["kind"], "ListenerSet");
}

#[test]
fn annotations_become_filters_and_weights() {
    let filters = |annotations: &[(&str, &str)]| {
        let found = converted(&[simple(annotations, "/")]);
        assert_eq!(texts(&found), Vec::<String>::new(), "{annotations:?}");
        of(&found, "HTTPRoute", "web")["rules"][0]["filters"][0].clone()
    };
    let rewrite = filters(&[("rewrite-target", "/new"), ("upstream-vhost", "inner")]);
    let path = json!({"type": "ReplaceFullPath", "replaceFullPath": "/new"});
    assert_eq!(rewrite["urlRewrite"], json!({"path": path, "hostname": "inner"}));
    let redirect = filters(&[("permanent-redirect", "https://b.com:8443$request_uri")]);
    let expected = json!({"scheme": "https", "hostname": "b.com", "port": 8443, "statusCode": 301});
    assert_eq!(redirect["requestRedirect"], expected);
    let redirect = filters(&[("temporal-redirect", "https://b.com/x"), ("temporal-redirect-code", "307")]);
    assert_eq!(redirect["requestRedirect"]["path"]["replaceFullPath"], "/x");
    assert_eq!(redirect["requestRedirect"]["statusCode"], 307);
    let cors = filters(&[("enable-cors", "true"), ("cors-allow-origin", "https://a.com, https://b.com")]);
    assert_eq!(cors["cors"]["allowOrigins"], json!(["https://a.com", "https://b.com"]));
    let mirror = filters(&[("mirror-target", "http://copies.shop.svc:81$request_uri")]);
    assert_eq!(mirror["requestMirror"]["backendRef"], json!({"name": "copies", "port": 81}));
    let session = converted(&[simple(&[("affinity", "cookie"), ("session-cookie-max-age", "60")], "/")]);
    let session = &of(&session, "HTTPRoute", "web")["rules"][0]["sessionPersistence"];
    assert_eq!(
        (&session["sessionName"], &session["absoluteTimeout"]),
        (&json!("INGRESSCOOKIE"), &json!("60s"))
    );
}

#[test]
fn a_canary_is_a_part_of_the_rule_of_another_ingress() {
    let rules = |service: &str| json!({"ingressClassName": "nginx", "rules": [rule("a.com", &[("/", "Prefix", service)])]});
    let canary = [("canary", "true"), ("canary-weight", "20"), ("canary-by-header", "X-New")];
    let all = [ingress("shop", "web", &[], rules("web")), ingress("shop", "new", &canary, rules("new"))];
    let found = converted(&all);
    let route = of(&found, "HTTPRoute", "web");
    assert_eq!(route["rules"][0]["matches"][0]["headers"], json!([{"name": "X-New", "value": "always"}]));
    assert_eq!(route["rules"][0]["backendRefs"], json!([{"name": "new", "port": 80}]));
    let weighed =
        json!([{"name": "web", "port": 80, "weight": 80}, {"name": "new", "port": 80, "weight": 20}]);
    assert_eq!(route["rules"][1]["backendRefs"], weighed);
    assert_eq!(texts(&found), Vec::<String>::new());
    let lone = converted(&all[1..]);
    assert_eq!(texts(&lone), ["shop/new: no other Ingress has its host and path: the canary is lost"]);
}

#[test]
fn a_lock_that_is_lost_leaves_no_open_route() {
    for (name, value) in [
        ("auth-url", "http://auth.shop.svc/"),
        ("whitelist-source-range", "10.0.0.0/8"),
        ("server-snippet", "deny all;"),
    ] {
        let ingresses = [simple(&[(name, value)], "/")];
        let found = converted(&ingresses);
        assert!(found.objects.is_empty(), "{name}");
        assert!(found.notes.iter().all(|note| note.is_loss) && found.notes.len() == 1, "{name}");
        let options = Options { gateway_class: "skep".into(), allow_open: true };
        assert!(!convert(&ingresses, &[], &options).objects.is_empty());
    }
    // What only tunes is noted, and what is so anyway is not.
    let found = converted(&[simple(&[("proxy-read-timeout", "5"), ("proxy-buffering", "on")], "/")]);
    assert_eq!(texts(&found), ["shop/web: proxy-read-timeout has no counterpart"]);
    assert_eq!(found.objects.len(), 2);
}

#[test]
fn patterns_and_unknown_ports_are_left_out_and_said() {
    let found = converted(&[simple(&[("use-regex", "true")], "/a/(.*)")]);
    assert!(found.objects.is_empty() || found.objects.iter().all(|object| object["kind"] == "Gateway"));
    assert!(texts(&found).iter().any(|text| text.contains("is a pattern")), "{:?}", texts(&found));
    let backend = json!({"service": {"name": "web", "port": {"name": "http"}}});
    let spec = json!({"defaultBackend": backend});
    let ingress = ingress("shop", "web", &[], spec);
    assert!(texts(&converted(std::slice::from_ref(&ingress)))[0].contains("give the Service too"));
    let service = json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": {"ports": [{"name": "http", "port": 8080}]}});
    let options = Options { gateway_class: "skep".into(), allow_open: false };
    let found = convert(&[ingress], &[serde_json::from_value(service).unwrap()], &options);
    assert_eq!(
        of(&found, "HTTPRoute", "web")["rules"][0]["backendRefs"],
        json!([{"name": "web", "port": 8080}])
    );
}

#[test]
fn passthrough_is_a_route_of_tls() {
    let found = converted(&[simple(&[("ssl-passthrough", "true")], "/")]);
    assert_eq!(of(&found, "Gateway", "nginx")["listeners"][0]["tls"]["mode"], "Passthrough");
    let route = of(&found, "TLSRoute", "web-a-com");
    assert_eq!(
        (&route["hostnames"], &route["rules"][0]["backendRefs"][0]["name"]),
        (&json!(["a.com"]), &json!("web"))
    );
}
