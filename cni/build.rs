//! Generates the agent's messages, client and server from `proto/agent.proto`.

fn main() -> std::io::Result<()> {
    tonic_prost_build::compile_protos("proto/agent.proto")
}
