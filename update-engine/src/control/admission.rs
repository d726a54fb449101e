//! Who may connect: so many in all, so many of one user, and always room for root.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The caps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caps {
    pub(super) total: usize,
    pub(super) per_uid: usize,
    /// Places of the total that only root and the daemon's own uid get: users that gang up cannot lock root out.
    pub(super) reserved: usize,
}

/// Counts connections by uid.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    caps: Caps,
    own_uid: u32,
    counts: Arc<Mutex<HashMap<u32, usize>>>,
}

/// A place that is given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    uid: u32,
    counts: Arc<Mutex<HashMap<u32, usize>>>,
}

impl Admission {
    pub(super) fn new(caps: Caps, own_uid: u32) -> Self {
        Self { caps, own_uid, counts: Arc::default() }
    }

    /// A place for this user, or words why there is none.
    pub(super) fn admit(&self, uid: u32) -> Result<Place, String> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = counts.values().sum();
        let own = counts.get(&uid).copied().unwrap_or(0);
        let privileged = may_act(uid, self.own_uid);
        let room = if privileged { self.caps.total } else { self.caps.total.saturating_sub(self.caps.reserved) };
        if !privileged && own >= self.caps.per_uid {
            return Err(format!("uid {uid} has {own} connections already, the most one user may have; close some"));
        }
        if total >= room {
            return Err(format!("there are {total} connections already, the most there may be; try again later"));
        }
        counts.insert(uid, own + 1);
        Ok(Place { uid, counts: Arc::clone(&self.counts) })
    }
}

/// Whether a user may act and not only read.
pub(super) fn may_act(uid: u32, own_uid: u32) -> bool {
    uid == 0 || uid == own_uid
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPS: Caps = Caps { total: 64, per_uid: 8, reserved: 8 };

    fn admission() -> Admission {
        Admission::new(CAPS, 990)
    }

    fn take(admission: &Admission, uid: u32, count: usize) -> Vec<Place> {
        (0..count).map(|_| admission.admit(uid).unwrap()).collect()
    }

    #[test]
    fn the_ninth_connection_of_one_user_is_refused_and_others_are_not() {
        let admission = admission();
        let places = take(&admission, 1000, 8);
        let refusal = admission.admit(1000).unwrap_err();
        assert_eq!(refusal, "uid 1000 has 8 connections already, the most one user may have; close some");
        assert!(admission.admit(1001).is_ok());
        drop(places);
        assert!(admission.admit(1000).is_ok());
    }

    #[test]
    fn root_and_the_daemons_own_user_may_have_more_up_to_the_total() {
        for uid in [0, 990] {
            let admission = admission();
            let _places = take(&admission, uid, 64);
            let refusal = admission.admit(uid).unwrap_err();
            assert_eq!(refusal, "there are 64 connections already, the most there may be; try again later");
        }
    }

    #[test]
    fn users_that_gang_up_cannot_lock_root_out() {
        let admission = admission();
        let _places: Vec<Vec<Place>> = (1000..1007).map(|uid| take(&admission, uid, 8)).collect();
        assert!(admission.admit(2000).unwrap_err().starts_with("there are 56 connections already"));
        let _root = take(&admission, 0, 8);
        assert!(admission.admit(0).is_err());
    }
}
