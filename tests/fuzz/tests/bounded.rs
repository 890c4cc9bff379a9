//! The fuzz targets' bodies, bounded: generated input that is nearly right, and the worst that is known.

use proptest::prelude::*;

/// Any JSON, with the words that the API gives a meaning.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let word = prop_oneof![
        prop::sample::select(vec![
            "metadata",
            "name",
            "spec",
            "template",
            "containers",
            "labels",
            "annotations",
            "data",
            "$patch",
            "$retainKeys",
            "$setElementOrder/containers",
            "$deleteFromPrimitiveList/finalizers",
            "delete",
            "replace",
            "merge",
            "op",
            "path",
            "from",
            "value",
            "add",
            "copy",
            "move",
            "/data/a",
            "/data/-",
            "target",
            "v1",
            "ConfigMap",
            "apiVersion",
            "kind",
        ])
        .prop_map(str::to_owned),
        ".{0,6}",
    ];
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        word.clone().prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::vec((word.clone(), inner), 0..6)
                .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// JSON patches whose operations are well formed.
fn operations() -> impl Strategy<Value = serde_json::Value> {
    let path = prop::sample::select(vec![
        "",
        "/data",
        "/data/a",
        "/data/b",
        "/metadata/labels",
        "/metadata",
        "/data/a/b",
        "/x",
    ]);
    let operation = (
        prop::sample::select(vec!["add", "remove", "replace", "move", "copy", "test"]),
        path.clone(),
        path,
        json(),
    );
    prop::collection::vec(operation, 0..8).prop_map(|all| {
        let all = all.into_iter();
        all.map(|(op, path, from, value)| serde_json::json!({"op": op, "path": path, "from": from, "value": value})).collect()
    })
}

/// What expressions are made of.
const WORDS: [&str; 44] = [
    "self",
    ".spec",
    ".list",
    ".map",
    ".big",
    ".none",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "+",
    "-",
    "*",
    "/",
    "%",
    "==",
    "<",
    "in",
    "&&",
    "||",
    "!",
    "?",
    ":",
    ",",
    ".all(x, ",
    ".map(x, ",
    ".exists_one(x, ",
    ".filter(x, ",
    "x",
    "1",
    "9223372036854775807",
    "-1.5e300",
    "'a'",
    "b'\\xff'",
    "has(",
    ".?",
    "size(",
    "duration('1h')",
    "timestamp('2026-01-01T00:00:00Z')",
    ".matches('",
    "')",
    ".substring(",
];

/// A frame of HTTP/2 (RFC 9113, 4.1): any kind and flags, few streams, and a length that is usually right.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        // The head of a CONNECT request to 10.0.0.1:80 and of an answer, without Huffman codes or indexing.
        Just(b"\x02\x07CONNECT\x01\x0b10.0.0.1:80".to_vec()),
        Just(vec![0x88]),
    ];
    let is_right = prop::bool::weighted(0.9);
    (payload, 0u8..11, any::<u8>(), 0u8..5, is_right).prop_map(|(payload, kind, flags, stream, is_right)| {
        let length = payload.len() + usize::from(!is_right);
        let length = u8::try_from(length).unwrap_or(u8::MAX);
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload.as_slice()].concat()
    })
}

/// What Corefiles are made of.
const COREFILE: [&str; 24] = [
    ".:53 ",
    "example.org:1053 ",
    "{\n",
    "}\n",
    "\n",
    " ",
    "kubernetes cluster.local ",
    "forward . ",
    "10.0.0.1 ",
    "tls://10.0.0.1 ",
    "/etc/resolv.conf ",
    "cache 30 ",
    "hosts ",
    "192.0.2.7 web",
    "fallthrough",
    "rewrite name ",
    "exact ",
    "suffix ",
    "web. ",
    "example.org ",
    "pods insecure",
    "autopath @kubernetes",
    "nameserver ",
    "#",
];

