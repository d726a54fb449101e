//! The publisher's side of updates.
//!
//! | module | does |
//! | --- | --- |
//! | [`publisher`] | makes, signs, checks and explains releases: plain files in, plain files out |
//! | [`releasectl`] | the command `releasectl`: arguments, progress, words and exit codes around [`publisher`] |
//!
//! Promises: the same input gives the same bytes; a file that is written appears whole or not at all; a private key file
//! is never overwritten. Never: a private key on a server, or a network connection from [`publisher`].

mod filesystem;
pub mod publisher;
pub mod releasectl;
