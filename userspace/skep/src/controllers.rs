//! Controllers and scheduler beside the API server, on threads of their own: whatever they do, the API server accepts and
//! answers. In: a client of the API server in this process. Out: a neighbour for its health checks and metrics.

use std::sync::Arc;
use std::time::Duration;

use skep_apiserver::Neighbour;
use skep_control::{Clients, Config, Error, Health};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinSet;

const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// As many as the API server has.
const THREADS: usize = 2;

/// The threads of controllers and scheduler. They end with its drop.
pub(crate) struct Controllers {
    handle: Handle,
    runtime: Option<Runtime>,
    health: Arc<Health>,
}

impl Controllers {
    pub(crate) fn start() -> std::io::Result<Controllers> {
        let threads = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("controllers")
            .enable_all()
            .build()?;
        Ok(Controllers { handle: threads.handle().clone(), runtime: Some(threads), health: Arc::default() })
    }

    /// What the API server says about them.
    pub(crate) fn neighbour(&self) -> impl Neighbour + use<> {
        Reported(self.health.clone())
    }

    /// Runs the parts until the future is dropped; returns only if the configuration cannot be used.
    pub(crate) async fn run(&self, clients: &Clients, config: Config) -> Result<(), Error> {
        let config = Config { health: self.health.clone(), ..config };
        loop {
            // Dropped with this future: the parts end.
            let mut parts = JoinSet::new();
            parts.spawn_on(skep_control::run(clients.clone(), config.clone()), &self.handle);
            match parts.join_next().await {
                Some(Ok(ended)) => return ended,
                ended => tracing::error!(?ended, "controllers failed; they start again"),
            }
            tokio::time::sleep(RESTART_PAUSE).await;
        }
    }
}

impl Drop for Controllers {
    fn drop(&mut self) {
        // A runtime that waits for its threads must not be dropped in a task.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Reported(Arc<Health>);

impl Neighbour for Reported {
    fn check_name(&self) -> &'static str {
        "controllers"
    }

    fn is_ready(&self) -> bool {
        self.0.ready()
    }

    fn metrics(&self) -> String {
        self.0.metrics()
    }
}
