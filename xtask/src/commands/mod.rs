//! One file a command.

pub mod demo;
pub mod down;
pub mod fuzz;
pub mod lint;
pub mod soak;
pub mod test;
pub mod up;
