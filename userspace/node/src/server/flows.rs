//! /flows: the network's flow log.
//!
//! In: a query ([`skep_api::flow_log::FlowQuery`]). Out: lines of JSON, for as long as the query says.

use futures::StreamExt as _;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use super::answer::{Body, answer, text};
use crate::context::NodeContext;

pub(super) fn serve(context: &NodeContext, query: &str) -> Response<Body> {
    let Some(flows) = &context.others.flows else {
        return text(StatusCode::NOT_FOUND, "this agent has no flow log");
    };
    match flows(query) {
        Ok(lines) => {
            let frames = lines.map(|line| Ok(Frame::data(line.into())));
            answer(StatusCode::OK, "application/x-ndjson", BodyExt::boxed(StreamBody::new(frames)))
        }
        Err(error) => text(StatusCode::BAD_REQUEST, error.to_string()),
    }
}
