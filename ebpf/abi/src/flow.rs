//! Flow events: what the programs tell the agent through the ring buffer `FLOWS`.
