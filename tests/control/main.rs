//! Controllers and scheduler against the real API server with its embedded store, all in this process.

mod cluster;
mod controllers;
mod quotas;
mod scheduler;
mod services;
