//! The CNI plugin `skep-cni`: environment and stdin in, JSON on stdout and the exit code out.

use std::io::{Read, Write};
use std::process::ExitCode;

use skep_cni::{Environment, Outcome, run};

fn main() -> ExitCode {
    let variable = |name: &str| std::env::var(name).ok();
    let environment = Environment {
        command: variable("CNI_COMMAND"),
        container_id: variable("CNI_CONTAINERID"),
        netns: variable("CNI_NETNS"),
        ifname: variable("CNI_IFNAME"),
        args: variable("CNI_ARGS"),
    };
    let mut stdin = Vec::new();
    // Without a configuration the parser reports the error.
    let _ = std::io::stdin().read_to_end(&mut stdin);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("skep-cni: starting the runtime failed: {error}");
            return ExitCode::FAILURE;
        }
    };
    let Outcome { stdout, failed } = runtime.block_on(run(&environment, &stdin));
    if let Some(value) = stdout
        && writeln!(std::io::stdout(), "{value}").is_err()
    {
        return ExitCode::FAILURE;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
