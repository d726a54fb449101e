//! The operator's side of locksmithd: what `locksmithctl` asks.

use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::meaning::{self, RawAnswer, Reading};
use super::{Asked, BaseUrl, Client, Error};
use crate::api::{GroupBody, GroupList, Held, HistoryBody, Hold, MaxChanged, NewGroup, NewMax, Unlock};
use crate::fleetlock::HolderBody;
use crate::names::{GroupName, HostId};
use crate::semaphore::Max;

/// Largest answer read, in bytes: a group of 1,000 holders with the longest names fits twice.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// A client bound to one locksmithd.
pub struct Admin<'a> {
    client: &'a Client,
    base: &'a BaseUrl,
    /// Who acts, for the history.
    by: Option<String>,
}

impl Client {
    /// Talks to the locksmithd at `base` in the name of `by`, which the server notes in the history of what is changed.
    pub fn admin<'a>(&'a self, base: &'a BaseUrl, by: Option<String>) -> Admin<'a> {
        Admin { client: self, base, by }
    }
}

impl Admin<'_> {
    /// All groups, in short.
    pub async fn groups(&self) -> Result<GroupList, Error> {
        self.get(&["v1", "groups"]).await
    }

    /// One group: holders, queue.
    pub async fn group(&self, group: &GroupName) -> Result<GroupBody, Error> {
        self.get(&["v1", "groups", group.as_str()]).await
    }

    /// What happened in a group, newest first.
    pub async fn history(&self, group: &GroupName) -> Result<HistoryBody, Error> {
        self.get(&["v1", "groups", group.as_str(), "history"]).await
    }

    /// Makes a group.
    pub async fn create_group(&self, group: &GroupName, max: Max) -> Result<GroupBody, Error> {
        let body = NewGroup { group: group.to_string(), max: max.get() };
        self.send(Method::POST, &["v1", "groups"], &body).await
    }

    /// Changes how many may hold a place.
    pub async fn set_max(&self, group: &GroupName, max: Max) -> Result<MaxChanged, Error> {
        let body = NewMax { max: max.get(), by: self.by.clone() };
        self.send(Method::PUT, &["v1", "groups", group.as_str(), "max"], &body).await
    }

    /// Takes a place in the name of a host. Asking again is answered with the same hold, but only to whom the server can
    /// tell from others.
    pub async fn hold(&self, group: &GroupName, id: &HostId) -> Result<Held, Error> {
        let body = Hold { id: id.to_string(), by: self.by.clone() };
        self.send(Method::POST, &["v1", "groups", group.as_str(), "lock"], &body).await
    }

    /// Frees a holder whatever its attempt, and answers who it was.
    pub async fn unlock(&self, group: &GroupName, id: &HostId, reason: Option<String>) -> Result<HolderBody, Error> {
        let body = Unlock { id: id.to_string(), reason, by: self.by.clone() };
        self.send(Method::POST, &["v1", "groups", group.as_str(), "unlock"], &body).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, Error> {
        let raw = self.client.transport.ask(self.base, Method::GET, path, None, MAX_ANSWER_BYTES).await?;
        self.read(path, &raw)
    }

    async fn send<B: Serialize, T: DeserializeOwned>(&self, method: Method, path: &[&str], body: &B) -> Result<T, Error> {
        let body = Asked::at(self.base, path).encode(body)?;
        let raw = self.client.transport.ask(self.base, method, path, Some(body), MAX_ANSWER_BYTES).await?;
        self.read(path, &raw)
    }

    fn read<T: DeserializeOwned>(&self, path: &[&str], raw: &RawAnswer) -> Result<T, Error> {
        let asked = Asked::at(self.base, path);
        let bad = |why| Error::BadAnswer { url: asked.url.clone(), status: raw.status, why };
        if matches!(raw.status, 200 | 201) {
            return serde_json::from_slice(&raw.body)
                .map_err(|error| bad(format!("its body is not what a locksmithd answers: {error}")));
        }
        match meaning::read(raw) {
            Reading::No(no) => Err(asked.refused(raw.status, *no)),
            Reading::Nonsense(why) => Err(bad(why)),
            Reading::Yes(_) => Err(bad("it says yes without an answer".to_owned())),
        }
    }
}
