//! The control socket: how people and programs ask the daemon what it does, and tell it what to do.
//!
//! HTTP/1.1 with JSON over a Unix socket, so that `curl --unix-socket PATH http://localhost/v1/status` works:
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/history` | list of [`HistoryEntry`], newest first |
//! | `GET /v1/why` | list of [`WhyEntry`], in the order the gates are asked |
//! | `GET /v1/slots` | the slots of the status |
//! | `GET /v1/kernel-log` | [`WholeKernelLog`] or `null`; for whoever may act: a kernel's log is not for every user of a host |
//! | `GET /v1/config` | the effective configuration as TOML, without credentials |
//! | `GET /v1/events` | server-sent events, each an [`EventLine`] |
//! | `GET /metrics` | Prometheus text |
//! | `POST /v1/VERB` | 202 and [`Accepted`], or 409 and [`Rejected`] (503 if it cannot be written down); the body has the fields of the [`Command`], or is empty |
//!
//! Every other answer than 200 and 202 has a body like [`Rejected`]: `{"code": …, "message": …}`.
//!
//! Promises: reading (but for the kernel's log) is for everyone, acting for uid 0 and the daemon's own uid, as the kernel tells who connected; at most
//! 64 connections, 8 of one ordinary user, with places kept for root; whoever does not read is dropped; memory is bounded
//! whatever is sent.
//!
//! Never: decides anything. A command goes to the engine and its answer comes back; documents are shown as they are given.

mod admission;
pub mod client;
mod guard;
mod metrics;
mod routes;
mod server;

use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::engine::command::{Accepted, Command, Rejected};
use crate::status::json::{EventLine, HistoryEntry, Status, WholeKernelLog, WhyEntry};

pub use server::{ControlError, Limits, Server};

/// What the daemon gives the socket: documents to show, and a way to pass commands on.
#[derive(Debug, Clone)]
pub struct ControlHandle {
    /// `GET /v1/status`, `/v1/slots` and `/metrics`.
    pub status: watch::Receiver<Arc<Status>>,
    /// `GET /v1/history`.
    pub history: watch::Receiver<Arc<Vec<HistoryEntry>>>,
    /// `GET /v1/why`.
    pub why: watch::Receiver<Arc<Vec<WhyEntry>>>,
    /// `GET /v1/kernel-log`.
    pub kernel_log: watch::Receiver<Arc<Option<WholeKernelLog>>>,
    /// `GET /v1/config`: without credentials.
    pub config_text: Arc<str>,
    /// `GET /v1/events`. A reader that falls behind by its capacity is dropped.
    pub events: broadcast::Sender<EventLine>,
    /// Where commands go.
    pub commands: mpsc::Sender<Request>,
    /// Where to ask for documents of this moment: they tell how long something takes from now on.
    pub refresh: mpsc::Sender<oneshot::Sender<()>>,
}

/// A command and who gave it.
#[derive(Debug)]
pub struct Request {
    /// What is asked for.
    pub command: Command,
    /// By whom, as the kernel says. Already found to be allowed to act.
    pub uid: u32,
    /// Where the answer goes. It is expected within [`Limits::reply`]; what was asked for may take as long as it takes.
    pub reply: oneshot::Sender<Result<Accepted, Rejected>>,
}

/// The verbs of `POST /v1/VERB`: the names of [`Command`]'s variants.
pub const VERBS: [&str; 13] = [
    "check", "update", "reboot", "rollback", "confirm", "pause", "resume", "cancel", "install", "verify", "adopt", "channel",
    "limit",
];