/// A name, type and class, and sometimes TTL and data, as in a packet (RFC 1035, 3.2.1): labels and pointers, mostly right.
fn dns_record() -> impl Strategy<Value = Vec<u8>> {
    let label = prop_oneof![
        4 => "[a-z]{1,9}".prop_map(|text| [&[text.len() as u8], text.as_bytes()].concat()),
        1 => any::<[u8; 3]>().prop_map(|bytes| [&[3], &bytes[..]].concat()),
    ];
    let end = prop_oneof![
        3 => Just(vec![0]),
        2 => (0u8..80).prop_map(|at| vec![0xc0, at]),
        1 => any::<[u8; 2]>().prop_map(Vec::from),
    ];
    let name =
        (prop::collection::vec(label, 0..5), end).prop_map(|(labels, end)| [labels.concat(), end].concat());
    let kind =
        prop::sample::select(vec![1u8, 2, 5, 6, 12, 15, 16, 28, 33, 39, 41, 46, 64, 65, 251, 252, 255]);
    let class = prop::sample::select(vec![1u8, 3, 254, 255]);
    let data =
        prop_oneof![Just(vec![10, 0, 0, 1]), Just(vec![0xc0, 12]), prop::collection::vec(any::<u8>(), 0..40)];
    (name, kind, class, prop::option::of(data)).prop_map(|(name, kind, class, data)| {
        let head = [&name[..], &[0, kind, 0, class]].concat();
        match data {
            Some(data) => [&head[..], &[0, 0, 0, 30, 0, data.len() as u8], &data].concat(),
            None => head,
        }
    })
}

/// What responses of HTTP/1 are made of.
const RESPONSE: [&str; 20] = [
    "Content-Length: 2\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: +2\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: x\r\n",
    "Connection: close\r\n",
    "X-Y: z\r\n",
    " folded\r\n",
    "\r\n",
    "\r",
    "\n",
    "2\r\n",
    "0\r\n",
    "a;b=\"c\"\r\n",
    "ok",
    "ok\r\n",
    "ffffffffffffffff\r\n",
    "HTTP/1.1 200 OK\r\n",
    "0\r\n\r\n",
    "A: b\r\n\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn json_bodies(value in json(), raw: Vec<u8>) {
        skep_fuzz::json_body(value.to_string().as_bytes());
        skep_fuzz::json_body(&raw);
    }

    #[test]
    fn protobuf_bodies(raw: Vec<u8>) {
        skep_fuzz::protobuf_body(&raw);
    }

    #[test]
    fn patches(value in json(), operations in operations(), raw: Vec<u8>) {
        skep_fuzz::patch(value.to_string().as_bytes());
        skep_fuzz::patch(operations.to_string().as_bytes());
        skep_fuzz::patch(&raw);
    }

    #[test]
    fn tunnels(frames in prop::collection::vec(frame(), 0..12), raw: Vec<u8>) {
        skep_fuzz::tunnel_agent(&frames.concat());
        skep_fuzz::tunnel_agent(&raw);
        skep_fuzz::tunnel_server(&frames.concat());
        skep_fuzz::tunnel_server(&raw);
    }

    #[test]
    fn dns_questions(
        header in any::<[u8; 4]>(),
        question in dns_record(),
        more in prop::collection::vec(dns_record(), 0..3),
        raw: Vec<u8>,
    ) {
        // One question, and the rest as additional records.
        let counts = [0, 1, 0, 0, 0, 0, 0, more.len() as u8];
        for header in [header, [0, 7, 1, 0]] {
            skep_fuzz::dns_question(&[&header[..], &counts, &question, &more.concat()].concat());
        }
        skep_fuzz::dns_question(&raw);
    }

    #[test]
    fn dns_answers(counts in any::<[u8; 6]>(), records in prop::collection::vec(dns_record(), 0..6), raw: Vec<u8>) {
        skep_fuzz::dns_answer(&[&counts[..], &records.concat()].concat());
        skep_fuzz::dns_answer(&raw);
    }

    #[test]
    fn dns_settings(words in prop::collection::vec(0..COREFILE.len(), 0..30), raw: Vec<u8>) {
        let text: String = words.into_iter().map(|at| COREFILE[at]).collect();
        skep_fuzz::dns_settings(text.as_bytes());
        skep_fuzz::dns_settings(&raw);
    }

    #[test]
    fn selectors(text in "[a-z!=(), .<>/]{0,30}", raw: Vec<u8>) {
        skep_fuzz::selector(text.as_bytes());
        skep_fuzz::selector(&raw);
    }

    #[test]
    fn routes(host in "[a-b.*:\\[\\]]{0,6}", path in "(/|\\.|%2[ef]|%5c|;|a|b|[^ ]){0,12}", query in "(\\?[ab=&%+]{0,6})?", raw: Vec<u8>) {
        skep_fuzz::route(format!("{host}\n/{path}{query}\nGET").as_bytes());
        skep_fuzz::route(&raw);
    }

    #[test]
    fn endpoint_responses(words in prop::collection::vec(0..RESPONSE.len(), 0..12), raw: Vec<u8>) {
        let text: String = words.into_iter().map(|at| RESPONSE[at]).collect();
        skep_fuzz::endpoint_response(format!("HTTP/1.1 200 OK\r\n{text}").as_bytes());
        skep_fuzz::endpoint_response(&raw);
    }

    #[test]
    fn expressions(words in prop::collection::vec(0..WORDS.len(), 0..20), raw: Vec<u8>) {
        let text: String = words.into_iter().map(|at| WORDS[at]).collect();
        skep_fuzz::cel(text.as_bytes());
        skep_fuzz::cel(&raw);
    }

    #[test]
    fn queries(text in "((limit|continue|watch|labelSelector|fieldSelector|resourceVersion|resourceVersionMatch|timeoutSeconds|fieldValidation|sendInitialEvents|hash|verbose|exclude|%)=?[a-z0-9=%,!+-]{0,8}&?){0,5}", raw: Vec<u8>) {
        skep_fuzz::query(text.as_bytes());
        skep_fuzz::query(&raw);
    }
}

