//! The flags of the audit log, with kube-apiserver's names. Out: an open audit log.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use skep_apiserver::{Audit, AuditPolicy, LogOptions};

#[derive(clap::Args)]
pub(super) struct AuditFlags {
    /// File with the audit.k8s.io/v1 Policy that selects the requests to record
    #[arg(long, requires = "audit_log_path")]
    audit_policy_file: Option<PathBuf>,
    /// File of the audit log, one JSON event a line; `-` is standard output
    #[arg(long, requires = "audit_policy_file")]
    audit_log_path: Option<PathBuf>,
    /// Days to keep old audit logs; 0: no limit
    #[arg(long, default_value_t = 366)]
    audit_log_maxage: u32,
    /// Number of old audit logs to keep; 0: no limit
    #[arg(long, default_value_t = 100)]
    audit_log_maxbackup: usize,
    /// Megabytes of an audit log before it is rotated; 0: no limit
    #[arg(long, default_value_t = 100)]
    audit_log_maxsize: u64,
    /// Compress old audit logs with gzip
    #[arg(long)]
    audit_log_compress: bool,
}

impl AuditFlags {
    pub(super) fn open(&self) -> Result<Option<Audit>> {
        let AuditFlags {
            audit_policy_file,
            audit_log_path,
            audit_log_maxage,
            audit_log_maxbackup,
            audit_log_maxsize,
            audit_log_compress,
        } = self;
        let (Some(file), Some(path)) = (audit_policy_file, audit_log_path) else { return Ok(None) };
        let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let policy = AuditPolicy::parse(&text).map_err(|why| anyhow!("{}: {why}", file.display()))?;
        let options = LogOptions {
            path: path.clone(),
            max_age: *audit_log_maxage,
            max_backups: *audit_log_maxbackup,
            max_size: *audit_log_maxsize,
            compress: *audit_log_compress,
        };
        let audit = Audit::new(policy, options).with_context(|| format!("open {}", path.display()))?;
        Ok(Some(audit))
    }
}
