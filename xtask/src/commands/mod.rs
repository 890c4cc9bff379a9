//! One file a command.

pub mod demo;
pub mod diff;
pub mod down;
pub mod fuzz;
pub mod lint;
pub mod soak;
pub mod test;
pub mod up;