#[test]
fn a_patch_may_leave_anything() {
    for whole in
        ["null", "1", "\"a\"", "[]", "[[]]", "{}", "{\"metadata\":[]}", "{\"metadata\":{\"labels\":[]}}"]
    {
        skep_fuzz::patch(whole.as_bytes());
        for path in ["", "/metadata", "/metadata/labels", "/metadata/managedFields", "/data", "/kind"] {
            for op in ["add", "replace"] {
                let patch = format!("[{{\"op\":\"{op}\",\"path\":\"{path}\",\"value\":{whole}}}]");
                skep_fuzz::patch(patch.as_bytes());
            }
        }
    }
}

#[test]
fn nothing_recurses_without_bound() {
    let deep = |open: &str, middle: &str, close: &str, count: usize| {
        format!("{}{middle}{}", open.repeat(count), close.repeat(count)).into_bytes()
    };
    for count in [100, 126, 127, 500, 20_000] {
        for body in [
            deep("[", "", "]", count),
            deep("{\"a\":", "1", "}", count),
            deep("{\"metadata\":{\"name\":\"deep\"},\"revision\":1,\"data\":", "{}", "}", 1),
            deep("- ", "a", "", count),
        ] {
            skep_fuzz::json_body(&body);
            skep_fuzz::patch(&body);
        }
        let held = String::from_utf8(deep("{\"a\":", "1", "}", count)).unwrap();
        let revision = format!(
            r#"{{"apiVersion":"apps/v1","kind":"ControllerRevision","metadata":{{"name":"deep"}},"revision":1,"data":{held}}}"#
        );
        skep_fuzz::json_body(revision.as_bytes());
        skep_fuzz::patch(format!(r#"{{"data":{held}}}"#).as_bytes());
    }
    // Message in message: the field that is a message of its own kind.
    let mut nested = Vec::new();
    for _ in 0..2_000 {
        let mut outer = vec![2 << 3 | 2];
        let mut length = nested.len();
        while length >= 0x80 {
            outer.push(length as u8 | 0x80);
            length >>= 7;
        }
        outer.push(length as u8);
        outer.append(&mut nested);
        nested = outer;
    }
    skep_fuzz::protobuf_body(&nested);
    for text in ["(", "[", "{", "!", "-", "a.", "a?b:", "a.map(x,", "1+", "'"] {
        skep_fuzz::cel(text.repeat(20_000).as_bytes());
    }
    skep_fuzz::selector(&b"(".repeat(100_000));
    skep_fuzz::selector(&b"a in (".repeat(10_000));
}
