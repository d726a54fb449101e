//! Every format that crosses a trust boundary, as pure functions between bytes and types.
//!
//! Promises: nothing here reads a file, a socket or a clock; every reader has hard caps ([`limits`]); what has been verified
//! is a type of its own ([`release::Release`]) whose only constructor is the check.
//!
//! Never: ordering of versions (a [`version::Version`] is a label; [`version::Sequence`] alone orders releases), trust in
//! anything an Omaha answer says (it is advice about where to look).

pub mod digest;
pub mod foreign;
pub mod keyring;
pub mod limits;
pub mod omaha;
pub mod release;
pub mod version;
