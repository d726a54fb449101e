//! What the daemon is doing, why, what comes next and when (P14): one document, shared by the socket and the command.

pub mod json;
mod sentence;
pub mod view;
pub mod why;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod tests;
