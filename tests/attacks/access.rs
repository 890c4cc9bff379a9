//! Rights that nobody granted: escalation, impersonation, tokens, proxies.
