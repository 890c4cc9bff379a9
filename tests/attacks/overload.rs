//! More work, connections or memory than the server has: others are still served.
